"""Writes tuned Adam of an evaluation's store into this package, where `celo_tasks.evaluation.reference` finds it."""

import json
import pathlib
from typing import Any, NamedTuple

from celo_core import files
from celo_tasks.evaluation.store import Store
from celo_tasks.evaluation.tuned_adam import trials, tuned_adam
from celo_tasks.tasks.registry import find_suite


class Written(NamedTuple):
    """What `write` has done.

    Attributes:
      path: the file.
      tasks: tasks that it has now.
      left_out: task -> seeds of its Adam in the store, where there are fewer than the suite's.
      seeds: of the suite.
    """

    path: pathlib.Path
    tasks: tuple[str, ...]
    left_out: dict[str, int]
    seeds: int


def write(store: Store, folder: pathlib.Path) -> Written:
    """Writes ``SUITE.json``; what the file has of tasks that the store lacks stays.

    Args:
      store: of an evaluation of a suite, with runs of Adam.
      folder: where to.

    Raises:
      ValueError: the store is of no suite, or the file was written for another length of training.
      OSError: the file cannot be written.
    """
    suite = find_suite(store.header["suite"])
    path = folder / f"{store.header['suite']}.json"
    old: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"steps": store.steps, "tasks": {}}
    if old["steps"] != store.steps:
        raise ValueError(
            f"{path} is of {old['steps']} steps, and this evaluation of {store.steps}: give another folder."
        )
    found: dict[str, Any] = {}
    left_out: dict[str, int] = {}
    for task in suite.tasks:
        runs = [run for key, run in store.runs.items() if (key.task, key.optimizer) == (task, "adam")]
        tuned = tuned_adam(runs, store.steps)
        if tuned is None or tuned.seeds < suite.seeds:
            left_out[task] = tuned.seeds if tuned else 0
            continue
        first = runs[0]
        found[task] = {
            "identity": first.task_identity,
            "dataset": first.dataset,
            "versions": dict(first.versions),
            "candidates": {str(one.setting): one.final_loss for one in trials(store.select(task, "adam"))},
            **tuned.to_json(),
        }
    known = old["tasks"]
    tasks = {task: one for task in suite.tasks if (one := found.get(task) or known.get(task))}
    head = {
        "suite": store.header["suite"],
        "steps": store.steps,
        "command": f"celo-tasks evaluate --suite {store.header['suite']} --optimizer adam, then celo-tasks tuned-adam",
    }
    # A task a line: with a number a line the file would have fifteen thousand.
    lines = [f"{json.dumps(name)}: {json.dumps(one)}" for name, one in tasks.items()]
    files.write_bytes(path, (json.dumps(head)[:-1] + ', "tasks": {\n' + ",\n".join(lines) + "\n}}\n").encode())
    return Written(path, tuple(tasks), left_out, suite.seeds)
