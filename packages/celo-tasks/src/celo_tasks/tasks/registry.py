"""Every evaluation task and suite by name. Nothing is built, and no data set is looked for, before it is asked for.

A task is one decorated function in a module of this folder, see `celo_tasks.tasks.entries.task`. Another package adds a
task by an entry point of the group ``celo.tasks``: the task's name, and the `TaskEntry` that the decorator made.
"""

import dataclasses
import importlib.metadata
from collections.abc import Mapping
from types import MappingProxyType

from celo_tasks.spelling import nearest
from celo_tasks.tasks import ood_images, ood_meta, ood_text, other_images, quickstart, small, stress
from celo_tasks.tasks.entries import TaskEntry as TaskEntry
from celo_tasks.tasks.entries import measured_on as measured_on

GROUP = "celo.tasks"
"""Entry-point group of other packages' tasks."""

TASKS: Mapping[str, TaskEntry] = MappingProxyType(
    {
        entry.name: entry
        for module in (ood_images, ood_text, ood_meta, small, stress, quickstart, other_images)
        for entry in vars(module).values()
        if isinstance(entry, TaskEntry)
    }
)
"""The tasks of this package by name, in the order in which their modules define them."""

RENAMED: Mapping[str, str] = MappingProxyType({"velodrome-17": "ood-17"})
"""Suites that once had another name: a results folder that says the old one is read as the new one's."""


@dataclasses.dataclass(frozen=True)
class Suite:
    """A fixed set of tasks with the lengths at which they are run.

    Attributes:
      tasks: names in `TASKS`.
      steps: length of every training.
      seeds: number of seeds.
      learning_rates: a name in `celo_tasks.baselines.LEARNING_RATES`.
      description: what it is, in a sentence.
      schedules_of: the learning-rate schedules of single baselines, by their names; others are tuned over all.
      longest: tuned Adam is extended to runs of this many times the length, where a speed-up needs it.
      timing: whether trainings advance in turn, so that their times per step can be compared.
    """

    tasks: tuple[str, ...]
    steps: int
    seeds: int
    learning_rates: str
    description: str
    schedules_of: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    longest: int = 4
    timing: bool = False


def _tasks_of(suite: str) -> tuple[str, ...]:
    return tuple(name for name, entry in TASKS.items() if entry.suite == suite)


SUITES: Mapping[str, Suite] = MappingProxyType(
    {
        "small-8": Suite(
            _tasks_of("small-8"),
            steps=1000,
            seeds=3,
            learning_rates="small",
            description="eight small tasks for two CPU cores, on data that are in the package or in scikit-learn",
        ),
        "ood-17": Suite(
            _tasks_of("ood-17"),
            steps=2000,
            seeds=3,
            learning_rates="public",
            description="seventeen tasks of the kinds that VeLO and Celo were judged by, with published configurations; "
            "meta-training draws none of them",
        ),
        "stress-8": Suite(
            _tasks_of("stress-8"),
            steps=1000,
            seeds=3,
            learning_rates="small",
            description="eight small tasks of what users do to optimizers: bad scales, full batches and tiny ones, depth without "
            "normalisation, rare and frozen tensors",
        ),
        "quickstart": Suite(
            _tasks_of("quickstart"),
            steps=1000,
            seeds=1,
            learning_rates="quickstart",
            description="three small networks for a first look, which `celo-tasks quickstart` trains",
            schedules_of={"adam": ("constant",), "adamw": ("cosine_decay",)},
            longest=1,
            timing=True,
        ),
    }
)
"""Suites by name."""


def find_task(name: str) -> TaskEntry:
    """A task by name, of this package or of another that is installed.

    Raises:
      ValueError: there is none, and the message names those with similar names; or another package's entry point is no task.
    """
    if name in TASKS:
        return TASKS[name]
    points = importlib.metadata.entry_points(group=GROUP, name=name)
    if not points:
        known = (*TASKS, *installed_tasks())
        raise ValueError(f"there is no task {name!r}{nearest(name, known)}; `celo-tasks list` shows them all.")
    point = next(iter(points))
    try:
        entry = point.load()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"the task {name!r} cannot be imported from {point.value} ({error}).") from error
    if not isinstance(entry, TaskEntry) or entry.name != name:
        raise ValueError(f"{point.value} is no task {name!r}: decorate its function with `celo_tasks.tasks.task`.")
    return entry


def installed_tasks() -> tuple[str, ...]:
    """Names of the tasks that other installed packages offer, sorted; none is imported."""
    return tuple(sorted({point.name for point in importlib.metadata.entry_points(group=GROUP)} - set(TASKS)))


def find_suite(name: str) -> Suite:
    """A suite by name.

    Raises:
      ValueError: there is none; the message names those that there are, or the name that it has now.
    """
    if name in RENAMED:
        raise ValueError(f"the suite {name} is called {RENAMED[name]} now: use that name.")
    if name not in SUITES:
        raise ValueError(
            f"there is no suite {name!r}{nearest(name, SUITES)}: choose {', '.join(list(SUITES)[:-1])} or {list(SUITES)[-1]}."
        )
    return SUITES[name]
