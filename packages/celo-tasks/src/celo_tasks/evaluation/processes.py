"""Groups of trainings in several processes."""

import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from celo_tasks.evaluation.worker import Group, Worker, attempt


def run_processes(
    groups: Sequence[Group], jobs: int, work_of: Callable[[Group], float], receive: Callable[[tuple[Any, ...]], None]
) -> None:
    """Does the groups in ``jobs`` processes, the costliest first.

    Args:
      groups: what to do; one that is more than a process's share is cut.
      jobs: processes, at most.
      work_of: what a group costs, in any unit.
      receive: told what happens, see `celo_tasks.evaluation.worker.attempt`.

    Raises:
      RuntimeError: a process died.
    """
    groups = split(groups, jobs, work_of)
    context = multiprocessing.get_context("spawn")
    waiting, results = context.Queue(), context.Queue()
    jobs = min(jobs, len(groups))
    for group in [*groups, *[None] * jobs]:
        waiting.put(group)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    # As many processes as cores: each gets one, since XLA's threads gain little on networks this small.
    pinned = [cores[i] if jobs == len(cores) else None for i in range(jobs)]
    processes = [context.Process(target=_work, args=(waiting, results, core), daemon=True) for core in pinned]
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
            receive(message)
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


def split(groups: Sequence[Group], jobs: int, work_of: Callable[[Group], float]) -> list[Group]:
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


def _work(groups: Any, results: Any, core: int | None) -> None:
    """Main function of a process: takes groups off a queue until there is a ``None``, and sends what happens."""
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
