"""Runs groups of trainings: one process of an evaluation."""

import dataclasses
import functools
import hashlib
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from celo_core import TaskFamily
from celo_tasks.baselines.tuning import Setting
from celo_tasks.comparison import HeldOut
from celo_tasks.evaluation.competitors import Competitor, Spec, resolve
from celo_tasks.evaluation.program import TrainingProgram, parameter_count
from celo_tasks.evaluation.store import Run, RunKey, summarize
from celo_tasks.reporting.machine import hardware, versions
from celo_tasks.tasks.registry import find_task

REPORT_SECONDS = 1.0
"""Trainings are advanced by as many steps at a time as take about this long."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Trainings that share a compiled program.

    Attributes:
      task: name.
      spec: the optimizer.
      steps: length of every training.
      base: planned length of the evaluation.
      members: text form of the setting, and seed, of each.
      batch: trainings at once.
      data_dir: folder of prepared arrays, or ``None``.
    """

    task: str
    spec: Spec
    steps: int
    base: int
    members: tuple[tuple[str, int], ...]
    batch: int = 1
    data_dir: str | None = None


class LoadedTask(NamedTuple):
    """A task with its data on the device.

    Attributes:
      family: the task.
      dataset: name of its data set.
      identity: changes with the task's definition or its data.
      data: on the device.
      held_out: held-out data, or ``None`` where there is none.
      parameters: trained numbers.
    """

    family: TaskFamily
    dataset: str
    identity: str
    data: Any
    held_out: Any
    parameters: int


def load_task(name: str, data_dir: str | None) -> LoadedTask:
    """Makes a task and loads its data; errors as `celo_tasks.tasks.registry.TaskEntry.make`."""
    entry = find_task(name)
    family = entry.make(data_dir)
    data = family.load()
    held_out = family.load_held_out() if isinstance(family, HeldOut) else None
    return LoadedTask(
        family,
        str(entry.dataset(data_dir)),
        identity(family, data),
        jax.device_put(data),
        held_out,
        parameter_count(family),
    )


@functools.cache
def task_identity(name: str, data_dir: str | None) -> str:
    """A task's `identity` on the data that are here; they are read once. Errors as `load_task`."""
    family = find_task(name).make(data_dir)
    return identity(family, family.load())


def identity(family: Any, data: Any) -> str:
    """A digest of a task's definition and data: the same wherever the data lie, and in every version of the libraries."""
    digest = hashlib.sha256(repr(_definition(family)).encode())
    for path, leaf in jax.tree.leaves_with_path(data):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()[:16]


def _definition(value: Any) -> Any:
    """What a family or network is made of; what has its default value is left out, so that new options change nothing."""
    if not dataclasses.is_dataclass(value):
        return tuple(map(_definition, value)) if isinstance(value, list | tuple) else value
    places = ("data_dir", "parent", "name")  # a flax module's parent and name say where it stands, not what it is
    fields = {field.name: field.default for field in dataclasses.fields(value) if field.name not in places}
    given = {name: getattr(value, name) for name in fields}
    return type(value).__name__, {name: _definition(x) for name, x in given.items() if x != fields[name]}


class Worker:
    """Does groups one after the other; a task's data are kept until another task comes."""

    def __init__(self) -> None:
        self._task: tuple[tuple[str, str | None], LoadedTask] | None = None
        self._competitors: dict[Spec, Competitor] = {}
        self._where = (hardware(), versions())

    def run(self, group: Group, report: Callable[[float], None]) -> Iterator[list[Run]]:
        """Trains a group; yields the runs of each batch when they are done.

        Args:
          group: what to do.
          report: told, from time to time, the number of steps done since it was last told.
        """
        if group.spec not in self._competitors:
            self._competitors[group.spec] = resolve(group.spec)
        competitor = self._competitors[group.spec]
        wanted = (group.task, group.data_dir)
        if self._task is None or self._task[0] != wanted:
            self._task = None  # the old data make room before the new ones come
            self._task = (wanted, load_task(*wanted))
        task = self._task[1]
        program = TrainingProgram(task.family, competitor.build, group.steps)
        for begin in range(0, len(group.members), group.batch):
            members = group.members[begin : begin + group.batch]
            # A last batch that is smaller is filled up, since another size is another program.
            full = members + members[-1:] * (group.batch - len(members) if begin else 0)
            yield self._train(group, competitor, task, program, full, report)[: len(members)]

    def _train(
        self,
        group: Group,
        competitor: Competitor,
        task: LoadedTask,
        program: TrainingProgram,
        members: tuple[tuple[str, int], ...],
        report: Callable[[float], None],
    ) -> list[Run]:
        settings = [Setting.parse(text) for text, _ in members]
        rates = [one.learning_rate or 0.0 for one in settings]
        progress, traced = program.start(rates, [one.is_cosine for one in settings], [seed for _, seed in members])
        program.compile(progress, traced, task.data)
        seconds, done, chunk = 0.0, 0, 1
        while done < group.steps:
            end = min(done + chunk, group.steps)
            start = time.perf_counter()
            progress = jax.block_until_ready(program.advance(progress, traced, task.data, done, end))
            elapsed = time.perf_counter() - start
            seconds += elapsed
            report((end - done) * len(members))
            chunk = max(1, min(4 * chunk, round(chunk * REPORT_SECONDS / max(elapsed, 1e-6))))
            done = end
        held_out: list[dict[str, float]] = [{} for _ in members]
        if task.held_out is not None:
            held_out = program.held_out(progress, traced, task.held_out)
        losses, finite = jax.device_get((progress.losses, progress.finite))
        upper = float(task.family.normalizer(jax.numpy.float32(np.inf)))
        runs = []
        for index, (setting, seed) in enumerate(members):
            final, curve = summarize(losses[index], group.base)
            runs.append(
                Run(
                    key=RunKey(group.task, group.spec.name, setting, seed, group.steps),
                    dataset=task.dataset,
                    task_identity=task.identity,
                    optimizer_identity=competitor.identity,
                    parameters=task.parameters,
                    final_loss=final,
                    diverged=not bool(finite[index]) or final >= upper * (1 - 1e-6),
                    curve=curve,
                    seconds=round(seconds / len(members), 4),
                    held_out={name: x for name, x in held_out[index].items() if math.isfinite(x)},
                    machine=self._where[0],
                    versions=self._where[1],
                )
            )
        return runs


def work(groups: Any, results: Any, core: int | None) -> None:
    """Main function of a worker process: takes groups off a queue until there is a ``None``, and sends what happens.

    Messages are ``("steps", group, count)``, ``("runs", list of runs)``, ``("failed", group, text)`` and ``("done", group)``.
    """
    # Ctrl-C goes to all processes of a terminal, but it is the first one's to end the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})  # before XLA counts the cores that it may use
    worker = Worker()
    while (group := groups.get()) is not None:
        attempt(worker, group, results.put)


def _end_with_parent() -> None:
    """Ends this process when its parent has ended, however that was, even while XLA works."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def attempt(worker: Worker, group: Group, send: Callable[[tuple[Any, ...]], None]) -> None:
    """Does a group and sends what happens; an error of the task or the optimizer ends the group, not the process."""
    batches = worker.run(group, lambda count: send(("steps", group, count)))
    while True:
        try:
            runs = next(batches, None)
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            send(("failed", group, f"{type(error).__name__}: {lines[0]}"))
            break
        if runs is None:
            break
        send(("runs", runs))
    send(("done", group))
