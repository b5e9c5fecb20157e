"""From scores by task to an optimizer's scores over a suite, with bootstrap intervals."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from celo_tasks.evaluation import statistics
from celo_tasks.evaluation.scores import SMALLEST_LOSS, Score, Scores
from celo_tasks.evaluation.statistics import Interval, stratified_bootstrap


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
        [
            found.adam[task].final_loss / np.maximum(found.adam[task].final_loss_by_seed[:seeds], SMALLEST_LOSS)
            for task in tasks
        ]
    )
    return None if name == "adam" else stratified_bootstrap((ratio, adam.T), statistics.probability_of_improvement)


def ordered(found: Scores, rows: Sequence[Aggregate]) -> list[Score]:
    """All scores, task by task, the optimizers in the order of ``rows`` and then those without aggregates."""
    names = list(dict.fromkeys([*(row.optimizer for row in rows), *found.optimizers]))
    return [found.by_name[name, task] for task in found.tasks for name in names if (name, task) in found.by_name]
