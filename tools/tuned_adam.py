"""Puts tuned Adam from an evaluation's store into celo-tasks, so that users need not tune Adam again.

    celo-tasks evaluate --suite small-8 --optimizer adam --optimizer adamw ... --out results
    python tools/tuned_adam.py results

Only tasks whose Adam has as many seeds as the suite asks for are written; what the package has of other tasks stays.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from celo_core import files
from celo_tasks.evaluation.store import Store
from celo_tasks.evaluation.tuned_adam import trials, tuned_adam
from celo_tasks.tasks.registry import find_suite

FOLDER = Path(__file__).resolve().parents[1] / "packages/celo-tasks/src/celo_tasks/evaluation/references"


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="folder that `celo-tasks evaluate` wrote")
    options = parser.parse_args()
    store = Store.read(options.store)
    suite = find_suite(store.header["suite"])
    record: dict[str, Any] = {
        "suite": store.header["suite"],
        "steps": store.steps,
        "command": f"celo-tasks evaluate --suite {store.header['suite']} --optimizer adam, then python tools/tuned_adam.py",
        "tasks": {},
    }
    for task in suite.tasks:
        runs = [run for key, run in store.runs.items() if (key.task, key.optimizer) == (task, "adam")]
        tuned = tuned_adam(runs, store.steps)
        if tuned is None or tuned.seeds < suite.seeds:
            print(
                f"{task}: left out, its Adam has {tuned.seeds if tuned else 0} of {suite.seeds} seeds", file=sys.stderr
            )
            continue
        first = runs[0]
        record["tasks"][task] = {
            "identity": first.task_identity,
            "dataset": first.dataset,
            "versions": dict(first.versions),
            "candidates": {str(one.setting): one.final_loss for one in trials(store.select(task, "adam"))},
            **tuned.to_json(),
        }
    path = FOLDER / f"{store.header['suite']}.json"
    known = json.loads(path.read_text())["tasks"] if path.exists() else {}
    record["tasks"] = {task: one for task in suite.tasks if (one := record["tasks"].get(task) or known.get(task))}
    # On one line a task: with a line a number the file would have fifteen thousand.
    lines = [f"{json.dumps(name)}: {json.dumps(one)}" for name, one in record.pop("tasks").items()]
    head = json.dumps(record)[:-1]
    files.write_bytes(path, (head + ', "tasks": {\n' + ",\n".join(lines) + "\n}}\n").encode())
    print(f"{path}: {len(lines)} of {len(suite.tasks)} tasks")
    return 0


if __name__ == "__main__":
    sys.exit(main())
