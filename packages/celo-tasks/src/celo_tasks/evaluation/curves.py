"""From training curves to numbers: smoothing, the envelope of a tuned baseline, and the speed-up over it.

Source: the evaluation protocol of VeLO (arXiv 2211.09760, section 4) and Celo (arXiv 2501.12670, section 5).
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Curve = NDArray[np.float64]

SMOOTHING = 0.95
FINAL_FRACTION = 0.05


class Speedup(NamedTuple):
    """How many steps one optimizer takes for what another reaches in all of its own.

    Attributes:
      factor: ``baseline_steps / steps``: below 1 the baseline is faster. A lower bound if ``baseline_steps`` is ``None``.
      baseline_steps: steps after which the baseline's envelope reaches the optimizer's final loss, ``None`` if never.
      steps: steps that the optimizer took.
    """

    factor: float
    baseline_steps: int | None
    steps: int

    def __str__(self) -> str:
        """E.g. ``"0.61"``, or ``"> 1.00"`` where the baseline never gets there."""
        return f"{self.factor:.2f}" if self.baseline_steps is not None else f"> {self.factor:.2f}"


def smooth(losses: NDArray[np.floating], decay: float = SMOOTHING) -> Curve:
    """Exponential moving average without the bias towards the start: the weights of the losses so far sum to one.

    Args:
      losses: (..., steps); finite.
      decay: of the average.

    Returns:
      float64 (..., steps).
    """
    losses = np.asarray(losses, np.float64)
    mean, result = np.zeros(losses.shape[:-1]), np.empty_like(losses)
    for step in range(losses.shape[-1]):
        mean = decay * mean + (1 - decay) * losses[..., step]
        result[..., step] = mean / (1 - decay ** (step + 1))
    return result


def six_digits(value: float) -> float:
    """A number as results files keep it: with six significant digits."""
    return float(f"{value:.6g}")


def final_loss(losses: NDArray[np.floating]) -> Curve:
    """Mean of the last 5 % of steps (of the last step at least), along the last axis."""
    losses = np.asarray(losses, np.float64)
    return losses[..., -max(1, round(FINAL_FRACTION * losses.shape[-1])) :].mean(axis=-1)


def envelope(smoothed: Curve) -> Curve:
    """The best of several smoothed curves at each step, made monotone: what hindsight would have picked.

    Args:
      smoothed: (candidates, steps).

    Returns:
      (steps,), non-increasing.
    """
    return np.minimum.accumulate(smoothed.min(axis=0))


def first_step(best: Curve, level: float) -> int | None:
    """Number of steps after which a non-increasing curve is at ``level`` or below; ``None`` if it never is."""
    reached = best <= level
    return int(np.argmax(reached)) + 1 if reached.any() else None


def speedup(baseline: Curve, level: float, steps: int) -> Speedup:
    """Speed-up of an optimizer over a baseline.

    Args:
      baseline: the baseline's `envelope`.
      level: the optimizer's final loss, smoothed as the baseline's curves are.
      steps: the steps that it took.

    Returns:
      The steps that the baseline needs to ``level`` over ``steps``. Where it never gets there the factor is what its
      last step proves: a lower bound.

    Raises:
      ValueError: ``level`` is not finite.
    """
    if not math.isfinite(level):
        raise ValueError(f"a final loss must be finite, not {level}: normalise the losses first.")
    needed = first_step(baseline, level)
    return Speedup((len(baseline) if needed is None else needed) / steps, needed, steps)
