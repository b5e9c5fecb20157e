"""Does every run of an evaluation that its store lacks, in one process or several, and shows how far it is."""

import dataclasses
import functools
import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from celo_core.progress import ProgressLine, format_seconds
from celo_tasks.baselines.tuning import Setting
from celo_tasks.evaluation import extension, reference
from celo_tasks.evaluation.loading import task_identity
from celo_tasks.evaluation.optimizer_specs import UNTUNED, OptimizerSpec, resolve
from celo_tasks.evaluation.plan import BASELINE, EvaluationPlan
from celo_tasks.evaluation.processes import run_processes
from celo_tasks.evaluation.store import Run, RunKey, Store
from celo_tasks.evaluation.worker import Group, Worker, attempt
from celo_tasks.tasks.registry import find_task

COMPILE_COST = 5e3
"""Milliseconds that a compilation counts in the estimate of the time left."""

UNKNOWN_COST = 10.0
"""Milliseconds that a step counts there where it was not measured."""


@dataclasses.dataclass
class Failure:
    """A group that an optimizer or a task did not survive.

    Attributes:
      task, optimizer: names.
      text: what was raised.
    """

    task: str
    optimizer: str
    text: str


class TimeIsUp(Exception):
    """The minutes that an evaluation was given are over; what is done is in the store."""


def evaluate(
    plan: EvaluationPlan,
    folder: str | os.PathLike[str],
    *,
    minutes: float | None = None,
    progress: ProgressLine | None = None,
) -> list[Failure]:
    """Runs what is missing in the folder's store.

    Args:
      plan: what is to be there at the end.
      folder: of the store; made if there is none.
      minutes: stop at the end of the first run that ends after so long.
      progress: where progress is shown.

    Returns:
      What failed; everything else is in the store.

    Raises:
      TimeIsUp: there are no ``minutes`` left.
      ValueError: an unknown name, weights that can't be read, or a store of other settings; nothing was run.
      FileNotFoundError: a data set is absent; nothing was run.
      OSError: the store could not be written; what is in it stays.
      RuntimeError: a process died.
    """
    adam = OptimizerSpec(BASELINE, BASELINE)
    tasks_of = {spec: plan.tasks for spec in plan.specs}
    tasks_of.setdefault(adam, plan.tune_adam)
    optimizers = {spec: resolve(spec) for spec in tasks_of}
    identities = {name: task_identity(name, plan.data_dir) for name in plan.tasks}
    store = Store.create(folder, plan.suite, plan.tasks, plan.steps)
    for spec, optimizer in optimizers.items():
        _check_identities(store, spec.name, optimizer.identity, identities)
    groups = [
        group
        for name in plan.tasks
        for spec, optimizer in optimizers.items()
        if name in tasks_of[spec]
        and (
            group := _missing(store, plan, name, spec, plan.settings(spec) if optimizer.tuned else UNTUNED, plan.steps)
        )
    ]
    session = _Session(plan, store, progress or ProgressLine(), minutes)
    failures = session.run(groups)
    # Longer runs of Adam, where an optimizer ended below all that Adam did: each length tells whether the next is needed.
    length = 2 * plan.steps
    while length <= plan.longest * plan.steps:
        groups = [
            group
            for name in plan.tasks
            if (chosen := extension.settings_to_extend(store, name, BASELINE, length))
            and (group := _missing(store, plan, name, adam, chosen, length))
        ]
        failures += session.run(groups)
        length *= 2
    return failures


def needs_adam(suite: str, tasks: Iterable[str], steps: int, data_dir: str | None) -> list[str]:
    """The tasks for which the package has no tuned Adam of this length on the data that are here."""
    return [
        name
        for name in tasks
        if reference.find(suite, name, steps, functools.partial(task_identity, name, data_dir)) is None
    ]


def _missing(
    store: Store, plan: EvaluationPlan, task: str, spec: OptimizerSpec, settings: Sequence[Setting], steps: int
) -> Group | None:
    keys = [RunKey(task, spec.name, setting, seed, steps) for setting in settings for seed in range(plan.seeds)]
    members = tuple((key.setting, key.seed) for key in keys if key not in store.runs)
    batch = min(plan.batch, len(members))
    return Group(task, spec, steps, plan.steps, members, batch, plan.data_dir) if members else None


def _check_identities(store: Store, name: str, identity: str, tasks: dict[str, str]) -> None:
    for key, run in store.runs.items():
        if key.task in tasks and run.task_identity != tasks[key.task]:
            raise ValueError(
                f"{store.folder} has runs of {key.task} on other data or by another version of the task: give another --out."
            )
        if key.optimizer == name and run.optimizer_identity != identity:
            raise ValueError(
                f"{store.folder} has runs of another {name!r} (other weights or another version): give this one another "
                f"name by NAME=..., or another --out."
            )


class _Session:
    """Runs groups and puts what they yield into the store."""

    def __init__(self, plan: EvaluationPlan, store: Store, progress: ProgressLine, minutes: float | None) -> None:
        self._plan, self._store, self._progress = plan, store, progress
        costs = {name: find_task(name).cost() for name in plan.tasks}
        self._cost = {name: (cost and cost.milliseconds) or UNKNOWN_COST for name, cost in costs.items()}
        self._deadline = float("inf") if minutes is None else time.monotonic() + 60 * minutes

    def run(self, groups: Sequence[Group]) -> list[Failure]:
        """Does the groups; returns what failed."""
        if not groups:
            return []
        self._failures: list[Failure] = []
        self._begin, self._done_runs = time.monotonic(), 0
        self._total_runs = sum(len(group.members) for group in groups)
        self._total = sum(map(self._work, groups))
        self._finished = 0.0
        if self._plan.timing:
            for together in _in_turn(groups):
                self._show(f"{together[0].task}: compiling")
                self._worker.run_in_turn(together, self._receive)
        elif self._plan.jobs == 1:
            for group in groups:
                self._show(f"{group.spec.name} on {group.task}: compiling")
                attempt(self._worker, group, self._receive)
        else:
            run_processes(groups, self._plan.jobs, self._work, self._receive)
        self._show("", last=True)
        return self._failures

    @functools.cached_property
    def _worker(self) -> Worker:
        return Worker()

    def _work(self, group: Group) -> float:
        return self._cost[group.task] * group.steps * len(group.members) + COMPILE_COST

    def _receive(self, message: tuple[Any, ...]) -> None:
        kind = message[0]
        if kind == "steps":
            self._finished += self._cost[message[1].task] * message[2]
        elif kind == "runs":
            for run in message[1]:
                self._append(run)
            self._done_runs += len(message[1])
            last = message[1][-1]
            setting = "" if last.key.setting in UNTUNED else f" at {last.key.setting}"
            state = "diverged" if last.diverged else f"loss {last.final_loss:.4g}"
            self._show(f"{last.key.task} | {last.key.optimizer}{setting}, seed {last.key.seed}: {state}")
            if time.monotonic() > self._deadline:
                raise TimeIsUp(f"time is up; {len(self._store.runs)} runs are in {self._store.folder}.")
            return
        elif kind == "done":
            self._finished += COMPILE_COST
        elif kind == "failed":
            _, group, text = message
            self._failures.append(Failure(group.task, group.spec.name, text))
        self._show("")

    def _append(self, run: Run) -> None:
        try:
            self._store.append(run)
        except OSError as error:
            raise OSError(
                error.errno,
                f"{self._store.folder} could not be written ({error.strerror}); the {len(self._store.runs)} runs in it are "
                "kept: make room, and give the same command again",
            ) from error

    def _show(self, text: str, *, last: bool = False) -> None:
        share = min(1.0, self._finished / max(self._total, 1e-9))
        elapsed = time.monotonic() - self._begin
        left = f" | {format_seconds(elapsed / share * (1 - share))} left" if 0.01 < share and not last else ""
        tail = f" | {text}" if text else f" in {format_seconds(elapsed)}" if last else ""
        self._progress.show(f"{self._done_runs}/{self._total_runs} runs{left}{tail}", last=last)


def _in_turn(groups: Sequence[Group]) -> list[list[Group]]:
    """The groups cut by seed, those of a task, length and seed together."""
    together: dict[tuple[str, int, int], list[Group]] = {}
    for group in groups:
        for seed in sorted({seed for _, seed in group.members}):
            members = tuple(member for member in group.members if member[1] == seed)
            part = dataclasses.replace(group, members=members, batch=1)
            together.setdefault((group.task, group.steps, seed), []).append(part)
    return list(together.values())


def print_failures(failures: Sequence[Failure]) -> None:
    """One line each on standard error."""
    for failure in failures:
        print(
            f"celo-tasks: {failure.optimizer} failed on {failure.task}: {failure.text}; its other runs are kept.",
            file=sys.stderr,
        )
