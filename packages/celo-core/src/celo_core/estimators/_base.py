"""What estimators of meta-gradients that have a name share: a JSON form, and how one is made ready for a phase."""

import dataclasses
from typing import Any, Self

from celo_core import checks
from celo_core.configs import Part
from celo_core.protocols import GradientEstimator, LearnedOptimizer, TaskFamily

META_LOSSES = ("training", "held_out")

SET_BY_BIND = {"json": False}
"""Metadata of fields that `Estimator.bind` sets, and that the JSON form leaves out."""


@dataclasses.dataclass(frozen=True)
class Estimator(Part, GradientEstimator):
    """A family of configs: an estimator's settings are its fields, and `bind` adds what it works on.

    Another package names its own in the entry-point group ``celo.estimators``, as ``type = "module:Class"``.

    Attributes:
      architecture: the learned optimizer; its theta is what the gradient is for. ``None`` before `bind`.
      family: the problems. ``None`` before `bind`.
    """

    architecture: LearnedOptimizer = dataclasses.field(default=None, metadata=SET_BY_BIND)  # type: ignore[assignment]
    family: TaskFamily = dataclasses.field(default=None, metadata=SET_BY_BIND)  # type: ignore[assignment]

    group = "celo.estimators"

    def bind(self, architecture: LearnedOptimizer, family: TaskFamily, num_pairs: int, iterations: int) -> Self:
        """This estimator at work.

        Args:
          architecture: the learned optimizer.
          family: the problems.
          num_pairs: antithetic pairs of problems; an estimator without pairs has twice as many problems.
          iterations: estimates of the whole phase, over which schedules are stretched.

        Raises:
          ValueError: the family has not what the settings need.
        """
        changes: dict[str, Any] = {"num_problems": 2 * num_pairs}
        return dataclasses.replace(self, architecture=architecture, family=family, **changes)

    def check(self, data: Any) -> None:
        """Raises ValueError if the family's loss on ``data`` is not a finite scalar at initialisation."""
        checks.check_family(self.family, data)


def check_settings(family: TaskFamily | None, meta_loss: str, clip_problem: float | None) -> None:
    """Raises ValueError for what no estimator takes."""
    checks.check_choice("meta_loss", meta_loss, META_LOSSES)
    if meta_loss == "held_out" and family is not None and not family.has_held_out_batches:
        raise ValueError(
            f"the family {family.name} has no held-out batches, which a held-out meta-loss needs: give it "
            'has_held_out_batches and held_out_batch, or use meta_loss="training".'
        )
    if clip_problem is not None and not clip_problem > 0:
        raise ValueError(f"clip_problem must be positive, or None for no clipping, not {clip_problem}.")
