"""Does every run of an evaluation that its store lacks, in one process or several, and shows how far it is."""

import contextlib
import dataclasses
import functools
import itertools
import multiprocessing
import os
import queue
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from celo_core.progress import ProgressLine, format_seconds
from celo_tasks import baselines
from celo_tasks.baselines.tuning import SCHEDULES, Setting, grid
from celo_tasks.evaluation import extension, reference
from celo_tasks.evaluation.competitors import UNTUNED, Spec, resolve
from celo_tasks.evaluation.store import Run, RunKey, Store
from celo_tasks.evaluation.worker import Group, Worker, attempt, task_identity, work
from celo_tasks.tasks.registry import find_task

BASELINE = "adam"
"""What final-loss ratios and speed-ups are relative to."""

COMPILE_COST = 5e3
"""Milliseconds that a compilation counts in the estimate of the time left."""

UNKNOWN_COST = 10.0
"""Milliseconds that a step counts there where it was not measured."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of an evaluation.

    Attributes:
      suite: name of the suite, or ``"custom"``.
      tasks: names of tasks.
      specs: the optimizers.
      tune_adam: tasks on which Adam is tuned though it is not among ``specs``.
      steps: length of every training.
      seeds: number of seeds, 0, 1, ...
      learning_rates, schedules: the grid that every tuned optimizer is tried on.
      longest: tuned Adam is extended to runs of this many times the length, where a speed-up needs it.
      jobs: processes.
      batch: trainings at once in one program.
      data_dir: folder of prepared arrays, or ``None``.
    """

    suite: str
    tasks: tuple[str, ...]
    specs: tuple[Spec, ...]
    steps: int
    seeds: int = 3
    learning_rates: tuple[float, ...] = baselines.LEARNING_RATES_SMALL
    schedules: tuple[str, ...] = SCHEDULES
    longest: int = 4
    jobs: int = 1
    batch: int = 1
    data_dir: str | None = None
    tune_adam: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.tasks:
            find_task(name)
        names = [spec.name for spec in self.specs]
        if repeated := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"the name {repeated!r} is given twice: write NAME=REFERENCE for one of the two.")
        if any(spec.name == BASELINE != spec.reference for spec in self.specs):
            raise ValueError(f"{BASELINE!r} is what scores are relative to: give your optimizer another name.")
        if not self.tasks or not self.specs:
            raise ValueError("an evaluation needs at least one task and one optimizer.")
        for what in ("steps", "seeds", "jobs", "batch", "longest"):
            if getattr(self, what) < 1:
                raise ValueError(f"{what} must be at least 1, not {getattr(self, what)}.")
        if self.steps < 20:
            raise ValueError(f"steps must be at least 20 for a final loss to be a mean of some, not {self.steps}.")
        grid(self.learning_rates, self.schedules)  # refuses what is no learning rate or schedule


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
    settings: Settings,
    folder: str | os.PathLike[str],
    *,
    minutes: float | None = None,
    progress: ProgressLine | None = None,
) -> list[Failure]:
    """Runs what is missing in the folder's store.

    Args:
      settings: what is to be there at the end.
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
    adam = Spec(BASELINE, BASELINE)
    tasks_of = {spec: settings.tasks for spec in settings.specs}
    tasks_of.setdefault(adam, settings.tune_adam)
    competitors = {spec: resolve(spec) for spec in tasks_of}
    identities = {name: task_identity(name, settings.data_dir) for name in settings.tasks}
    store = Store.create(folder, settings.suite, settings.tasks, settings.steps)
    for spec, competitor in competitors.items():
        _check_identities(store, spec.name, competitor.identity, identities)
    tuning = grid(settings.learning_rates, settings.schedules)
    groups = [
        group
        for name in settings.tasks
        for spec, competitor in competitors.items()
        if name in tasks_of[spec]
        and (group := _missing(store, settings, name, spec, tuning if competitor.tuned else UNTUNED, settings.steps))
    ]
    session = _Session(settings, store, progress or ProgressLine(), minutes)
    failures = session.run(groups)
    # Longer runs of Adam, where an optimizer ended below all that Adam did: each length tells whether the next is needed.
    length = 2 * settings.steps
    while length <= settings.longest * settings.steps:
        groups = [
            group
            for name in settings.tasks
            if (chosen := extension.settings_to_extend(store, name, BASELINE, length))
            and (group := _missing(store, settings, name, adam, chosen, length))
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
    store: Store, settings: Settings, task: str, spec: Spec, points: Sequence[Setting], steps: int
) -> Group | None:
    keys = [RunKey(task, spec.name, str(point), seed, steps) for point in points for seed in range(settings.seeds)]
    members = tuple((key.setting, key.seed) for key in keys if key not in store.runs)
    batch = min(settings.batch, len(members))
    return Group(task, spec, steps, settings.steps, members, batch, settings.data_dir) if members else None


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

    def __init__(self, settings: Settings, store: Store, progress: ProgressLine, minutes: float | None) -> None:
        self._settings, self._store, self._progress = settings, store, progress
        costs = {name: find_task(name).cost() for name in settings.tasks}
        self._cost = {name: (cost and cost.milliseconds) or UNKNOWN_COST for name, cost in costs.items()}
        self._deadline = float("inf") if minutes is None else time.monotonic() + 60 * minutes
        self._worker: Worker | None = None

    def run(self, groups: Sequence[Group]) -> list[Failure]:
        """Does the groups; returns what failed."""
        if not groups:
            return []
        self._failures: list[Failure] = []
        self._begin, self._done_runs = time.monotonic(), 0
        self._total_runs = sum(len(group.members) for group in groups)
        self._total = sum(map(self._work, groups))
        self._finished = 0.0
        if self._settings.jobs == 1:
            self._worker = self._worker or Worker()
            for group in groups:
                self._show(f"{group.spec.name} on {group.task}: compiling")
                attempt(self._worker, group, self._receive)
        else:
            self._run_processes(_split(groups, self._settings.jobs, self._work))
        self._show("", last=True)
        return self._failures

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
            setting = "" if last.key.setting == "none" else f" at {last.key.setting}"
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

    def _run_processes(self, groups: Sequence[Group]) -> None:
        context = multiprocessing.get_context("spawn")
        waiting, results = context.Queue(), context.Queue()
        jobs = min(self._settings.jobs, len(groups))
        for group in [*groups, *[None] * jobs]:
            waiting.put(group)
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        # As many processes as cores: each gets one, since XLA's threads gain little on networks this small.
        pinned = [cores[i] if jobs == len(cores) else None for i in range(jobs)]
        processes = [context.Process(target=work, args=(waiting, results, core), daemon=True) for core in pinned]
        with _without_interrupts():
            for process in processes:
                process.start()
        try:
            open_groups = len(groups)
            while open_groups:
                try:
                    message = results.get(timeout=2.0)
                except queue.Empty:
                    if any(process.exitcode not in (None, 0) for process in processes):
                        raise RuntimeError(
                            "a process of the evaluation died, perhaps for lack of memory: the same command goes on where it "
                            "was, with --jobs 1 it takes less."
                        ) from None
                    continue
                self._receive(message)
                open_groups -= message[0] == "done"
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.join(timeout=5)
            for one in (waiting, results):
                with contextlib.suppress(OSError, ValueError):
                    one.cancel_join_thread()
                    one.close()


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes that are started in this block get no SIGINT while they import what they need; this one gets it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _split(groups: Sequence[Group], jobs: int, work_of: Callable[[Group], float]) -> list[Group]:
    """Groups for several processes, the costliest first; one that is more than a process's share is cut."""
    share = sum(map(work_of, groups)) / jobs
    pieces: list[Group] = []
    for group in groups:
        count = min(len(group.members), max(1, round(work_of(group) / share * 2 if work_of(group) > share / 2 else 1)))
        cut = [len(group.members) * i // count for i in range(count + 1)]
        pieces += [
            dataclasses.replace(group, members=group.members[a:b], batch=min(group.batch, b - a))
            for a, b in itertools.pairwise(cut)
        ]
    return sorted(pieces, key=work_of, reverse=True)


def print_failures(failures: Sequence[Failure]) -> None:
    """One line each on standard error."""
    for failure in failures:
        print(
            f"celo-tasks: {failure.optimizer} failed on {failure.task}: {failure.text}; its other runs are kept.",
            file=sys.stderr,
        )
