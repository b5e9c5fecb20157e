"""What an evaluation is to hold at its end."""

import dataclasses
from collections.abc import Mapping

from celo_tasks import baselines
from celo_tasks.baselines.tuning import Setting, check_schedule, grid
from celo_tasks.evaluation.optimizer_specs import OptimizerSpec
from celo_tasks.tasks.registry import find_task

BASELINE = "adam"
"""What final-loss ratios and speed-ups are relative to."""


@dataclasses.dataclass(frozen=True)
class EvaluationPlan:
    """The trainings of an evaluation, and how they are run.

    Attributes:
      suite: name of the suite, or ``"custom"``.
      tasks: names of tasks.
      specs: the optimizers.
      steps: length of every training.
      seeds: number of seeds, 0, 1, ...
      learning_rates, schedules: the grid that every tuned optimizer is tried on.
      schedules_of: the schedules of single baselines, by their names, in place of ``schedules``.
      longest: tuned Adam is extended to runs of this many times the length, where a speed-up needs it.
      jobs: processes.
      batch: trainings at once in one program.
      timing: let all trainings of a task and seed advance in turn, a stretch of steps each, so that whatever else the machine
        does slows all alike and their times per step can be compared; needs one process and trainings one at a time, and
        keeps all networks of a task and seed on the device.
      data_dir: folder of prepared arrays, or ``None``.
      tune_adam: tasks on which Adam is tuned though it is not among ``specs``.

    Raises:
      ValueError: a name is unknown or given twice, or a number makes no sense; one sentence.
    """

    suite: str
    tasks: tuple[str, ...]
    specs: tuple[OptimizerSpec, ...]
    steps: int
    seeds: int = 3
    learning_rates: tuple[float, ...] = baselines.LEARNING_RATES_SMALL
    schedules: tuple[str, ...] = baselines.TUNED_SCHEDULES
    schedules_of: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    longest: int = 4
    jobs: int = 1
    batch: int = 1
    timing: bool = False
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
        if self.timing and (self.jobs, self.batch) != (1, 1):
            raise ValueError(
                "times per step can be compared only with one process and one training at a time: leave out --jobs and --batch."
            )
        for what in ("tasks", "learning_rates", "schedules"):
            values = getattr(self, what)
            if not values or len(set(values)) < len(values):
                raise ValueError(
                    f"{what.replace('_', ' ')} must be given, each once, not {', '.join(map(str, values))}."
                )
        for schedules in (self.schedules, *self.schedules_of.values()):
            for name in schedules:
                check_schedule(name)
        grid(self.learning_rates, self.schedules)  # refuses what is no learning rate

    def settings(self, spec: OptimizerSpec) -> tuple[Setting, ...]:
        """The settings that an optimizer with a learning rate is tried at."""
        return grid(self.learning_rates, self.schedules_of.get(spec.reference, self.schedules))
