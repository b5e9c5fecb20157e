"""Meta-training of Celo in two phases, as published or on more kinds of networks: what ``celo-tasks meta-train`` runs.

Source: Celo (arXiv 2501.12670, section 4).
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from jax.experimental import multihost_utils

from celo_core import (
    Celo,
    CeloAdam,
    CeloAdamConfig,
    CeloConfig,
    GradientEstimator,
    GrowingLength,
    LearnedOptimizer,
    LogUniformLength,
    LSTMSchedulerConfig,
    MeanOfEstimators,
    ResumeBuffer,
    configs,
    files,
)
from celo_core.checks import check_choice, flatten_theta
from celo_core.estimators import ESTIMATORS
from celo_core.meta_training import checkpoints
from celo_core.meta_training.lengths import LengthSchedule
from celo_core.meta_training.run import checkpoint_theta, run_phase
from celo_core.meta_training.trainer import FrozenPart, MetaTrainConfig, MetaTrainer
from celo_tasks.evaluation import specs
from celo_tasks.families import LogLoss, reparametrize
from celo_tasks.meta_training.families import META_FAMILIES, Sources
from celo_tasks.meta_training.monitoring import MetaReport
from celo_tasks.meta_training.recipe import ARCHITECTURES, PHASES, Recipe
from celo_tasks.reporting.machine import hardware


def meta_train(
    recipe: Recipe,
    folder: str | os.PathLike[str],
    *,
    phases: tuple[str, ...] | None = None,
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
      folder: run folder: ``update_rule/`` and ``scheduler/`` with ``checkpoint.npz``, ``log.jsonl``, pictures and, if
        validated, ``validation.jsonl`` each, and when all is done ``theta.npz`` and ``run.json``.
      phases: which of them to run; all that the architecture has by default.
      data_dir: folder with prepared arrays, or ``None``.
      minutes: stop (with a checkpoint) after this long.
      stop: asked between blocks of iterations, and during validation; if it returns true, the run stops with a checkpoint,
        after no more validation and before another phase.
      command: recorded as provenance.
      devices: devices to split the problems over; by default as many as divide their number.
      on_divergence: see `celo_core.meta_training.run.run_phase`.
      validate_every: meta-iterations between validations (see `celo_tasks.meta_training.validation`); 0 for none.
      tensorboard: folder for TensorBoard; ``None`` for none.

    Returns:
      The theta of the phases done (both make a whole), or ``None`` if the run was stopped before the end of the last
      phase asked for.

    Raises:
      ValueError: settings contradict each other or do not fit the folder's checkpoint, or the scheduler's phase has no
        update rule to start from.
      OSError: the folder cannot be written to.
      FloatingPointError: see `celo_core.meta_training.run.run_phase`.
    """
    folder = pathlib.Path(folder)
    check_choice("architecture", recipe.architecture, ARCHITECTURES)
    phases = recipe.phases if phases is None else phases
    if unknown := set(phases) - set(recipe.phases):
        raise ValueError(
            f"{recipe.architecture} has no phase {unknown.pop()}: its phases are {', '.join(recipe.phases)}."
        )
    families = _families(recipe, data_dir)
    data: Any = [family.load() for family in families]
    settings = recipe.settings()
    warm = {} if recipe.warm_start is None else _warm_start(recipe)
    if warm:
        # What it begins with, not where that lay.
        settings["warm_start"] = data_digest([flatten_theta(warm)])
    identity = {"recipe": settings, "data": data_digest(data)}
    writes = jax.process_index() == 0
    theta: dict[str, Any] = {}
    has_run = False
    for phase in recipe.phases[: recipe.phases.index(phases[-1]) + 1]:
        number = PHASES.index(phase)
        path = folder / phase / "theta.npz"
        if phase in phases and not path.exists():
            if has_run and stop():
                return None
            has_run = True
            trainer = _trainer(recipe, number, theta, families, data, devices)
            if writes:
                place = f"phase {recipe.phases.index(phase) + 1} of {len(recipe.phases)}"
                print(f"{place}: {phase.replace('_', ' ')}", file=sys.stderr)
            begin = time.monotonic()
            watched = MetaReport(folder, phase, trainer.estimator.architecture, validate_every, tensorboard, stop)
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
            if int(state.iteration) < recipe.iterations[number]:
                return None
            if writes:
                checkpoints.save_theta(
                    path, jax.device_get(state.average), {**identity, **_described(trainer.estimator.architecture)}
                )
            _wait_for_all(phase)
        if not path.exists():
            raise ValueError(f"there is no {path}: run the phase {phase} in this folder first.")
        theta |= checkpoints.load_theta(path)
    if writes and set(theta) == set(recipe.phases):
        files.write_json(folder / "run.json", provenance(recipe, folder, data_dir, data, command))
        checkpoints.save_theta(folder / "theta.npz", theta, {**identity, **_described(_architecture(recipe))})
    return theta


def _described(architecture: LearnedOptimizer) -> dict[str, Any]:
    """What rebuilds an optimizer beside theta, for JSON."""
    return {"architecture": architecture.name, "config": configs.to_json(architecture.config)}


def _wait_for_all(name: str) -> None:
    """With several processes, waits until all are here: what the first one has written is then there for the others."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _families(recipe: Recipe, data_dir: str | None) -> list[Any]:
    """The families that problems are drawn from, reparametrised, with their objective."""
    check_choice("objective", recipe.objective, ("loss", "log_loss"))
    sources = Sources(recipe.datasets, recipe.text, data_dir, held_out=recipe.meta_loss == "held_out")
    families = []
    for name, _ in recipe.problems:
        check_choice("family", name, tuple(META_FAMILIES))
        zeros_follow = recipe.zero_init_scale > 0
        family = reparametrize(META_FAMILIES[name][1](sources), recipe.levels, zeros_follow=zeros_follow)
        families.append(LogLoss(family) if recipe.objective == "log_loss" else family)
    return families


def _architecture(recipe: Recipe) -> LearnedOptimizer:
    """The whole of what a recipe makes."""
    scheduler = LSTMSchedulerConfig(
        hidden_size=recipe.scheduler_hidden_size,
        horizon=recipe.scheduler_horizon,
        shortest_horizon=recipe.scheduler_shortest,
        decay=recipe.scheduler_decay,
    )
    if recipe.architecture == "celo":
        parts = {name: getattr(recipe, name) for name in ("zero_init_scale", "adam", "orthogonal")}
        return Celo(CeloConfig(scheduler=scheduler, **parts))
    if recipe.zero_init_scale:
        raise ValueError("celo_adam's steps are not relative to the parameters: leave out zero_init_scale.")
    if recipe.adam:
        raise ValueError("celo_adam is Adam's direction already: leave out adam.")
    if recipe.orthogonal:
        raise ValueError("celo_adam has Adam's direction alone: leave out orthogonal.")
    return CeloAdam(CeloAdamConfig(scheduler=scheduler))


def _trained(recipe: Recipe, phase: str, theta: Mapping[str, Any]) -> LearnedOptimizer:
    """What a phase trains, given the theta of those before."""
    architecture = _architecture(recipe)
    if not isinstance(architecture, Celo):
        return architecture
    if phase == "update_rule":
        return Celo(dataclasses.replace(architecture.config, scheduler=None))
    return architecture if recipe.joint else FrozenPart(architecture, dict(theta))


def _beginning(recipe: Recipe, phase: str, theta: Mapping[str, Any], warm: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a phase begins with, given the theta of those before and that of a warm start; ``None`` for random values."""
    if phase == "scheduler" and recipe.joint:
        random = jax.device_get(_architecture(recipe).init(jax.random.key(recipe.seed)))
        # An update rule from before a part was added to it has that part's beginning.
        return {part: {**values, **warm.get(part, {}), **theta.get(part, {})} for part, values in random.items()}
    return {phase: warm[phase]} if phase in warm else None


def _trainer(
    recipe: Recipe,
    phase: int,
    theta: Mapping[str, Any],
    families: Sequence[Any],
    data: Sequence[Any],
    devices: Sequence[Any] | None,
) -> MetaTrainer:
    architecture = _trained(recipe, PHASES[phase], theta)
    iterations = recipe.iterations[phase]
    config = MetaTrainConfig(
        iterations=iterations,
        learning_rate=recipe.learning_rates[phase],
        final_fraction=recipe.final_fraction,
        decay_from=recipe.decay_from,
        weight_decay=recipe.weight_decay,
        clip_norm=recipe.clip_norm,
        average_decay=recipe.average_decay,
        truncations=recipe.truncations,
        seed=recipe.seed + phase,
    )
    optimizer = None if recipe.meta_optimizer is None else specs.imported(recipe.meta_optimizer)(iterations)
    parts = [
        _estimator(recipe, architecture, family, phase, pairs)
        for family, (_, pairs) in zip(families, recipe.problems, strict=True)
    ]
    if len(parts) == 1:
        return MetaTrainer(parts[0], config, data[0], devices, optimizer)
    return MetaTrainer(MeanOfEstimators(parts), config, data, devices, optimizer)


def _warm_start(recipe: Recipe) -> dict[str, Any]:
    """The parts of theta that phases begin with, out of a theta.npz or the first phase's checkpoint."""
    assert recipe.warm_start is not None
    path = pathlib.Path(recipe.warm_start)
    if "settings" in checkpoints.load_metadata(path):
        return dict(checkpoint_theta(path, _trained(recipe, recipe.phases[0], {})))
    theta = {part: values for part, values in checkpoints.load_theta(path).items() if part in recipe.phases}
    if not theta:
        raise ValueError(f"{path} holds nothing that {recipe.architecture} has a phase for: name another file.")
    return theta


def _estimator(
    recipe: Recipe, architecture: LearnedOptimizer, family: Any, phase: int, num_pairs: int
) -> GradientEstimator:
    check_choice("estimator", recipe.estimator, tuple(ESTIMATORS))
    estimator = ESTIMATORS[recipe.estimator]
    takes = {field.name for field in dataclasses.fields(estimator)}
    lengths: LengthSchedule = LogUniformLength(recipe.min_length, recipe.max_length)
    if recipe.first_length is not None:
        lengths = GrowingLength(recipe.min_length, recipe.first_length, recipe.max_length, recipe.curriculum)
    given: dict[str, Any] = {"lengths": lengths, "meta_loss": recipe.meta_loss, "clip_problem": recipe.clip_problem}
    if "sigma" in takes:
        first, last = recipe.sigma, recipe.final_sigma
        decaying = last is not None and optax.exponential_decay(first, recipe.iterations[phase], last / first)
        given |= {"num_pairs": num_pairs, "sigma": decaying or first}
    else:
        given["num_problems"] = 2 * num_pairs
    if "truncation" in takes:
        given["truncation"] = recipe.truncation
    if late_weight := recipe.late_weights[phase]:
        if "late_weight" not in takes:
            raise ValueError(f"the estimator {recipe.estimator} weighs all steps alike: leave out late_weights.")
        given["late_weight"] = late_weight
    if recipe.resume_probability:
        if "resume" not in takes:
            raise ValueError(f"the estimator {recipe.estimator} trains whole unrolls, so problems cannot be resumed.")
        given["resume"] = ResumeBuffer(probability=recipe.resume_probability)
    return estimator(architecture, family, **given)


def data_digest(data: Sequence[Mapping[str, np.ndarray]]) -> str:
    """SHA-256 over the arrays of all families."""
    digest = hashlib.sha256()
    for arrays in data:
        for name in sorted(arrays):
            digest.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def provenance(
    recipe: Recipe,
    folder: pathlib.Path,
    data_dir: str | None,
    data: Sequence[Mapping[str, np.ndarray]],
    command: str | None,
) -> dict[str, Any]:
    """Where a run's weights come from: command, commit, data, seeds, cost, hardware and versions; with what rebuilds it."""
    cost = {}
    for phase in PHASES:
        log = folder / phase / "log.jsonl"
        if log.exists():
            last = json.loads(log.read_text().splitlines()[-1])
            cost[phase] = {key: last[key] for key in ("iteration", "inner_steps", "seconds", "meta_loss")}
    return {
        "command": command or shlex.join(["celo-tasks", *sys.argv[1:]]),
        "commit": _commit(),
        "recipe": dataclasses.asdict(recipe),
        **_described(_architecture(recipe)),
        "networks": [META_FAMILIES[name][0] for name, _ in recipe.problems],
        "data": {"source": "prepared arrays" if data_dir else "as found on the machine", "sha256": data_digest(data)},
        "seeds": [recipe.seed, recipe.seed + 1],
        "cost": cost,
        "seconds": round(sum(phase["seconds"] for phase in cost.values()), 1),
        "inner_steps": sum(phase["inner_steps"] for phase in cost.values()),
        "hardware": hardware(),
        "versions": {"python": platform.python_version(), "jax": jax.__version__},
    }


def _commit() -> str | None:
    """The commit of the checkout that this package runs from, if it does, marked where files differ from it."""
    here = pathlib.Path(__file__).parent
    try:
        run = lambda *arguments: subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        return run("rev-parse", "HEAD") + ("-dirty" if run("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
