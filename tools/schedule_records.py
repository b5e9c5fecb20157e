"""The records of schedule_labels.py, read into arrays."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from celo_core import files
from celo_tasks.evaluation.scores import SMALLEST_LOSS

Floats = NDArray[np.floating]

LARGEST_REGRET = 2.0
"""Regrets above count as this: a training that diverged is lost, however large its loss."""


class Labels(NamedTuple):
    """All records; N trainings, H heights.

    Attributes:
      tasks: numbers, (N,).
      lengths: steps, (N,).
      described: of each task, see schedule_tasks.py.
      final: final losses, (N, H).
      settled: losses of the trained networks on further batches, (N, H).
      signals: (N, signals, H, moments).
      embeddings: (N, entries).
      heights: (H,).
      names: of the signals.
      fractions: the moments.
    """

    tasks: Any
    lengths: Any
    described: list[dict[str, Any]]
    final: Floats
    settled: Floats
    signals: Floats
    embeddings: Floats
    heights: Floats
    names: list[str]
    fractions: Floats

    @property
    def regrets(self) -> Floats:
        """Logarithms of final loss over the grid's least, at most `LARGEST_REGRET`, (N, H)."""
        logs = np.log(np.maximum(self.final, SMALLEST_LOSS))
        return np.minimum(logs - logs.min(axis=1, keepdims=True), LARGEST_REGRET)

    @property
    def best(self) -> Floats:
        """Binary logarithms of the best heights, (N,)."""
        return np.log2(self.heights)[np.argmin(self.final, axis=1)]

    def at(self, height: float) -> int:
        """Place of the height next to this one."""
        return int(np.argmin(np.abs(np.log(self.heights / height))))

    def moment(self, fraction: float) -> int:
        """Place of the moment next to this share of a training."""
        return int(np.argmin(np.abs(np.log(self.fractions / fraction))))

    def signal(self, name: str, height: Any, moment: int) -> Floats:
        """A signal of all trainings, (N,), at a height's place or at one for each training, clipped to what is possible."""
        values = self.signals[np.arange(len(self.tasks)), self.names.index(name), height, moment]
        return np.clip(values, -1.0, 2.0) if name.startswith(("rho", "hyper")) else values


def relative(losses: Any, limit: tuple[float, float]) -> Floats:
    """Losses divided by the first number of ``limit`` and cut off at the second, as which those not finite count; float64."""
    unit, most = limit
    divided = np.asarray(losses, np.float64) / unit
    return np.clip(np.nan_to_num(divided, nan=most, posinf=most, neginf=most), 0.0, most)


def task_file(out: Path, task: int) -> Path:
    """The file of a task's records."""
    return out / "records" / f"task-{task:04d}.npz"


def load_task(path: Path) -> dict[int, dict[str, Any]]:
    """The records of a task: arrays by name, by length. Raises what `numpy.load` raises where there is no good file."""
    found: dict[int, dict[str, Any]] = {}
    with np.load(path, allow_pickle=False) as archive:
        for name in archive.files:
            length, part = name.split(".")
            found.setdefault(int(length), {})[part] = archive[name]
    return found


def read_task(path: Path) -> dict[int, dict[str, Any]]:
    """As `load_task`; none where there is no file, or a damaged one."""
    try:
        return load_task(path)
    except (OSError, ValueError, KeyError, EOFError):
        return {}


def read(out: Path) -> Labels:
    """All records of a folder.

    Raises:
      OSError: there are none.
    """
    index = json.loads((out / "index.json").read_text())
    rows: list[tuple[int, int, dict[str, Any], dict[str, Any]]] = []
    for task, described in index["tasks"].items():
        path = task_file(out, int(task))
        if path.exists():
            rows += [(int(task), length, described, parts) for length, parts in sorted(load_task(path).items())]
    if not rows:
        raise OSError(f"there are no records in {out}: run the command without --summary first.")
    stacked = lambda part: np.stack([row[3][part] for row in rows]).astype(np.float64)
    settings = index["settings"]
    return Labels(
        np.array([row[0] for row in rows]),
        np.array([row[1] for row in rows]),
        [row[2] for row in rows],
        stacked("final_loss"),
        stacked("settled_loss"),
        stacked("signals"),
        stacked("embedding"),
        np.array(settings["heights"]),
        settings["signals"],
        np.array(settings["fractions"]),
    )


def write_repeats(out: Path, folders: Sequence[Path]) -> Path:
    """Puts the losses of repeated trainings, a folder for each ``--repeat``, into the file repeats.npz of ``out``.

    Its arrays: ``tasks`` and ``lengths`` (N,), ``repeats`` (R,), ``final_loss`` and ``settled_loss`` (R, N, H), float32, NaN
    where nothing was trained.

    Raises:
      ValueError: records of a folder are of other weights, tasks or heights than those of ``out``.
      OSError: there are no records.
    """
    labels, expected = read(out), _settings(out)
    place = {pair: n for n, pair in enumerate(zip(labels.tasks.tolist(), labels.lengths.tolist(), strict=True))}
    losses = np.full((2, len(folders), *labels.final.shape), np.nan, np.float32)
    repeats = []
    for number, folder in enumerate(folders):
        found = _settings(folder)
        for name in ("weights", "fingerprint", "seed", "heights", "datasets"):
            if found[name] != expected[name]:
                raise ValueError(f"the records in {folder} are of other {name} than those in {out}.")
        repeats.append(found["repeat"])
        for path in sorted((folder / "records").glob("task-*.npz")):
            task = int(path.stem.removeprefix("task-"))
            for length, parts in load_task(path).items():
                if (task, length) not in place:
                    raise ValueError(
                        f"{out} has no training of task {task} over {length} steps, which {folder} repeats."
                    )
                losses[:, number, place[task, length]] = parts["final_loss"], parts["settled_loss"]
    arrays = {"tasks": labels.tasks, "lengths": labels.lengths, "repeats": np.array(repeats)}
    with files.written_atomically(out / "repeats.npz") as file:
        np.savez_compressed(file, **arrays, final_loss=losses[0], settled_loss=losses[1])
    return out / "repeats.npz"


def _settings(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "index.json").read_text())["settings"])
