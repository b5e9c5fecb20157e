"""Tuned Adam from the package, so that who evaluates an optimizer need not tune Adam again.

``references/SUITE.json`` is written by `celo-tasks tuned-adam` from the store of an evaluation.
"""

import functools
import json
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from celo_tasks.evaluation.tuned_adam import TunedAdam


@functools.cache
def load(suite: str) -> dict[str, Any]:
    """The package's file for a suite; one without tasks if there is none."""
    path = files("celo_tasks.evaluation") / "references" / f"{suite}.json"
    return json.loads(path.read_text()) if path.is_file() else {"steps": None, "tasks": {}}


def find(suite: str, task: str, steps: int, identity: Callable[[], str]) -> TunedAdam | None:
    """Tuned Adam on a task.

    Args:
      suite: name of the suite.
      task: name of the task.
      steps: planned length of training; a file of another length does not serve.
      identity: digest of the task and of the data at hand, asked for only where there is something to compare it with.

    Returns:
      ``None`` if the package has none of this length, for this definition of the task and on these data.
    """
    known = load(suite)
    entry = known["tasks"].get(task)
    if entry is None or known["steps"] != steps or entry["identity"] != identity():
        return None
    return TunedAdam.from_json(entry)
