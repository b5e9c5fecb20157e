"""Runs the phases of a recipe one after the other: what ``celo-tasks meta-train`` does.

Source: Celo (arXiv 2501.12670, section 4).
"""

import dataclasses
import inspect
import os
import pathlib
import re
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from celo_core import (
    FrozenPart,
    GradientEstimator,
    LearnedOptimizer,
    MeanOfEstimators,
    MetaTrainer,
    configs,
    files,
    run_phase,
)
from celo_core.checks import check_choice, flatten_theta, nearest
from celo_core.estimators import DecayingSigma
from celo_core.meta_training import checkpoints
from celo_core.meta_training.run import checkpoint_theta
from celo_tasks.evaluation import optimizer_specs
from celo_tasks.evaluation.optimizers import load_pretrained
from celo_tasks.families import LogLoss, reparametrize
from celo_tasks.meta_training import recipe_files
from celo_tasks.meta_training.families import Sources, check_family_name, make_family
from celo_tasks.meta_training.monitoring import MetaReport
from celo_tasks.meta_training.provenance import FORMAT, data_digest, described, provenance
from celo_tasks.meta_training.recipe import Problems, Recipe, whole

OLD_LAYOUT = (
    "{} was written by an earlier version: finish its run with the version that began it, and `celo-zoo convert RUN --out FOLDER` "
    "makes weights of a finished one that this version reads."
)


def meta_train(
    recipe: Recipe,
    folder: str | os.PathLike[str],
    *,
    phases: Sequence[str] | None = None,
    data_dir: str | None = None,
    minutes: float | None = None,
    stop: Callable[[], bool] = lambda: False,
    command: str | None = None,
    devices: Sequence[Any] | None = None,
    on_divergence: str = "report",
    validate_every: int = 0,
    tensorboard: str | None = None,
) -> dict[str, Any] | None:
    """Runs the phases one after the other, each resumed where its checkpoint in ``folder`` left it.

    Args:
      recipe: settings; a folder belongs to one recipe.
      folder: run folder: one for each phase, with ``checkpoint.npz``, ``log.jsonl``, plots and, if validated,
        ``validation.jsonl``; ``recipe.toml``; and when all is done ``theta.npz`` and ``run.json``.
      phases: which of them to run; all by default.
      data_dir: folder with prepared arrays, or ``None``.
      minutes: stop (with a checkpoint) after this long.
      stop: asked between blocks of iterations, and during validation; if it returns true, the run stops with a checkpoint,
        after no more validation and before another phase.
      command: recorded as provenance.
      devices: devices to split the problems over; by default as many as divide their number.
      on_divergence: see `celo_core.run_phase`.
      validate_every: meta-iterations between validations (see `celo_tasks.meta_training.validation`); 0 for none.
      tensorboard: folder for TensorBoard; ``None`` for none.

    Returns:
      The theta of the phases done (all make a whole), or ``None`` if the run was stopped before the end of the last phase
      asked for.

    Raises:
      ValueError: settings contradict each other or do not fit the folder's checkpoint, a phase lacks the theta of one before,
        or the folder is of an earlier version.
      OSError: the folder cannot be written to.
      FloatingPointError: see `celo_core.run_phase`.
    """
    folder = pathlib.Path(folder)
    chosen = tuple(recipe.phases) if phases is None else tuple(phases)
    for phase in chosen:
        check_choice("phase", phase, tuple(recipe.phases))
    problems = _LoadedProblems(data_dir)
    warm = {} if recipe.warm_start is None else _warm_start(recipe)
    _check(recipe, set(warm))
    settings = recipe.settings()
    if warm:
        # What it begins with, not where that lay.
        settings["warm_start"] = data_digest([flatten_theta(warm)])
    writes = jax.process_index() == 0
    trained = {group for phase in recipe.phases for group in _trains(recipe, phase)}
    theta = {group: values for group, values in warm.items() if group not in trained}
    has_run = False
    names = list(recipe.phases)
    for number, phase in enumerate(names[: names.index(chosen[-1]) + 1]):
        families, arrays = problems.load(recipe, phase)
        identity = {"recipe": settings, "data": data_digest(arrays)}
        path = folder / phase / "theta.npz"
        if phase in chosen and not path.exists():
            if has_run and stop():
                return None
            has_run = True
            trainer = _trainer(recipe, phase, theta, families, arrays, devices)
            if writes:
                print(f"phase {number + 1} of {len(names)}: {phase.replace('_', ' ')}", file=sys.stderr)
            begin = time.monotonic()
            watched = MetaReport(folder, phase, trainer.estimator.architecture, validate_every, tensorboard, stop)
            if writes and not (folder / "recipe.toml").exists():
                files.write_bytes(folder / "recipe.toml", recipe_files.write(whole(recipe)).encode())
            with watched as watch:
                state = run_phase(
                    trainer,
                    folder / phase,
                    theta=_beginning(recipe, phase, theta, warm),
                    minutes=minutes,
                    stop=stop,
                    metadata=identity,
                    on_divergence=on_divergence,
                    watch=watch,
                )
            minutes = None if minutes is None else max(0.0, minutes - (time.monotonic() - begin) / 60)
            if int(state.iteration) < recipe.phases[phase].training.iterations:
                return None
            if writes:
                checkpoints.save_theta(
                    path, jax.device_get(state.average), {**identity, **described(trainer.estimator.architecture)}
                )
            _wait_for_all(phase)
        if not path.exists():
            raise ValueError(f"there is no {path}: run the phase {phase} in this folder first.")
        if checkpoints.load_metadata(path).get("format_version", 2) < FORMAT:
            raise ValueError(OLD_LAYOUT.format(path))
        theta |= checkpoints.load_theta(path)
    done = {group: theta[group] for group in _groups(recipe.learned_optimizer()) if group in theta}
    if writes and chosen[-1] == names[-1] and set(done) == _groups(recipe.learned_optimizer()):
        files.write_json(folder / "run.json", provenance(recipe, folder, data_dir, problems.data, command))
        identity = {"recipe": settings, "data": data_digest(problems.data)}
        checkpoints.save_theta(folder / "theta.npz", done, {**identity, **described(recipe.learned_optimizer())})
    return done if chosen[-1] == names[-1] else theta


def _groups(architecture: LearnedOptimizer) -> set[str]:
    """The groups of an architecture's theta."""
    return set(jax.eval_shape(architecture.init, jax.random.key(0)))


def _trains(recipe: Recipe, phase: str) -> tuple[str, ...]:
    """The groups of theta that a phase trains."""
    return recipe.phases[phase].trains or tuple(sorted(_groups(recipe.learned_optimizer(phase))))


def _check(recipe: Recipe, warm: Collection[str]) -> None:
    """Raises ValueError for what would be found out only in a later phase; ``warm`` are the groups of a warm start."""
    known = set(warm)
    for name, phase in recipe.phases.items():
        groups, trains = _groups(recipe.learned_optimizer(name)), set(_trains(recipe, name))
        if unknown := sorted(trains - groups):
            raise ValueError(
                f"phases.{name}.trains: the theta of {recipe.architecture.name} has no {unknown[0]!r} in this phase"
                f"{nearest(unknown[0], groups)}: choose from {', '.join(sorted(groups))}."
            )
        if missing := sorted(groups - trains - known):
            raise ValueError(
                f"the phase {name} needs {missing[0]}: let an earlier phase train it, name it in phases.{name}.trains, or give "
                "a warm start that has it."
            )
        known |= trains
        estimator = recipe.estimator_of(name)
        if phase.late_weight and "late_weight" not in configs.to_json(estimator):
            raise ValueError(
                f"the estimator {estimator.type} weighs all steps alike: leave out phases.{name}.late_weight."
            )
        for family in recipe.problems_of(name).families:
            check_family_name(family)
        if phase.meta_optimizer is not None:
            optimizer_specs.imported(phase.meta_optimizer)
    if missing := sorted(_groups(recipe.learned_optimizer()) - known):
        raise ValueError(f"no phase trains {missing[0]}, a part of the theta of {recipe.architecture.name}: add one.")


def _wait_for_all(name: str) -> None:
    """With several processes, waits until all are here: what the first one has written is then there for the others."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


class _LoadedProblems:
    """Families and their data, loaded once where phases share them."""

    def __init__(self, data_dir: str | None) -> None:
        self._data_dir = data_dir
        self._loaded: list[tuple[Any, tuple[list[Any], list[Any]]]] = []

    @property
    def data(self) -> list[Any]:
        """All that was loaded."""
        return [arrays for _, (_, loaded) in self._loaded for arrays in loaded]

    def load(self, recipe: Recipe, phase: str) -> tuple[list[Any], list[Any]]:
        """The families that a phase's problems are drawn from, augmented and with their objective, and the data of each."""
        problems, estimator = recipe.problems_of(phase), recipe.estimator_of(phase)
        held_out = configs.to_json(estimator).get("meta_loss") == "held_out"
        wanted = (problems, held_out)
        for known, loaded in self._loaded:
            if known == wanted:
                return loaded
        families = _families(problems, held_out, self._data_dir)
        self._loaded.append((wanted, (families, [family.load() for family in families])))
        return self._loaded[-1][1]


def _families(problems: Problems, held_out: bool, data_dir: str | None) -> list[Any]:
    check_choice("objective", problems.objective, ("loss", "log_loss"))
    if problems.datasets is None:
        raise ValueError("problems.datasets says which image sets there are: name them.")
    sources = Sources(problems.datasets, problems.text, data_dir, held_out=held_out)
    families = []
    for name in problems.families:
        made = make_family(name, sources)
        family = reparametrize(made, problems.augmentation, zeros_follow=problems.zeros_follow)
        families.append(LogLoss(family, problems.floor) if problems.objective == "log_loss" else family)
    return families


def _trained(recipe: Recipe, phase: str, theta: Mapping[str, Any]) -> LearnedOptimizer:
    """What a phase trains, given the theta of those before; what of it the phase does not train is frozen."""
    architecture = recipe.learned_optimizer(phase)
    frozen = sorted(_groups(architecture) - set(_trains(recipe, phase)))
    return FrozenPart(architecture, {group: theta[group] for group in frozen}) if frozen else architecture


def _beginning(recipe: Recipe, phase: str, theta: Mapping[str, Any], warm: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a phase begins with, given the theta of those before and that of a warm start; ``None`` for random values.

    A part that neither of them has, such as a direction that is added in this phase, begins at random; and so does one that has
    other shapes in this phase than in those before. A warm start must fit.
    """
    trains = _trains(recipe, phase)
    known = {group: {**_parts(warm, group), **_parts(theta, group)} for group in trains}
    if not any(known.values()):
        return None
    random = jax.device_get(recipe.learned_optimizer(phase).init(jax.random.key(recipe.seed)))
    begins = {}
    for group in trains:
        like = _parts(random, group)
        given = {name: part for name, part in _parts(warm, group).items() if name in like}
        if _parts(warm, group) and len(_fitting(given, like)) < max(len(given), 1):
            raise ValueError(
                f"{recipe.warm_start}: its {group} is of another config than the one of the phase {phase}."
            )
        parts = {**like, **_fitting(known[group], like)}
        begins[group] = parts if isinstance(random[group], Mapping) else parts[""]
    return begins


def _parts(theta: Mapping[str, Any], group: str) -> Mapping[str, Any]:
    """A group's parts by name; of a group that is one array, that alone, and of one that is not there, none."""
    found = theta.get(group, {})
    return found if isinstance(found, Mapping) else {"": found}


def _fitting(known: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    """Those parts of a group that it has in this phase, too, in the same shapes."""
    shapes = lambda tree: jax.tree.map(np.shape, tree)
    return {name: part for name, part in known.items() if name in like and shapes(part) == shapes(like[name])}


def _trainer(
    recipe: Recipe,
    phase: str,
    theta: Mapping[str, Any],
    families: Sequence[Any],
    data: Sequence[Any],
    devices: Sequence[Any] | None,
) -> MetaTrainer:
    architecture, chosen = _trained(recipe, phase, theta), recipe.phases[phase]
    training = dataclasses.replace(chosen.training, seed=recipe.seed + chosen.training.seed)
    optimizer = None
    if chosen.meta_optimizer is not None:
        make = optimizer_specs.imported(chosen.meta_optimizer)
        takes = inspect.signature(make).parameters
        given = {"learning_rate": training.schedule()} if "learning_rate" in takes else {}
        optimizer = make(training.iterations, **given)
    pairs = recipe.problems_of(phase).families.values()
    parts = [
        _estimator(recipe, phase, architecture, family, count) for family, count in zip(families, pairs, strict=True)
    ]
    if len(parts) == 1:
        return MetaTrainer(parts[0], training, data[0], devices, optimizer)
    return MetaTrainer(MeanOfEstimators(parts), training, data, devices, optimizer)


def _warm_start(recipe: Recipe) -> dict[str, Any]:
    """The theta that phases begin with, out of a theta.npz, the first phase's checkpoint, or a pretrained optimizer."""
    assert recipe.warm_start is not None
    path = pathlib.Path(recipe.warm_start)
    if re.fullmatch(r"\w+", recipe.warm_start) and not path.exists():
        found = _pretrained_theta(recipe.warm_start)
    else:
        metadata = checkpoints.load_metadata(path)
        if "settings" in metadata:
            return dict(checkpoint_theta(path, _trained(recipe, next(iter(recipe.phases)), {})))
        if metadata.get("format_version", 2) < FORMAT:
            raise ValueError(OLD_LAYOUT.format(path))
        found = checkpoints.load_theta(path)
    groups = {group for phase in recipe.phases for group in _groups(recipe.learned_optimizer(phase))}
    theta = {group: values for group, values in found.items() if group in groups}
    if not theta:
        raise ValueError(
            f"{recipe.warm_start} holds nothing of the theta of {recipe.architecture.name}: name another file."
        )
    return theta


def _pretrained_theta(name: str) -> Mapping[str, Any]:
    """The theta of a pretrained optimizer that an installed package offers."""
    theta = getattr(load_pretrained(name), "theta", None)
    if not isinstance(theta, Mapping):
        raise ValueError(f"the pretrained optimizer {name!r} has no theta to begin with: name a theta.npz.")
    return theta


def _estimator(
    recipe: Recipe, phase: str, architecture: LearnedOptimizer, family: Any, num_pairs: int
) -> GradientEstimator:
    """The recipe's estimator on a family, with its number of problems and what the phase says."""
    estimator = recipe.estimator_of(phase)
    takes = {field.name for field in dataclasses.fields(estimator)}  # type: ignore[arg-type]
    given: dict[str, Any] = {"num_pairs": num_pairs} if "num_pairs" in takes else {"num_problems": 2 * num_pairs}
    sigma = getattr(estimator, "sigma") if "sigma" in takes else None  # noqa: B009
    if isinstance(sigma, DecayingSigma) and sigma.estimates is None:
        given["sigma"] = dataclasses.replace(sigma, estimates=recipe.phases[phase].training.iterations)
    if late_weight := recipe.phases[phase].late_weight:
        given["late_weight"] = late_weight
    return estimator.bind(architecture, family, **given)  # type: ignore[return-value]
