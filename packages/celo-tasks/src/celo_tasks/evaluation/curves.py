"""From training curves to numbers: smoothing, and the final loss.

Source: the evaluation protocol of VeLO (arXiv 2211.09760, section 4) and Celo (arXiv 2501.12670, section 5).
"""

import numpy as np
from numpy.typing import NDArray

Curve = NDArray[np.float64]

SMOOTHING = 0.95
FINAL_FRACTION = 0.05


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
