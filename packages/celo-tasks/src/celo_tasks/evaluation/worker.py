"""Trains groups of networks: each to its end, or all of a task in turn."""

import dataclasses
import math
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from celo_tasks.baselines.tuning import Setting
from celo_tasks.evaluation.loading import LoadedTask, load_task
from celo_tasks.evaluation.optimizer_specs import OptimizerSpec, ResolvedOptimizer, resolve
from celo_tasks.evaluation.program import TrainingProgram
from celo_tasks.evaluation.store import Run, RunKey, summarize
from celo_tasks.reporting.machine import hardware, versions

REPORT_SECONDS = 1.0
"""Trainings are advanced by as many steps at a time as take about this long."""

TURN = 50
"""Steps that a training takes before it is another's turn, at most."""

Send = Callable[[tuple[Any, ...]], None]
"""Told what happens, by a tuple whose first element says what.

``("steps", group, count)``, ``("runs", list of runs)``, ``("failed", group, text)`` and ``("done", group)``.
"""


@dataclasses.dataclass(frozen=True)
class Group:
    """Trainings that share a compiled program.

    Attributes:
      task: name.
      spec: the optimizer.
      steps: length of every training.
      base: planned length of the evaluation.
      members: setting and seed of each.
      batch: trainings at once.
      data_dir: folder of prepared arrays, or ``None``.
    """

    task: str
    spec: OptimizerSpec
    steps: int
    base: int
    members: tuple[tuple[Setting, int], ...]
    batch: int = 1
    data_dir: str | None = None


class _Training:
    """Networks of a group that are trained at once.

    Attributes:
      seconds_per_step: of each stretch of steps, for all networks together.
    """

    def __init__(
        self, group: Group, optimizer: ResolvedOptimizer, task: LoadedTask, program: TrainingProgram, members: Any
    ) -> None:
        self._group, self._optimizer, self._task, self._program = group, optimizer, task, program
        self._settings, self._seeds = zip(*members, strict=True)
        self._progress, self._members = program.start(self._settings, self._seeds)
        program.compile(self._progress, self._members, task.data)
        self._done, self._seconds = 0, 0.0
        self.seconds_per_step: list[float] = []

    @property
    def finished(self) -> bool:
        return self._done == self._group.steps

    def advance(self, steps: int) -> int:
        """Takes so many steps, or those that are left; returns the number of steps of all networks."""
        end = min(self._done + steps, self._group.steps)
        start = time.perf_counter()
        self._progress = self._program.advance(self._progress, self._members, self._task.data, self._done, end)
        jax.block_until_ready(self._progress)
        elapsed, taken = time.perf_counter() - start, end - self._done
        self._seconds += elapsed
        self.seconds_per_step.append(elapsed / taken)
        self._done = end
        return taken * len(self._seeds)

    def runs(
        self, where: tuple[str, dict[str, str]], seconds_per_step: float | None = None, timing: str = ""
    ) -> list[Run]:
        """The records of the finished trainings; of those that advanced in turn with others, the time per step is given."""
        held_out: list[dict[str, float]] = [{} for _ in self._seeds]
        if self._task.held_out is not None:
            held_out = self._program.held_out(self._progress, self._members, self._task.held_out)
        losses, finite = jax.device_get((self._progress.losses, self._progress.finite))
        upper = float(self._task.family.normalizer(jax.numpy.float32(np.inf)))
        seconds = self._seconds if seconds_per_step is None else self._group.steps * seconds_per_step
        runs = []
        for index, (setting, seed) in enumerate(zip(self._settings, self._seeds, strict=True)):
            final, curve = summarize(losses[index], self._group.base)
            runs.append(
                Run(
                    key=RunKey(self._group.task, self._group.spec.name, setting, seed, self._group.steps),
                    dataset=self._task.dataset,
                    task_identity=self._task.identity,
                    optimizer_identity=self._optimizer.identity,
                    parameters=self._task.parameters,
                    final_loss=final,
                    diverged=not bool(finite[index]) or final >= upper * (1 - 1e-6),
                    curve=curve,
                    seconds=round(seconds / len(self._seeds), 4),
                    held_out={name: x for name, x in held_out[index].items() if math.isfinite(x)},
                    machine=where[0],
                    versions=where[1],
                    timing=timing,
                )
            )
        return runs


class Worker:
    """Does groups one after the other, or in turn; a task's data are kept until another task comes."""

    def __init__(self) -> None:
        self._task: tuple[tuple[str, str | None], LoadedTask] | None = None
        self._optimizers: dict[OptimizerSpec, ResolvedOptimizer] = {}
        self._where = (hardware(), versions())

    def run(self, group: Group, report: Callable[[int], None]) -> Iterator[list[Run]]:
        """Trains a group; yields the runs of each batch when they are done.

        Args:
          group: what to do.
          report: told, from time to time, the number of steps done since it was last told.
        """
        begin = self._beginning(group)
        for first in range(0, len(group.members), group.batch):
            members = group.members[first : first + group.batch]
            # A last batch that is smaller is filled up, since another size is another program.
            training = begin(members + members[-1:] * (group.batch - len(members) if first else 0))
            chunk = 1
            while not training.finished:
                report(training.advance(chunk))
                elapsed = chunk * training.seconds_per_step[-1]
                chunk = max(1, min(4 * chunk, round(chunk * REPORT_SECONDS / max(elapsed, 1e-6))))
            yield training.runs(self._where)[: len(members)]

    def run_in_turn(self, groups: Sequence[Group], send: Send) -> None:
        """Trains groups of one task and length side by side, a stretch of steps each, and sends what happens.

        Whatever else the machine does slows all of them alike, so that their times per step, medians over a group's stretches,
        can be compared. An error of the task or of an optimizer ends its group, and the others go on.
        """
        trainings: dict[Group, list[_Training]] = {}
        timing = uuid.uuid4().hex[:12]

        def begin(group: Group) -> None:
            start = self._beginning(group)
            trainings[group] = [start((member,)) for member in group.members]

        def turn(group: Group) -> int:
            return sum(training.advance(steps) for training in trainings[group])

        def runs(group: Group) -> list[Run]:
            # All are the same program. The first stretch warms up caches.
            times = [seconds for training in trainings[group] for seconds in training.seconds_per_step[1:]]
            median = float(np.median(times))
            return [run for training in trainings[group] for run in training.runs(self._where, median, timing)]

        def attempted(function: Callable[[Group], Any], group: Group) -> Any:
            try:
                return function(group)
            except Exception as error:
                trainings.pop(group, None)
                failed.append((group, _sentence(error)))

        failed: list[tuple[Group, str]] = []
        for group in groups:
            attempted(begin, group)
        # Four turns at least, since the first is not timed.
        steps = min(TURN, max(1, groups[0].steps // 4))
        for _ in range(0, groups[0].steps, steps):
            for group in list(trainings):
                if (taken := attempted(turn, group)) is not None:
                    send(("steps", group, taken))
        for group in list(trainings):
            if (found := attempted(runs, group)) is not None:
                send(("runs", found))
                send(("done", group))
        for group, text in failed:
            send(("failed", group, text))
            send(("done", group))

    def _beginning(self, group: Group) -> Callable[[Sequence[tuple[Setting, int]]], _Training]:
        """What begins trainings of a group's members, all by one compiled program."""
        if group.spec not in self._optimizers:
            self._optimizers[group.spec] = resolve(group.spec)
        optimizer = self._optimizers[group.spec]
        wanted = (group.task, group.data_dir)
        if self._task is None or self._task[0] != wanted:
            self._task = None  # the old data make room before the new ones come
            self._task = (wanted, load_task(*wanted))
        task = self._task[1]
        program = TrainingProgram(task.family, optimizer.build, group.steps)
        return lambda members: _Training(group, optimizer, task, program, members)


def attempt(worker: Worker, group: Group, send: Send) -> None:
    """Does a group and sends what happens; an error of the task or the optimizer ends the group, not the process."""
    batches = worker.run(group, lambda count: send(("steps", group, count)))
    while True:
        try:
            runs = next(batches, None)
        except Exception as error:
            send(("failed", group, _sentence(error)))
            break
        if runs is None:
            break
        send(("runs", runs))
    send(("done", group))


def _sentence(error: Exception) -> str:
    """An error's kind, and the first line of what it says."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
