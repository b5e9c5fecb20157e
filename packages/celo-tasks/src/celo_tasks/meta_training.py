"""Meta-training of Celo as published, in two phases, on image families: what ``celo-tasks meta-train`` runs.

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
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from celo_core import Celo, CeloConfig, LearnedOptimizer, LogUniformLength, TruncatedPES, checkpoints, configs, files
from celo_core.checks import flatten_theta, unflatten_theta
from celo_core.meta_train import FrozenPart, MetaTrainConfig, MetaTrainer, run_phase
from celo_tasks.families import ImageMLP, reparametrize

PHASES = ("update_rule", "scheduler")

PAPER_DATASETS = ("mnist_8x8", "fashion_mnist_8x8", "cifar10_8x8", "svhn_cropped_8x8")
OFFLINE_DATASETS = ("digits_8x8", "fashion_mnist_small_8x8")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings of a whole two-phase run.

    Attributes:
      datasets: image sets, see `celo_tasks.datasets`.
      levels: levels of task augmentation.
      iterations: meta-iterations of each phase, by phase.
      learning_rates: peak learning rate of the meta-optimizer, by phase.
      final_fraction: the learning rate decays by a cosine to this fraction of its peak.
      average_decay: decay of the running average of theta that is the result.
      num_pairs: antithetic pairs.
      sigma: standard deviation of perturbations.
      truncation: inner steps per window.
      min_length, max_length: range of log-uniform problem lengths.
      seed: of everything random.
    """

    datasets: tuple[str, ...]
    levels: tuple[str, ...] = ("global", "tensor")
    iterations: tuple[int, int] = (3000, 3000)
    learning_rates: tuple[float, float] = (4e-3, 1e-3)
    final_fraction: float = 0.03
    average_decay: float = 0.98
    num_pairs: int = 32
    sigma: float = 0.01
    truncation: int = 50
    min_length: int = 100
    max_length: int = 2000
    seed: int = 0


def meta_train(
    recipe: Recipe,
    folder: str | os.PathLike[str],
    *,
    phases: tuple[str, ...] = PHASES,
    data_dir: str | None = None,
    minutes: float | None = None,
    stop: Callable[[], bool] = lambda: False,
    command: str | None = None,
) -> dict[str, Any] | None:
    """Runs the phases one after the other, each resumed where its checkpoint in ``folder`` left it.

    Args:
      recipe: settings; a folder belongs to one recipe.
      folder: run folder: ``update_rule/`` and ``scheduler/`` with ``checkpoint.npz`` and ``log.jsonl`` each, and when
        all is done ``theta.npz`` and ``run.json``.
      phases: which of them to run.
      data_dir: folder with prepared arrays, or ``None``.
      minutes: stop (with a checkpoint) after this long.
      stop: asked between blocks of iterations.
      command: recorded as provenance.

    Returns:
      The theta of the phases done (both make a whole), or ``None`` if the run was stopped before the end of the last
      phase asked for.

    Raises:
      ValueError: settings do not fit the folder's checkpoint, or the scheduler's phase has no update rule to start
        from.
    """
    folder = pathlib.Path(folder)
    family = reparametrize(ImageMLP(recipe.datasets, data_dir=data_dir), recipe.levels)
    data = family.load()
    identity = {"recipe": json.loads(json.dumps(dataclasses.asdict(recipe))), "data": data_digest(data)}
    theta: dict[str, Any] = {}
    for number, phase in enumerate(PHASES[: PHASES.index(phases[-1]) + 1]):
        path = folder / phase / "theta.npz"
        if phase in phases and not path.exists():
            print(f"phase {number + 1} of 2: {phase.replace('_', ' ')}", file=sys.stderr)
            trainer = _trainer(recipe, number, theta, family, data)
            before = _seconds(folder / phase)
            state = run_phase(trainer, folder / phase, minutes=minutes, stop=stop, metadata=identity)
            spent = _seconds(folder / phase) - before
            minutes = None if minutes is None else max(0.0, minutes - spent / 60)
            if int(state.iteration) < recipe.iterations[number]:
                return None
            save_theta(path, jax.device_get(state.average), identity)
        if not path.exists():
            raise ValueError(f"there is no {path}: run the phase {phase} in this folder first.")
        theta |= load_theta(path)
    if set(theta) == set(PHASES):
        files.write_json(folder / "run.json", provenance(recipe, folder, data_dir, data, command))
        save_theta(folder / "theta.npz", theta, identity)
    return theta


def _trainer(recipe: Recipe, phase: int, theta: Mapping[str, Any], family: Any, data: Any) -> MetaTrainer:
    architecture: LearnedOptimizer
    if phase == 0:
        architecture = Celo(CeloConfig(scheduler=None))
    else:
        architecture = FrozenPart(Celo(), dict(theta))
    estimator = TruncatedPES(
        architecture,
        family,
        num_pairs=recipe.num_pairs,
        sigma=recipe.sigma,
        truncation=recipe.truncation,
        lengths=LogUniformLength(recipe.min_length, recipe.max_length),
    )
    config = MetaTrainConfig(
        iterations=recipe.iterations[phase],
        learning_rate=recipe.learning_rates[phase],
        final_fraction=recipe.final_fraction,
        average_decay=recipe.average_decay,
        seed=recipe.seed + phase,
    )
    return MetaTrainer(estimator, config, data)


def save_theta(path: pathlib.Path, theta: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """Writes theta atomically, with its leaves' paths and shapes."""
    leaves = dict(sorted(flatten_theta(theta).items()))  # the order in which the metadata list them
    shapes = {name: list(np.shape(leaf)) for name, leaf in leaves.items()}
    checkpoints.save_checkpoint(path, list(leaves.values()), {**metadata, "leaves": shapes})


def load_theta(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads what `save_theta` wrote; errors as `celo_core.checkpoints.load_checkpoint`."""
    shapes = checkpoints.load_metadata(path)["leaves"]
    example = [jax.ShapeDtypeStruct(tuple(shape), np.float32) for shape in shapes.values()]
    return unflatten_theta(dict(zip(shapes, checkpoints.load_checkpoint(path, example), strict=True)))


def data_digest(data: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over the arrays."""
    digest = hashlib.sha256()
    for name in sorted(data):
        digest.update(name.encode() + np.ascontiguousarray(data[name]).tobytes())
    return digest.hexdigest()


def provenance(
    recipe: Recipe, folder: pathlib.Path, data_dir: str | None, data: Mapping[str, np.ndarray], command: str | None
) -> dict[str, Any]:
    """Where a run's weights come from: command, commit, data, seeds, cost, hardware and versions."""
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
        "config": configs.to_json(CeloConfig()),
        "data": {"source": "prepared arrays" if data_dir else "as found on the machine", "sha256": data_digest(data)},
        "seeds": [recipe.seed, recipe.seed + 1],
        "cost": cost,
        "seconds": round(sum(phase["seconds"] for phase in cost.values()), 1),
        "inner_steps": sum(phase["inner_steps"] for phase in cost.values()),
        "hardware": hardware(),
        "versions": {"python": platform.python_version(), "jax": jax.__version__},
    }


def hardware() -> str:
    """The machine that computes, e.g. ``"1 x NVIDIA H100"`` or ``"2 cores of AMD EPYC"``."""
    devices = jax.devices()
    if devices[0].platform != "cpu":
        return f"{len(devices)} x {devices[0].device_kind}"
    kind = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        kind = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), kind)
    return f"{os.cpu_count()} cores of {kind}"


def _seconds(folder: pathlib.Path) -> float:
    path = folder / "checkpoint.npz"
    return float(checkpoints.load_metadata(path)["seconds"]) if path.exists() else 0.0


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
