"""From the runs in a store to scores against tuned Adam; docs/metrics.md has the formulas."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from celo_tasks.baselines.tuning import Setting
from celo_tasks.evaluation import reference
from celo_tasks.evaluation.store import Run, Store, curve_steps
from celo_tasks.evaluation.tuned_adam import Trial, TunedAdam, best_trial, steps_to, trials, tuned_adam

SMALLEST_LOSS = 1e-8
"""Losses below count as this, so that a ratio of losses is finite."""


@dataclasses.dataclass(frozen=True)
class Score:
    """An optimizer on a task, at its best setting.

    Attributes:
      task, optimizer: names.
      setting: the best one.
      at_edge: whether its learning rate is the smallest or largest of several: a better one may lie outside.
      runs: one per seed.
      settings: number of settings that were tried.
      diverged_settings: number of those of which a run diverged.
      ratio: tuned Adam's final loss over the optimizer's, by seed; ``None`` without Adam.
      speedup: steps that tuned Adam needs over the steps taken, by seed; ``None`` without Adam.
      lower_bound: by seed: whether Adam never got there, so that the speed-up is only known to be above.
      steps_to_adam: steps after which the smoothed loss, mean over seeds, is at tuned Adam's final loss; ``None`` if never.
      time_over_adam: time per step over that of Adam's best setting, median over the trainings that advanced in turn;
        ``None`` where none did.
    """

    task: str
    optimizer: str
    setting: Setting
    at_edge: bool
    runs: tuple[Run, ...]
    settings: int
    diverged_settings: int
    ratio: tuple[float, ...] | None
    speedup: tuple[float, ...] | None
    lower_bound: tuple[bool, ...]
    steps_to_adam: float | None
    time_over_adam: float | None

    @property
    def diverged(self) -> int:
        """Number of diverged runs at the best setting."""
        return sum(run.diverged for run in self.runs)

    @property
    def final_loss(self) -> float:
        """Mean over seeds."""
        return float(np.mean([run.final_loss for run in self.runs]))

    @property
    def seconds_per_step(self) -> float:
        """Median over seeds."""
        return float(np.median([run.seconds / run.key.steps for run in self.runs]))

    def held_out(self, metric: str) -> float | None:
        """Mean over seeds, ``None`` where it was not measured or is not finite."""
        values = [run.held_out.get(metric) for run in self.runs]
        return None if None in values or not values else float(np.mean(values))  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class Scores:
    """All scores of a store.

    Attributes:
      tasks: names of tasks that have a score, in the store's order.
      optimizers: names, in the order in which they were first run.
      adam: tuned Adam by task.
      adam_from_package: names of the tasks whose tuned Adam comes with the package.
      by_name: scores by optimizer and task.
    """

    tasks: tuple[str, ...]
    optimizers: tuple[str, ...]
    adam: dict[str, TunedAdam]
    adam_from_package: tuple[str, ...]
    by_name: dict[tuple[str, str], Score]

    def complete_tasks(self, optimizers: Sequence[str] | None = None) -> tuple[str, ...]:
        """Tasks on which there is tuned Adam and all these optimizers (by default every one) have a score."""
        names = self.optimizers if optimizers is None else optimizers
        return tuple(
            task
            for task in self.tasks
            if task in self.adam and all((optimizer, task) in self.by_name for optimizer in names)
        )

    def matrix(self, optimizer: str, tasks: Sequence[str], what: str) -> NDArray[np.float64]:
        """``"ratio"`` or ``"speedup"``, float64 (seeds, tasks); of the seeds that every task has."""
        rows = [getattr(self.by_name[optimizer, task], what) for task in tasks]
        seeds = min(map(len, rows))
        return np.asarray([row[:seeds] for row in rows], np.float64).T

    def any_lower_bound(self, optimizer: str, tasks: Sequence[str]) -> bool:
        """Whether a speed-up is a lower bound only."""
        return any(any(self.by_name[optimizer, task].lower_bound) for task in tasks)


def scores(store: Store, baseline: str = "adam") -> Scores:
    """The scores of everything that a store holds."""
    by_name: dict[tuple[str, str], Score] = {}
    adam: dict[str, TunedAdam] = {}
    packaged = []
    tasks = [task for task in store.header["tasks"] if any(key.task == task for key in store.runs)]
    for task in tasks:
        own = [run for key, run in store.runs.items() if key.task == task and key.optimizer == baseline]
        tuned = tuned_adam(own, store.steps)
        if tuned is None:
            some = next(run for key, run in store.runs.items() if key.task == task)
            tuned = reference.find(
                store.header["suite"],
                task,
                store.steps,
                lambda identity=some.task_identity: identity,  # type: ignore[misc]
            )
            packaged += [task] if tuned else []
        if tuned is not None:
            adam[task] = tuned
        tried = {name: found for name in store.optimizers() if (found := trials(store.select(task, name)))}
        timed = best_trial(tried[baseline]).runs if baseline in tried else ()
        for optimizer, found in tried.items():
            by_name[optimizer, task] = _score(task, optimizer, found, tuned, timed, store.steps)
    names = tuple(name for name in store.optimizers() if any(key[0] == name for key in by_name))
    return Scores(tuple(tasks), names, adam, tuple(packaged), by_name)


def _score(
    task: str, optimizer: str, found: list[Trial], tuned: TunedAdam | None, timed: Sequence[Run], steps: int
) -> Score:
    chosen = best_trial(found)
    rates = [trial.setting.learning_rate for trial in found]
    rate = chosen.setting.learning_rate
    edges = {min(rates), max(rates)} if rate is not None and len(set(rates)) > 1 else set()  # type: ignore[type-var]
    ratio = speedup = None
    steps_to_adam = None
    bounds: list[bool] = []
    if tuned is not None:
        ratio = tuple(max(tuned.final_loss, SMALLEST_LOSS) / max(run.final_loss, SMALLEST_LOSS) for run in chosen.runs)
        factors = []
        for run in chosen.runs:
            # Both sides are smoothed alike: a smoothed curve lags behind its losses.
            needed = tuned.steps_to(run.curve[-1])
            bounds.append(needed is None)
            factors.append((tuned.horizon if needed is None else needed) / steps)
        speedup = tuple(factors)
        steps_to_adam = steps_to(curve_steps(steps), np.minimum.accumulate(chosen.curve), tuned.final_loss)
    return Score(
        task=task,
        optimizer=optimizer,
        setting=chosen.setting,
        at_edge=rate in edges,
        runs=chosen.runs,
        settings=len(found),
        diverged_settings=sum(any(run.diverged for run in trial.runs) for trial in found),
        ratio=ratio,
        speedup=speedup,
        lower_bound=tuple(bounds),
        steps_to_adam=steps_to_adam,
        time_over_adam=_time_over(chosen.runs, timed),
    )


def _time_over(runs: Sequence[Run], others: Sequence[Run]) -> float | None:
    """Median ratio of the times per step of runs that advanced in turn; ``None`` without such."""
    ratios = [
        (mine.seconds / mine.key.steps) / (other.seconds / other.key.steps)
        for mine in runs
        for other in others
        if mine.timing and mine.timing == other.timing and other.seconds > 0
    ]
    return float(np.median(ratios)) if ratios else None
