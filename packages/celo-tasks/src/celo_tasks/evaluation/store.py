"""Results of an evaluation on disk: one line of JSON a run, appended when the run is done.

A folder holds ``store.json`` (suite, steps, format) and ``runs.jsonl``. A process that is killed while it appends leaves
a torn last line, which the next one drops; every other line stays readable whatever happens.
"""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from celo_core import files
from celo_tasks.evaluation import curves
from celo_tasks.tasks.registry import RENAMED

FORMAT = 1

CURVE_POINTS = 200
"""Points of a curve that are kept per planned length of training, see `curve_steps`."""


class RunKey(NamedTuple):
    """What tells a run from all others of a store: only one is kept.

    Attributes:
      task, optimizer: names.
      setting: text form of a `celo_tasks.baselines.tuning.Setting`.
      seed: of initialisation and batches.
      steps: length.
    """

    task: str
    optimizer: str
    setting: str
    seed: int
    steps: int


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes:
      key: what was run.
      dataset: data set that it was run on.
      task_identity: changes with the task's definition or its data.
      optimizer_identity: changes with the optimizer.
      parameters: trained numbers.
      final_loss: mean of the last 5 % of normalised losses.
      diverged: whether a loss was not finite at some step, or the final loss is at the normalizer's upper end.
      curve: smoothed normalised losses after the steps `curve_steps`, with 6 significant digits.
      seconds: wall time of the training, without compilation.
      held_out: metrics on held-out data; those that are not finite are left out.
      machine, versions: where it ran.
    """

    key: RunKey
    dataset: str
    task_identity: str
    optimizer_identity: str
    parameters: int
    final_loss: float
    diverged: bool
    curve: tuple[float, ...]
    seconds: float
    held_out: Mapping[str, float]
    machine: str
    versions: Mapping[str, str]

    @property
    def smoothed(self) -> NDArray[np.float64]:
        """The curve as an array, (points,)."""
        return np.asarray(self.curve, np.float64)


def curve_steps(steps: int, base: int | None = None) -> NDArray[np.int64]:
    """Steps after which a curve is kept: about `CURVE_POINTS` for every ``base`` steps, the last one among them.

    Args:
      steps: length of the training.
      base: planned length of the evaluation, ``steps`` by default: longer runs are kept as finely.
    """
    points = min(steps, round(CURVE_POINTS * steps / (base or steps)))
    return np.unique(np.linspace(1, steps, max(points, 1)).round().astype(np.int64) if points > 1 else [steps])


def summarize(losses: NDArray[np.floating], base: int) -> tuple[float, tuple[float, ...]]:
    """Final loss and thinned smoothed curve of normalised losses (steps,)."""
    smoothed = curves.smooth(losses)[curve_steps(len(losses), base) - 1]
    return curves.six_digits(float(curves.final_loss(losses))), tuple(map(curves.six_digits, smoothed))


class Store:
    """Finished runs in a folder. Only one process may append."""

    def __init__(self, folder: pathlib.Path, header: dict[str, Any], runs: Iterable[Run]) -> None:
        self.folder, self.header = folder, header
        self.runs: dict[RunKey, Run] = {run.key: run for run in runs}

    @property
    def steps(self) -> int:
        """Planned length of the trainings."""
        return int(self.header["steps"])

    @classmethod
    def create(cls, folder: str | os.PathLike[str], suite: str, tasks: Iterable[str], steps: int) -> "Store":
        """Opens a store for appending; makes it if there is none.

        Raises:
          ValueError: the folder holds results of another suite, length or format, or cannot be made.
        """
        folder = pathlib.Path(folder)
        names = list(tasks)
        header = {"format": FORMAT, "suite": suite, "tasks": names, "steps": steps}
        if (folder / "store.json").exists():
            store = cls.read(folder)
            for what in ("suite", "steps"):
                if store.header[what] != header[what]:
                    raise ValueError(
                        f"{folder} holds results with {what} {store.header[what]}, not {header[what]}: give another --out, "
                        f"or the same --{what}."
                    )
            if new := [name for name in names if name not in store.header["tasks"]]:
                store.header["tasks"] += new
                files.write_json(folder / "store.json", store.header)
            store._mend()
            return store
        try:
            if folder.exists() and any(folder.iterdir()):
                raise ValueError(f"{folder} holds other files and no store.json: give an empty or new folder by --out.")
            files.write_json(folder / "store.json", header)
        except OSError as error:
            raise ValueError(f"{folder} cannot be written ({error.strerror}): give another folder by --out.") from error
        return cls(folder, header, ())

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> "Store":
        """Reads a store, changing nothing.

        Raises:
          FileNotFoundError: there is none.
          ValueError: it was written by another version, or is damaged other than by a torn last line.
        """
        folder = pathlib.Path(folder)
        path = folder / "store.json"
        if not path.is_file():
            raise FileNotFoundError(f"{folder} holds no evaluation: give the folder that `celo-tasks evaluate` wrote.")
        try:
            header = json.loads(path.read_text())
            version = header["format"]
            header["suite"] = RENAMED.get(header["suite"], header["suite"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error!r}): evaluate into another folder.") from error
        if version != FORMAT:
            raise ValueError(
                f"{folder} was written in format {version} and this celo-tasks reads {FORMAT}: use the version that wrote it, "
                "or evaluate into another folder."
            )
        return cls(folder, header, _read_runs(folder / "runs.jsonl"))

    def append(self, run: Run) -> None:
        """Adds a run, on disk first.

        Raises:
          OSError: it could not be written, e.g. on a full disk; what was there before stays readable.
        """
        value = dataclasses.asdict(run)
        value["key"] = run.key._asdict()
        line = (json.dumps(value, allow_nan=False) + "\n").encode()
        with open(self.folder / "runs.jsonl", "ab") as file:
            begin = file.tell()
            try:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                # What was written of the line would stand in front of the next one.
                os.truncate(file.fileno(), begin)
                raise
        self.runs[run.key] = run

    def select(self, task: str, optimizer: str, steps: int | None = None) -> list[Run]:
        """Runs of an optimizer on a task, of the planned length or another."""
        wanted = (task, optimizer, self.steps if steps is None else steps)
        return [run for key, run in self.runs.items() if (key.task, key.optimizer, key.steps) == wanted]

    def optimizers(self) -> list[str]:
        """Names of the optimizers that have runs, in the order in which they first appear."""
        return list(dict.fromkeys(key.optimizer for key in self.runs))

    def _mend(self) -> None:
        """Cuts off a torn last line, so that the next one begins on a line of its own."""
        path = self.folder / "runs.jsonl"
        if path.is_file() and (content := path.read_bytes()) and not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)


def _read_runs(path: pathlib.Path) -> list[Run]:
    runs: list[Run] = []
    if not path.is_file():
        return runs
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):  # the last piece is empty, or a torn line
        try:
            value = json.loads(line)
            value["key"], value["curve"] = RunKey(**value["key"]), tuple(value["curve"])
            run = Run(**value)
            if not (math.isfinite(run.final_loss) and all(map(math.isfinite, run.curve))):
                raise ValueError("a loss is not finite")
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path}, line {number}, is no run ({error}): delete the line, and `celo-tasks evaluate` does it again."
            ) from error
        runs.append(run)
    return runs
