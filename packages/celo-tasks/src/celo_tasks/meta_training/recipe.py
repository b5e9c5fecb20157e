"""What a meta-training is made of: the configs of its parts, as one. Recipes in TOML are `celo_tasks.meta_training.recipe_files`.

Source of the defaults: Celo (arXiv 2501.12670, section 4).
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from celo_core import LearnedOptimizer, MetaTrainConfig, TruncatedPES, configs, get_architecture
from celo_core.estimators import Estimator
from celo_tasks.meta_training import recipe_files


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What is meta-trained.

    Attributes:
      name: known to `celo_core.get_architecture`, other packages' included.
      config: the JSON form of its config; fields left out take their defaults.
    """

    name: str = "celo"
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Problems:
    """What it is meta-trained on.

    Attributes:
      families: antithetic pairs of problems of each family, by its name in `celo_tasks.meta_training.families` or in another
        package's entry points; for estimators without pairs, half the number of problems.
      datasets: image sets, see `celo_tasks.datasets`; ``None`` for the paper's where they are on the machine, else those in the
        package.
      text: what the families of language models read, see `celo_tasks.datasets.load_text`.
      augmentation: levels of task augmentation, see `celo_tasks.families.reparametrize`.
      zeros_follow: whether augmentation spares what begins as zeros, see `celo_tasks.families.Reparametrized`; for update rules
        that derive the scale of such tensors from the others.
      objective: of what the mean over a problem's steps is minimised, ``"loss"`` or ``"log_loss"`` (see
        `celo_tasks.families.LogLoss`); families whose losses differ in size want the latter.
      floor: lower bound on losses of which the logarithm is taken.
    """

    families: Mapping[str, int] = dataclasses.field(default_factory=lambda: {"mlp": 32})
    datasets: tuple[str, ...] | None = None
    text: str = "shakespeare"
    augmentation: tuple[str, ...] = ("global", "tensor", "parameter")
    zeros_follow: bool = False
    objective: str = "loss"
    floor: float = 1e-2

    def __post_init__(self) -> None:
        if not self.families or min(self.families.values()) < 1:
            raise ValueError(
                f"problems need families, each with at least 1 antithetic pair, not {dict(self.families)}."
            )
        if not 0 < self.floor < math.inf:
            raise ValueError(f"floor must be a positive number, of which there is a logarithm, not {self.floor}.")


@dataclasses.dataclass(frozen=True)
class Phase:
    """A phase of meta-training; the theta of earlier phases that it does not train is frozen.

    Attributes:
      trains: groups of theta, such as ``"update_rule"``; empty for all.
      replaces: fields of the architecture's config that are others in this phase, in JSON form: Celo's update rule is trained
        with ``scheduler = "none"``, a multiplier of 1.
      training: the meta-optimizer and the length of the phase; its seed is added to the recipe's.
      late_weight: how much more the end of a problem's trajectory weighs than its beginning, for estimators on truncated
        unrolls: see `celo_core.TruncatedPES`.
      meta_optimizer: ``"module:function"`` that, called with the number of iterations, returns the Optax optimizer to use in
        place of AdamW; ``None`` for AdamW. If it has a parameter ``learning_rate``, it is given the schedule that ``training``
        says. `celo_tasks.meta_training.optimizers` has one for evolution strategies.
      problems: of this phase, ``None`` for the recipe's.
      estimator: of this phase, ``None`` for the recipe's.
    """

    trains: tuple[str, ...] = ()
    replaces: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    training: MetaTrainConfig = MetaTrainConfig()
    late_weight: float = 0.0
    meta_optimizer: str | None = None
    problems: Problems | None = None
    estimator: Estimator | None = None


def _paper_phases() -> dict[str, Phase]:
    return {
        "update_rule": Phase(("update_rule",), {"scheduler": "none"}),
        "scheduler": Phase(("scheduler",), training=MetaTrainConfig(seed=1)),
    }


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A whole meta-training. The defaults are the paper's (arXiv 2501.12670, section 4).

    Attributes:
      architecture: what is meta-trained.
      problems: on what.
      estimator: of the meta-gradient; its number of problems is that of each family.
      phases: one after the other, by name, which is the name of a phase's folder. The paper's by default; in TOML, of another
        architecture than "celo", one phase "all" that trains all of it.
      warm_start: a theta.npz, each part of which the phase that trains it begins with, the checkpoint.npz of a first phase, or
        the name of a pretrained optimizer, see `celo_tasks.evaluation.optimizers.load_pretrained`; ``None`` for random
        beginnings.
      seed: of everything random.
    """

    architecture: Architecture = Architecture()
    problems: Problems = Problems()
    estimator: Estimator = TruncatedPES()
    phases: Mapping[str, Phase] = dataclasses.field(default_factory=_paper_phases)
    warm_start: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.phases:
            raise ValueError("a recipe needs at least one phase.")
        for name in self.phases:
            if not re.fullmatch(r"\w[\w-]*", name):
                raise ValueError(f"a phase is named as a folder, by letters, digits, _ and -, not {name!r}.")

    def learned_optimizer(self, phase: str | None = None) -> LearnedOptimizer:
        """The architecture, with its config of a phase.

        Raises:
          ValueError: it is unknown, or the config does not fit it; one sentence that names the field.
        """
        default = get_architecture(self.architecture.name)
        replaced = {} if phase is None else self.phases[phase].replaces
        where = "recipe.architecture.config" if phase is None else f"recipe.phases.{phase}.replaces"
        config: Any = configs.from_json(default.config_class, {**self.architecture.config, **replaced}, where)
        return get_architecture(self.architecture.name, config)

    def problems_of(self, phase: str) -> Problems:
        """Those of a phase."""
        return self.phases[phase].problems or self.problems

    def estimator_of(self, phase: str) -> Estimator:
        """That of a phase."""
        return self.phases[phase].estimator or self.estimator

    def settings(self) -> dict[str, Any]:
        """What differs from the defaults, in JSON form: what identifies a run, whatever later versions add."""
        return configs.to_json(self, defaults=False)


def load(reference: str, settings: Sequence[str] = ()) -> Recipe:
    """A recipe by name or file, with some settings changed.

    Args:
      reference: as of `celo_tasks.meta_training.recipe_files.text`.
      settings: as of `celo_tasks.meta_training.recipe_files.change`.

    Raises:
      ValueError: there is none, or it makes no sense; one sentence that names the field and what it takes.
    """
    recipe = _from_tables(recipe_files.read(reference))
    if settings:
        recipe = _from_tables(recipe_files.change(whole(recipe), settings))
    recipe.learned_optimizer()
    for phase in recipe.phases:
        recipe.learned_optimizer(phase)
    # What was written of a config, its defaults or not, is no other recipe.
    config = configs.to_json(recipe.learned_optimizer().config, defaults=False)
    return dataclasses.replace(recipe, architecture=Architecture(recipe.architecture.name, config))


def _from_tables(tables: Mapping[str, Any]) -> Recipe:
    recipe = configs.from_json(Recipe, tables, "recipe")
    if "phases" not in tables and recipe.architecture.name != Recipe().architecture.name:
        return dataclasses.replace(recipe, phases={"all": Phase()})
    return recipe


def whole(recipe: Recipe) -> dict[str, Any]:
    """The JSON form of a recipe with every field, those of the architecture's config included."""
    found = configs.to_json(recipe)
    return {
        **found,
        "architecture": {**found["architecture"], "config": configs.to_json(recipe.learned_optimizer().config)},
    }


def with_iterations(recipe: Recipe, iterations: int) -> Recipe:
    """The recipe with another number of meta-iterations in every phase."""
    longer = lambda phase: dataclasses.replace(
        phase, training=dataclasses.replace(phase.training, iterations=iterations)
    )
    return dataclasses.replace(recipe, phases={name: longer(phase) for name, phase in recipe.phases.items()})


def with_datasets(recipe: Recipe, datasets: tuple[str, ...] | None, default: Callable[[], tuple[str, ...]]) -> Recipe:
    """The recipe with its image sets named.

    Args:
      recipe: the recipe.
      datasets: those of all problems, ``None`` for what each of them says.
      default: makes those of problems that say nothing, if there are any.
    """
    chosen: tuple[str, ...] | None = None

    def named(problems: Problems) -> Problems:
        nonlocal chosen
        if datasets is None and problems.datasets is not None:
            return problems
        chosen = chosen or datasets or default()
        return dataclasses.replace(problems, datasets=chosen)

    phases = {
        name: phase if phase.problems is None else dataclasses.replace(phase, problems=named(phase.problems))
        for name, phase in recipe.phases.items()
    }
    return dataclasses.replace(recipe, problems=named(recipe.problems), phases=phases)
