"""Tuned Adam on a task: the curve and the final loss that everything else is measured against."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celo_tasks.baselines.tuning import Setting
from celo_tasks.evaluation.curves import Curve, six_digits
from celo_tasks.evaluation.store import Run, curve_steps


@dataclasses.dataclass(frozen=True)
class Trial:
    """One setting of an optimizer that was tried on one task, over its seeds.

    Attributes:
      setting: hyperparameters.
      runs: one per seed, of one length, by seed.
    """

    setting: Setting
    runs: tuple[Run, ...]

    @property
    def final_loss(self) -> float:
        """Mean over seeds."""
        return float(np.mean([run.final_loss for run in self.runs]))

    @property
    def curve(self) -> Curve:
        """Smoothed loss at the store's points, mean over seeds."""
        return np.mean([run.smoothed for run in self.runs], axis=0)


def trials(runs: Sequence[Run]) -> list[Trial]:
    """Runs of one optimizer, task and length by setting; settings that lack a seed that others have are left out."""
    by_setting: dict[Setting, list[Run]] = {}
    for run in runs:
        by_setting.setdefault(run.key.setting, []).append(run)
    most = max((len(group) for group in by_setting.values()), default=0)
    return [
        Trial(setting, tuple(sorted(group, key=lambda run: run.key.seed)))
        for setting, group in by_setting.items()
        if len(group) == most
    ]


def best_trial(found: Sequence[Trial]) -> Trial:
    """The trial of lowest final loss."""
    return min(found, key=lambda trial: trial.final_loss)


@dataclasses.dataclass(frozen=True)
class TunedAdam:
    """Tuned Adam on a task.

    Attributes:
      final_loss: of the best setting, mean over seeds.
      final_loss_by_seed: of the best setting.
      setting: the best one.
      seeds: number of seeds.
      steps: after which `envelope` is given, increasing; they go on beyond the planned length where longer runs were made.
      envelope: lowest smoothed loss so far over all settings, mean over seeds; non-increasing, (points,).
      machine: where it ran.
    """

    final_loss: float
    final_loss_by_seed: tuple[float, ...]
    setting: Setting
    seeds: int
    steps: NDArray[np.int64]
    envelope: Curve
    machine: str

    @property
    def horizon(self) -> int:
        """Steps of the longest run."""
        return int(self.steps[-1])

    def steps_to(self, level: float) -> float | None:
        """Steps after which the envelope is at ``level`` or below, see `steps_to`."""
        return steps_to(self.steps, self.envelope, level)

    def to_json(self) -> dict[str, Any]:
        """For a results file."""
        value = dataclasses.asdict(self)
        value["setting"], value["steps"] = str(self.setting), self.steps.tolist()
        value["envelope"] = [six_digits(x) for x in self.envelope]
        return value

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "TunedAdam":
        """What `to_json` made."""
        fields = {field.name: value[field.name] for field in dataclasses.fields(cls)}
        fields["setting"] = Setting.parse(fields["setting"])
        fields["steps"] = np.asarray(fields["steps"], np.int64)
        fields["envelope"] = np.asarray(fields["envelope"], np.float64)
        fields["final_loss_by_seed"] = tuple(fields["final_loss_by_seed"])
        return cls(**fields)


def steps_to(steps: NDArray[np.int64], envelope: Curve, level: float) -> float | None:
    """Steps after which a non-increasing curve (points,) is at ``level`` or below; ``None`` if it never is.

    Between two points the curve is taken to be a straight line.

    Raises:
      ValueError: ``level`` is not finite.
    """
    if not math.isfinite(level):
        raise ValueError(f"a loss to be reached must be finite, not {level}: normalise the losses first.")
    reached = envelope <= level
    if not reached.any():
        return None
    index = int(np.argmax(reached))
    if index == 0:
        return float(steps[0])
    before, after = envelope[index - 1], envelope[index]
    share = (before - level) / (before - after)
    return float(steps[index - 1] + share * (steps[index] - steps[index - 1]))


def tuned_adam(runs: Sequence[Run], base: int) -> TunedAdam | None:
    """Tuned Adam from its runs on a task, of the planned length and longer ones; ``None`` without any of planned length.

    Args:
      runs: of Adam on one task.
      base: planned length.
    """
    lengths = sorted({run.key.steps for run in runs})
    by_length = {length: trials([run for run in runs if run.key.steps == length]) for length in lengths}
    if not by_length.get(base):
        return None
    grid = curve_steps(max(lengths), base)
    envelope = np.full(len(grid), np.inf)
    for length, found in by_length.items():
        steps = curve_steps(length, base)
        inside = grid <= length
        for trial in found:
            curve = np.interp(grid[inside], steps, trial.curve)
            envelope[inside] = np.minimum(envelope[inside], curve)
    chosen = best_trial(by_length[base])
    return TunedAdam(
        chosen.final_loss,
        tuple(run.final_loss for run in chosen.runs),
        chosen.setting,
        len(chosen.runs),
        grid,
        np.minimum.accumulate(envelope),
        chosen.runs[0].machine,
    )
