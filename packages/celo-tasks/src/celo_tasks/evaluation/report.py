"""What an evaluation found, as Markdown, JSON and pictures: rebuilt from a store at any time."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from celo_core import files
from celo_tasks.evaluation import plots, report_text, statistics
from celo_tasks.evaluation.aggregates import Aggregate, aggregate, ordered
from celo_tasks.evaluation.curves import six_digits
from celo_tasks.evaluation.scores import Scores, scores
from celo_tasks.evaluation.statistics import Interval, stratified_bootstrap
from celo_tasks.evaluation.store import Store, curve_steps
from celo_tasks.reporting.palette import colors
from celo_tasks.tasks.registry import TASKS

PICTURES = {"curves.png": "training curves", "intervals.png": "aggregates", "profiles.png": "performance profiles"}


def write(store: Store, folder: str | os.PathLike[str], *, brief: bool = False) -> str:
    """Writes report.md, report.json and the pictures, each atomically.

    Args:
      store: the runs.
      folder: where the files go.
      brief: whether to return less than is written.

    Returns:
      The report as Markdown, without the pictures; if ``brief`` its table by task, what that says in words, and notes.

    Raises:
      ValueError: the store holds no run.
      OSError: a file could not be written; the store is not touched.
    """
    folder = pathlib.Path(folder)
    if not store.runs:
        raise ValueError(f"{store.folder} holds no finished run yet: go on with `celo-tasks evaluate`.")
    found = scores(store)
    rows = aggregate(found)
    text = report_text.report(store, found, rows)
    palette = colors([row.optimizer for row in rows] or found.optimizers)
    files.write_bytes(folder / "curves.png", plots.draw_curves(_panels(store, found), palette))
    shown = ["curves.png"]
    if rows:
        bars = [
            plots.OptimizerRow(row.optimizer, row.ratio["iqm"], row.speedup["iqm"], row.lower_bound) for row in rows
        ]
        files.write_bytes(folder / "intervals.png", plots.draw_intervals(bars, palette))
        files.write_bytes(folder / "profiles.png", plots.draw_profiles(_profiles(found, rows), palette=palette))
        shown += ["intervals.png", "profiles.png"]
    images = "\n\n".join(f"![{PICTURES[name]}]({name})" for name in shown)
    files.write_bytes(folder / "report.md", f"{text}\n\n{images}\n".encode())
    files.write_json(folder / "report.json", to_json(store, found, rows))
    if brief:
        return "\n\n".join(
            [report_text.task_table(found, rows), "\n".join(report_text.sentences(found)), report_text.NOTES]
        )
    return text


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
                "setting": str(score.setting),
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
                "time_over_adam": _rounded(score.time_over_adam),
            }
            for score in ordered(found, rows)
        ],
        "tuned_adam": {
            task: {"setting": str(adam.setting), "final_loss": _rounded(adam.final_loss), "longest_run": adam.horizon}
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
