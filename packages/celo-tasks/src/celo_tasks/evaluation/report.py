"""What an evaluation found, as Markdown, JSON and pictures: rebuilt from a store at any time."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from celo_core import files
from celo_tasks import __version__
from celo_tasks.evaluation import plots, statistics
from celo_tasks.evaluation.curves import six_digits
from celo_tasks.evaluation.scores import Score, Scores, scores
from celo_tasks.evaluation.statistics import Interval, stratified_bootstrap
from celo_tasks.evaluation.store import Store, curve_steps
from celo_tasks.reporting import tables
from celo_tasks.reporting.palette import colors
from celo_tasks.tasks.registry import TASKS

PICTURES = {"curves.png": "training curves", "intervals.png": "aggregates", "profiles.png": "performance profiles"}

NOTES = """\
Scores are relative to tuned Adam = 1, higher is better; in brackets 95 % stratified bootstrap intervals over seeds. Tuned
optimizers have the best setting of a grid for each task, by training loss on these very seeds; an optimizer without a
learning rate is taken as it is. Final-loss ratio: Adam's final training loss over the optimizer's. Speed-up: steps that
tuned Adam needs to the optimizer's final loss, over the steps taken; ">" where Adam did not get there in its longest
runs, so that the speed-up is more than that. Gap: how far runs fall short of Adam, lower is better. P(better): probability
that a run of it beats one of Adam. Time per step includes what else the machine did meanwhile. A star marks a learning
rate at the edge of the grid."""


@dataclasses.dataclass(frozen=True)
class Aggregate:
    """An optimizer over a suite.

    Attributes:
      optimizer: its name.
      tasks: number of tasks that the numbers are over.
      seeds: number of seeds.
      diverged: diverged runs at the best settings.
      runs: runs at the best settings.
      lower_bound: whether some speed-up is a lower bound only.
      ratio, speedup: per statistic (iqm, median, mean, optimality_gap), of the final-loss ratio and of the speed-up.
      better_than_adam: probability of improvement of the final-loss ratio over Adam's seeds, if known.
      rank: average rank by final-loss ratio among the optimizers, if there are several.
    """

    optimizer: str
    tasks: int
    seeds: int
    diverged: int
    runs: int
    lower_bound: bool
    ratio: dict[str, Interval]
    speedup: dict[str, Interval]
    better_than_adam: Interval | None
    rank: float | None


STATISTICS = {
    "iqm": statistics.iqm,
    "median": statistics.median,
    "mean": statistics.mean,
    "optimality_gap": statistics.optimality_gap,
}


def aggregate(found: Scores) -> list[Aggregate]:
    """Aggregates of every optimizer that has a score, best IQM of the final-loss ratio first.

    Each is over the tasks that it was run on; ranks are over the tasks that all were run on.
    """
    shared = found.complete_tasks()
    ranks: dict[str, float] = {}
    if shared and len(found.optimizers) > 1:
        values = statistics.average_ranks(*(found.matrix(name, shared, "ratio") for name in found.optimizers))
        ranks = dict(zip(found.optimizers, map(float, values), strict=True))
    rows = []
    for name in found.optimizers:
        tasks = found.complete_tasks([name])
        if not tasks:
            continue
        own = [found.by_name[name, task] for task in tasks]
        ratio, speedup = (found.matrix(name, tasks, what) for what in ("ratio", "speedup"))
        rows.append(
            Aggregate(
                optimizer=name,
                tasks=len(tasks),
                seeds=len(ratio),
                diverged=sum(score.diverged for score in own),
                runs=sum(len(score.runs) for score in own),
                lower_bound=found.any_lower_bound(name, tasks),
                ratio={key: stratified_bootstrap(ratio, function) for key, function in STATISTICS.items()},
                speedup={key: stratified_bootstrap(speedup, function) for key, function in STATISTICS.items()},
                better_than_adam=_better(found, name, ratio, tasks),
                rank=ranks.get(name),
            )
        )
    return sorted(rows, key=lambda row: -row.ratio["iqm"].value)


def _better(found: Scores, name: str, ratio: Any, tasks: Sequence[str]) -> Interval | None:
    seeds = min(len(found.adam[task].final_loss_by_seed) for task in tasks)
    adam = np.asarray(
        [found.adam[task].final_loss / np.maximum(found.adam[task].final_loss_by_seed[:seeds], 1e-8) for task in tasks]
    )
    return None if name == "adam" else stratified_bootstrap((ratio, adam.T), statistics.probability_of_improvement)


def write(store: Store, folder: str | os.PathLike[str]) -> str:
    """Writes report.md, report.json and the pictures, each atomically.

    Args:
      store: the runs.
      folder: where the files go.

    Returns:
      The report as Markdown, without the pictures.

    Raises:
      ValueError: the store holds no run.
      OSError: a file could not be written; the store is not touched.
    """
    folder = pathlib.Path(folder)
    if not store.runs:
        raise ValueError(f"{store.folder} holds no finished run yet: go on with `celo-tasks evaluate`.")
    found = scores(store)
    rows = aggregate(found)
    text = markdown(store, found, rows)
    palette = colors([row.optimizer for row in rows] or found.optimizers)
    files.write_bytes(folder / "curves.png", plots.draw_curves(_panels(store, found), palette))
    shown = ["curves.png"]
    if rows:
        bars = [plots.Row(row.optimizer, row.ratio["iqm"], row.speedup["iqm"], row.lower_bound) for row in rows]
        files.write_bytes(folder / "intervals.png", plots.draw_intervals(bars, palette))
        files.write_bytes(folder / "profiles.png", plots.draw_profiles(_profiles(found, rows), palette=palette))
        shown += ["intervals.png", "profiles.png"]
    images = "\n\n".join(f"![{PICTURES[name]}]({name})" for name in shown)
    files.write_bytes(folder / "report.md", f"{text}\n\n{images}\n".encode())
    files.write_json(folder / "report.json", to_json(store, found, rows))
    return text


def markdown(store: Store, found: Scores, rows: Sequence[Aggregate]) -> str:
    """The report's text."""
    machines = sorted({run.machine for run in store.runs.values()})
    versions = sorted({" ".join(f"{k} {v}" for k, v in run.versions.items()) for run in store.runs.values()})
    head = [
        f"# Evaluation on {store.header['suite']}",
        f"{len(found.tasks)} tasks, {store.steps} steps, {len(store.runs)} runs on {'; '.join(machines)} ({'; '.join(versions)}).",
    ]
    if found.adam_from_package:
        head.append(f"Tuned Adam on {', '.join(found.adam_from_package)} is that of celo-tasks {__version__}.")
    if lacking := [task for task in found.tasks if task not in found.adam]:
        head.append(f"Without tuned Adam, and so without scores: {', '.join(lacking)}.")
    if incomplete := sorted({row.optimizer for row in rows if row.tasks < len(found.adam)}):
        head.append(f"Not run on every task, so aggregated over fewer: {', '.join(incomplete)}.")
    parts = ["\n\n".join(head)]
    if rows:
        parts += ["## Over all tasks", tables.markdown(_SUMMARY, [_summary(row) for row in rows])]
    parts += [
        "## Task by task",
        tables.markdown(_TASKS, [_task_row(found, score) for score in _ordered(found, rows)]),
        NOTES,
    ]
    return "\n\n".join(parts)


def _ordered(found: Scores, rows: Sequence[Aggregate]) -> list[Score]:
    names = [row.optimizer for row in rows] + [
        name for name in found.optimizers if name not in {r.optimizer for r in rows}
    ]
    return [found.by_name[name, task] for task in found.tasks for name in names if (name, task) in found.by_name]


_SUMMARY = (
    "optimizer",
    "final-loss ratio, IQM",
    "median",
    "mean",
    "gap",
    "speed-up, IQM",
    "median",
    "mean",
    "gap",
    "P(better)",
    "rank",
    "diverged",
    "tasks x seeds",
)

_TASKS = ("task", "optimizer", "setting", "final loss", "ratio", "speed-up", "diverged", "held-out loss", "ms/step")


def _summary(row: Aggregate) -> tuple[str, ...]:
    bound = "> " if row.lower_bound else ""
    cells = [row.optimizer]
    for values, mark in ((row.ratio, ""), (row.speedup, bound)):
        cells.append(mark + _interval(values["iqm"]))
        cells += [f"{mark}{values[key].value:.2f}" for key in ("median", "mean")]
        cells.append(f"{values['optimality_gap'].value:.2f}")
    cells.append("-" if row.better_than_adam is None else _interval(row.better_than_adam))
    cells.append("-" if row.rank is None else f"{row.rank:.2f}")
    return (*cells, f"{row.diverged} of {row.runs}", f"{row.tasks} x {row.seeds}")


def _interval(value: Interval) -> str:
    return f"{value.value:.2f} [{value.low:.2f}, {value.high:.2f}]"


def _task_row(found: Scores, score: Score) -> tuple[str, ...]:
    loss = score.held_out("loss")
    speedup = "-"
    if score.speedup is not None:
        speedup = f"{'> ' if any(score.lower_bound) else ''}{np.mean(score.speedup):.2f}"
    return (
        score.task,
        score.optimizer,
        score.setting + ("*" if score.at_edge else ""),
        f"{score.final_loss:.4g}",
        "-" if score.ratio is None else f"{np.mean(score.ratio):.2f}",
        speedup,
        f"{score.diverged} of {len(score.runs)}",
        "-" if loss is None else f"{loss:.4g}",
        f"{1e3 * score.seconds_per_step:.2f}",
    )


def _panels(store: Store, found: Scores) -> list[plots.Panel]:
    steps = curve_steps(store.steps)
    panels = []
    for task in found.tasks:
        lines = []
        for name in found.optimizers:
            if score := found.by_name.get((name, task)):
                runs = np.stack([run.smoothed for run in score.runs])
                lines.append(plots.Line(name, steps, runs.mean(axis=0), runs.min(axis=0), runs.max(axis=0)))
        adam = found.adam.get(task)
        envelope = None if adam is None else plots.Line("tuned Adam, envelope", adam.steps, adam.envelope)
        panels.append(plots.Panel(f"{task} ({TASKS[task].kind})" if task in TASKS else task, lines, envelope))
    return panels


def _profiles(found: Scores, rows: Sequence[Aggregate]) -> list[plots.Profile]:
    matrices = {
        row.optimizer: found.matrix(row.optimizer, found.complete_tasks([row.optimizer]), "ratio") for row in rows
    }
    values = np.concatenate([matrix.ravel() for matrix in matrices.values()])
    thresholds = np.geomspace(max(values.min() / 1.1, 0.2), min(values.max() * 1.1, 5.0), 200)
    profile = lambda matrix: statistics.performance_profile(matrix, thresholds)
    return [plots.Profile(name, thresholds, stratified_bootstrap(one, profile)) for name, one in matrices.items()]


def to_json(store: Store, found: Scores, rows: Sequence[Aggregate]) -> dict[str, Any]:
    """Every number of the report."""
    return {
        "suite": store.header["suite"],
        "steps": store.steps,
        "runs": len(store.runs),
        "machines": sorted({run.machine for run in store.runs.values()}),
        "versions": [dict(one) for one in {tuple(run.versions.items()) for run in store.runs.values()}],
        "adam_from_package": list(found.adam_from_package),
        "aggregates": [_rounded(dataclasses.asdict(row)) for row in rows],
        "tasks": [
            {
                "task": score.task,
                "optimizer": score.optimizer,
                "identity": score.runs[0].optimizer_identity,
                "dataset": score.runs[0].dataset,
                "parameters": score.runs[0].parameters,
                "setting": score.setting,
                "at_edge": score.at_edge,
                "settings": score.settings,
                "settings_that_diverged": score.diverged_settings,
                "final_loss_by_seed": [run.final_loss for run in score.runs],
                "diverged": score.diverged,
                "ratio_by_seed": _rounded(score.ratio),
                "speedup_by_seed": _rounded(score.speedup),
                "speedup_is_lower_bound": list(score.lower_bound),
                "held_out": _rounded({name: score.held_out(name) for name in score.runs[0].held_out}),
                "seconds_per_step": _rounded(score.seconds_per_step),
            }
            for score in _ordered(found, rows)
        ],
        "tuned_adam": {
            task: {"setting": adam.setting, "final_loss": _rounded(adam.final_loss), "longest_run": adam.horizon}
            for task, adam in found.adam.items()
        },
    }


def _rounded(value: Any) -> Any:
    """Floats with six significant digits, intervals as their three numbers."""
    if isinstance(value, Interval):
        return {"low": _rounded(value.low), "value": _rounded(value.value), "high": _rounded(value.high)}
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return six_digits(value) if isinstance(value, float) else value
