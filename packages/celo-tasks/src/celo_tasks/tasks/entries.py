"""What a task is in the registry, and the decorator that makes one. Nothing of JAX is imported for it."""

import dataclasses
import functools
import json
from collections.abc import Callable
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # with celo_core comes JAX, which a list of tasks need not wait for
    from celo_core import TaskFamily

Make = Callable[[str, str, str | None], "TaskFamily"]
"""``(name, dataset, data_dir)`` -> the family; it imports what it is made of itself, and reads no data."""


DIABETES, GENERATED = "diabetes", "generated"
"""In place of a data set's name: a table that scikit-learn has, and points that the task computes."""


class Cost(NamedTuple):
    """What a task costs, see `celo_tasks.evaluation.task_costs`.

    Attributes:
      parameters: trained numbers.
      gflop: floating-point operations of a loss and its gradient, in 10^9, as XLA counts them: the
        body of a loop once, however often it runs.
      milliseconds: time of a training step with Adam on one core of the machine that ``costs.json`` names; ``None`` where
        it was not measured.
    """

    parameters: int
    gflop: float
    milliseconds: float | None


@dataclasses.dataclass(frozen=True)
class TaskEntry:
    """A task that can be made.

    Attributes:
      name: its name.
      kind: what is trained, in a few words.
      datasets: data sets that it can be trained on; the first that is on this machine is taken.
      function: called with the name, the data set and the data folder, it returns the `celo_core.TaskFamily`.
      suite: the suite that it belongs to; ``None`` for a task outside of the suites.
      published: its name in the public task library, and what differs here; ``None`` for a task of our own.
    """

    name: str
    kind: str
    datasets: tuple[str, ...]
    function: Make
    suite: str | None = None
    published: str | None = None

    def dataset(self, data_dir: str | None = None) -> str | None:
        """The data set that `make` would take; ``None`` if none of them is on this machine."""
        return next((name for name in self.datasets if _is_available(name, data_dir)), None)

    def make(self, data_dir: str | None = None) -> "TaskFamily":
        """The task's family, on the first of its data sets that is on this machine.

        Raises:
          FileNotFoundError: none of them is; the message names the command that fetches one.
        """
        dataset = self.dataset(data_dir)
        if dataset is None:
            raise FileNotFoundError(
                f"task {self.name} needs the data set {self.datasets[0]}, which is not on this machine: run `celo-tasks "
                f"prepare {self.datasets[0]}`, or give a --data-dir that has one of {', '.join(self.datasets)}."
            )
        return self.make_with(dataset, data_dir)

    def make_with(self, dataset: str, data_dir: str | None = None) -> "TaskFamily":
        """The task's family on a data set, whether or not that is on this machine: for its shapes, say."""
        return self.function(self.name, dataset, data_dir)

    def cost(self) -> Cost | None:
        """What it costs; ``None`` if that was not measured."""
        found = _costs()["tasks"].get(self.name)
        return Cost(found["parameters"], found["gflop"], found["milliseconds"]) if found else None


def task(
    name: str | None = None,
    *,
    kind: str,
    datasets: tuple[str, ...],
    suite: str | None = None,
    published: str | None = None,
) -> Callable[[Make], TaskEntry]:
    """Makes a `TaskEntry` of the function under it.

    Args:
      name: of the task; the function's by default.
      kind: what is trained, in a few words.
      datasets: data sets that it can be trained on, the preferred one first.
      suite: the suite that it belongs to, if any.
      published: its name in the public task library, and what differs here, if it is one of that.

    Returns:
      The decorator; what it returns stands in place of the function.
    """

    def decorate(function: Make) -> TaskEntry:
        return TaskEntry(name or function.__name__, kind, datasets, function, suite, published)

    return decorate


def _is_available(name: str, data_dir: str | None) -> bool:
    if name in (DIABETES, GENERATED):
        return True
    from celo_tasks import datasets  # with it comes the reading of data sets

    if name in datasets.TEXT_SPECS:
        return datasets.is_text_available(name, data_dir=data_dir)
    return datasets.is_available(name, data_dir=data_dir)


@functools.cache
def _costs() -> dict:
    return json.loads((files("celo_tasks.tasks") / "costs.json").read_text())


def measured_on() -> str:
    """The machine on which `Cost.milliseconds` was measured."""
    return str(_costs()["machine"])
