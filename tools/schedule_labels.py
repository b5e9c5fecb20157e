"""Labels for learning a schedule: which height of its steps suits a learned optimizer best, on hundreds of small tasks.

    python tools/schedule_labels.py --out docs/results/schedule-labels
    python tools/schedule_labels.py --out docs/results/schedule-labels --minutes 30
    python tools/schedule_labels.py --out docs/results/schedule-labels --summary
    python tools/schedule_labels.py --out docs/results/schedule-labels --check
    python tools/schedule_labels.py --out labels-1 --repeat 1
    python tools/schedule_labels.py --out docs/results/schedule-labels --repeats labels-1

Every task (see schedule_tasks.py) is trained once per height: the optimizer's updates are multiplied by it, while
initialisation, batches and length are the same. A record has the final losses, the loss curves and, at `POINTS` moments of
each training, what the optimizer could have known then (`SIGNALS`). All heights of a task are trained at once.

The same command goes on where it was stopped, by --minutes or by a signal; it can be stopped at any time. It takes some 7 GB
of memory, for the compiled programs. --summary writes summary.md and summary.png of the records that there are (see
schedule_summary.py), --repeat N trains the same tasks from another initialisation, on other batches, and keeps the losses only,
--repeats puts them into repeats.npz, and --check tries the signals on series for which they are known, and compares trainings
at height 1 with `celo_core.meta_training.unroll.train`.
"""

import argparse
import dataclasses
import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import schedule_records
import schedule_signals
import schedule_summary
import schedule_tasks
from numpy.typing import NDArray
from schedule_signals import FRACTIONS, SIGNALS, WINDOWS, Step, signals
from schedule_training import Grid

import celo_zoo
from celo_core import files
from celo_core.meta_training.unroll import train
from celo_core.progress import ProgressLine, format_seconds
from celo_tasks.evaluation import curves
from celo_tasks.meta_training.recipe_files import OFFLINE_DATASETS, PAPER_DATASETS
from celo_tasks.reporting.machine import hardware, versions

Array = jax.Array
Floats = NDArray[np.floating]

HEIGHTS = tuple(float(f"{2.0**k:.6g}") for k in np.arange(-4, 2.1, 0.5))
"""From 1/16 to 4 by factors of the square root of 2, so that 1 and 1/2 are among them."""

LENGTHS = (300, 1000, 3000)
LONG = 1000
WAVE = 64
"""Trainings longer than LONG wait until the tasks of two waves more have been trained at the lengths up to it."""

CURVE_POINTS = 64


def _compact(values: Floats, bits: int = 4, quantum: float = 2e-4) -> NDArray[np.float16]:
    """As float16, to multiples of ``quantum`` and with so many bits after the leading one, which compresses well.

    Numbers that are not finite become the largest.
    """
    values = quantum * np.round(np.clip(np.nan_to_num(values, nan=6e4, posinf=6e4, neginf=-6e4), -6e4, 6e4) / quantum)
    halves = values.astype(np.float16)
    cut = 10 - bits
    raw = halves.view(np.uint16).astype(np.uint32) + (1 << (cut - 1))
    rounded = (raw & ~np.uint32((1 << cut) - 1)).astype(np.uint16).view(np.float16)
    return np.where(np.isfinite(rounded), rounded, halves)


def record(
    steps: Step, settled: Floats, embedding: Floats, decays: Sequence[float], limit: tuple[float, float]
) -> dict[str, Any]:
    """What is kept of a task at one length, as arrays.

    Args:
      steps: see `Grid.train`.
      settled: see `Grid.train`.
      embedding: of the task.
      decays: of the momenta.
      limit: what losses are divided by, and above which they are cut off then.
    """
    losses = schedule_records.relative(steps.loss, limit)
    parts = np.array_split(losses, min(CURVE_POINTS, len(losses)))
    curve = np.stack([part.mean(axis=0) for part in parts], axis=1)
    return {
        "final_loss": curves.final_loss(losses.T).astype(np.float32),
        "settled_loss": schedule_records.relative(settled, limit).mean(axis=0).astype(np.float32),
        "log_curve": _compact(np.log(np.maximum(curve, 1e-8)), 8),
        "signals": _compact(signals(steps, decays)),
        "embedding": embedding.astype(np.float32),
    }


def _write_task(path: Path, records: dict[int, dict[str, Any]]) -> None:
    arrays = {f"{length}.{name}": array for length, parts in records.items() for name, array in parts.items()}
    with files.written_atomically(path) as file:
        np.savez_compressed(file, **arrays)


@dataclasses.dataclass
class Index:
    """The file index.json: settings, the machine, and what each task is and has cost.

    Attributes:
      out: folder.
      settings: what all records have in common.
      tasks: by number.
    """

    out: Path
    settings: dict[str, Any]
    tasks: dict[str, Any]

    @classmethod
    def open(cls, out: Path, settings: dict[str, Any]) -> "Index":
        """That of a folder, or a new one.

        Raises:
          ValueError: the folder's records are of other settings.
        """
        path = out / "index.json"
        if not path.exists():
            return cls(out, settings, {})
        found = json.loads(path.read_text())
        for name, value in settings.items():
            if {"repeat": 0, **found["settings"]}.get(name) != value:
                raise ValueError(f"the records in {out} are of other {name}: choose another folder with --out.")
        return cls(out, settings, found["tasks"])

    def add(self, task: int, described: dict[str, Any], length: int, seconds: float) -> None:
        """Takes in a finished training and writes the file."""
        entry = self.tasks.setdefault(str(task), {**described, "seconds": {}})
        entry["seconds"][str(length)] = float(f"{seconds:.3g}")
        self.tasks = dict(sorted(self.tasks.items(), key=lambda item: int(item[0])))
        kind = {"hardware": hardware(), "versions": versions()}
        files.write_json(self.out / "index.json", {"settings": self.settings, **kind, "tasks": self.tasks})


class _Stop:
    """Whether a signal has asked for an end; a second one ends at once."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        del frame
        if self.asked:
            raise SystemExit(128 + number)
        self.asked = True
        print("stopping after this training", file=sys.stderr, flush=True)


def _plan(tasks: int, lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Pairs of task and length, in the order in which they are trained."""
    pairs = [(task, length) for task in range(tasks) for length in lengths]
    yield from sorted(pairs, key=lambda pair: (pair[0] // WAVE + 1.5 * (pair[1] > LONG), pair[0], pair[1]))


def run(options: argparse.Namespace, weights: celo_zoo.Pretrained) -> None:
    """Trains what is missing, until the time is up or a signal comes."""
    datasets = _datasets(options)
    settings = {
        "weights": weights.reference.split("/")[-1],
        "fingerprint": weights.fingerprint,
        "seed": options.seed,
        "repeat": options.repeat,
        "heights": list(options.heights),
        "datasets": list(datasets),
        "signals": list(SIGNALS),
        "fractions": [float(f"{x:.6g}") for x in FRACTIONS],
        "windows": {name: f"1/{parts}" for name, parts in WINDOWS.items()},
    }
    index, stop, progress, start = Index.open(options.out, settings), _Stop(), ProgressLine(), time.monotonic()
    grids: dict[str, Grid] = {}
    rates: dict[str, float] = {}
    plan = list(_plan(options.tasks, options.lengths))
    pairs = {(int(task), int(n)) for task, entry in index.tasks.items() for n in entry["seconds"]}
    kept = {
        pair
        for pair in pairs
        if pair[1] in schedule_records.read_task(schedule_records.task_file(options.out, pair[0]))
    }
    for task, length in kept:
        entry = index.tasks[str(task)]
        _learn(rates, entry["shape"], entry["seconds"][str(length)] / length)
    missing = [pair for pair in plan if pair not in kept]
    for number, (task, length) in enumerate(missing):
        if stop.asked or (options.minutes is not None and time.monotonic() - start > 60 * options.minutes):
            break
        shape = schedule_tasks.shape_of(task)
        begun = time.monotonic()
        if shape.label not in grids:
            grids[shape.label] = Grid(weights, shape.build(datasets, options.data_dir), options.heights)
        grid = grids[shape.label]
        draw = schedule_tasks.Draw(task, options.seed, grid.family)
        steps, settled, embedding = grid.train(draw, length, options.repeat)
        new = record(steps, settled, embedding, grid.decays, grid.family.limit(draw))
        if options.repeat:
            new = {name: new[name] for name in ("final_loss", "settled_loss")}
        path = schedule_records.task_file(options.out, task)
        _write_task(path, {**schedule_records.read_task(path), length: new})
        seconds = time.monotonic() - begun
        described = {"shape": shape.label, "family": shape.family, **draw.described, "seed": draw.seed}
        described["parameters"] = round(float(np.expm1(4.0 * embedding[0] + 10.0)))
        index.add(task, described, length, seconds)
        _learn(rates, shape.label, seconds / length)
        usual = float(np.median(list(rates.values())))
        left = sum(n * rates.get(schedule_tasks.shape_of(t).label, usual) for t, n in missing[number + 1 :])
        text = f"{len(kept) + number + 1}/{len(plan)} trainings: task {task}, {shape.label}, {length} steps, "
        best = options.heights[int(np.argmin(new["final_loss"]))]
        progress.show(text + f"best height {best:.2g}, {seconds:.1f} s, {format_seconds(left)} left")
    done = sum(len(entry["seconds"]) for entry in index.tasks.values())
    progress.show(f"{done} trainings at {len(options.heights)} heights in {options.out}", last=True)


def _learn(rates: dict[str, float], label: str, rate: float) -> None:
    """Takes in the seconds per step of a training; the least counts, which has no compilation in it."""
    rates[label] = min(rate, rates.get(label, rate))


def check(options: argparse.Namespace, weights: celo_zoo.Pretrained, steps: int = 60) -> None:
    """Compares the beginning of a training at height 1 with the unmodified optimizer's, for some shapes.

    Raises:
      ValueError: they differ, or `schedule_signals.check`.
    """
    schedule_signals.check()
    for task in range(0, len(schedule_tasks.SHAPES), 4):
        shape = schedule_tasks.shape_of(task)
        grid = Grid(weights, shape.build(_datasets(options), options.data_dir), (0.5, 1.0))
        draw = schedule_tasks.Draw(task, options.seed, grid.family)
        losses = grid.train(draw, steps)[0].loss[:, 1]
        config = grid.family.config(draw)
        plain = dataclasses.replace(grid.problem, family=_Raw(grid.family))
        run_plain = lambda key, p, theta, c, d: train(p, theta, key, c, d, steps)[1]
        arguments = (jax.random.key(draw.seed), plain, grid.theta, config, grid.data)
        expected = jax.jit(run_plain, static_argnums=1)(*arguments)
        # Sums in another order; the difference grows along a training.
        error = float(np.max(np.abs(losses - expected) / (np.abs(expected) + 1e-6)))
        print(f"{shape.label}: {steps} losses at height 1 are the unmodified optimizer's within {error:.1g}")
        if not error < 0.01:
            raise ValueError(f"height 1 trains {shape.label} otherwise than the unmodified optimizer does.")


class _Raw:
    """A family whose normalised loss is the loss."""

    def __init__(self, family: Any) -> None:
        self._family = family

    def __getattr__(self, name: str) -> Any:
        return getattr(self._family, name)

    def normalizer(self, loss: Array) -> Array:
        """The loss itself."""
        return loss


def _datasets(options: argparse.Namespace) -> tuple[str, ...]:
    return OFFLINE_DATASETS if options.data_dir is None else PAPER_DATASETS


def _floats(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _integers(text: str) -> tuple[int, ...]:
    return tuple(sorted({int(part) for part in text.split(",")}))


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the records")
    parser.add_argument("--tasks", type=int, default=256, help="number of tasks (256)")
    parser.add_argument("--lengths", type=_integers, default=LENGTHS, help="steps of the trainings (300,1000,3000)")
    parser.add_argument("--heights", type=_floats, default=HEIGHTS, help="factors on the updates (13 from 1/16 to 4)")
    parser.add_argument("--weights", default="celo", metavar="REF", help="a Celo, as for celo_zoo.load (celo)")
    parser.add_argument("--data-dir", help="folder with the paper's four image sets (the two in the package)")
    parser.add_argument("--minutes", type=float, help="time after which no further training begins")
    parser.add_argument("--seed", type=int, default=0, help="of the tasks (0)")
    parser.add_argument("--repeat", type=int, default=0, help="which further initialisation and batches (0: the first)")
    parser.add_argument("--summary", action="store_true", help="sum up the records that there are")
    parser.add_argument("--check", action="store_true", help="compare height 1 with the unmodified optimizer")
    parser.add_argument(
        "--repeats", type=Path, nargs="+", metavar="DIR", help="write repeats.npz of these folders' losses"
    )
    options = parser.parse_args()
    try:
        if options.repeats:
            print(schedule_records.write_repeats(options.out, options.repeats))
            return 0
        if options.summary:
            print(schedule_summary.write(options.out))
            return 0
        if min(options.lengths) < 20 or min(options.heights) <= 0 or options.tasks < 1:
            raise ValueError("there must be a task, heights above 0 and lengths of at least 20 steps.")
        weights = celo_zoo.load(options.weights)
        if weights.architecture.name != "celo":
            raise ValueError(f"{options.weights} is not a Celo, whose momenta are read: give the weights of one.")
        (check if options.check else run)(options, weights)
    except (OSError, ValueError, KeyError) as error:
        print(f"schedule_labels: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
