"""Features of training progress and of the loss curve: the inputs of a learned scheduler.

Source: VeLO (arXiv 2211.09760, appendix B), as Celo (arXiv 2501.12670, section 3) uses it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

Array = jax.Array

TIME_THRESHOLDS = (0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1)
_LARGEST_LOSS = 1e30  # so that sums and ratios of losses stay finite in float32


class LossBuffer(NamedTuple):
    """Running means of the loss at several time scales.

    Attributes:
      count: number of losses so far, int32 ().
      means: exponential moving averages, float32 (timescales,), without bias correction.
      running_min: smallest bias-corrected mean so far, float32 (timescales,).
    """

    count: Any
    means: Any
    running_min: Any


def time_features(fraction: Array) -> Array:
    """``tanh(10 (fraction - t))`` for nine thresholds t, float32 (9,)."""
    return jnp.tanh(10.0 * (fraction - jnp.asarray(TIME_THRESHOLDS, jnp.float32)))


def horizon_feature(num_steps: Array, shortest: float = 1.0) -> Array:
    """``log(num_steps) - 7`` within plus or minus 3, float32 (1,): 0 for some 1,100 steps.

    The papers' schedulers read the completed fraction of a training only, so their schedule is the same for every length.

    Args:
      num_steps: planned length of training, scalar.
      shortest: shorter lengths count as this one.
    """
    steps = jnp.maximum(jnp.asarray(num_steps, jnp.float32), shortest)
    return jnp.clip(jnp.log(steps) - 7.0, -3.0, 3.0)[None]


def init_loss_buffer(num_timescales: int) -> LossBuffer:
    """An empty buffer."""
    return LossBuffer(
        count=jnp.zeros((), jnp.int32),
        means=jnp.zeros((num_timescales,), jnp.float32),
        running_min=jnp.full((num_timescales,), np.finfo(np.float32).max, jnp.float32),
    )


def loss_rates(num_steps: Array, num_timescales: int) -> Array:
    """Inverse half-lives, of half-lives ``logspace(1, log10 num_steps)``, float32 (timescales,)."""
    last = jnp.log10(jnp.asarray(num_steps, jnp.float32))
    exponents = jnp.linspace(np.float32(1.0), last, num_timescales, dtype=jnp.float32)
    return 10.0 ** (-exponents)


def corrected_means(means: Array, count: Array, rates: Array) -> Array:
    """Bias-corrected means ``mean / (1 - decay^count)`` with ``decay = exp(-rate)``.

    ``-expm1(-count * rate)`` keeps the digits that ``1 - decay**count`` loses for long half-lives.
    """
    return means / -jnp.expm1(-count * rates)


def update_loss_buffer(buffer: LossBuffer, value: Array, num_steps: Array) -> tuple[LossBuffer, Array]:
    """Updates the buffer with one loss.

    A loss is limited to twice the magnitude of the largest mean so far, except the first, and where that mean is 0: a training
    may begin at a loss of exactly 0. A NaN counts as a loss at that limit; while there is no finite loss yet, a non-finite
    one is left out.

    Args:
      buffer: the buffer before this loss.
      value: the loss, a scalar.
      num_steps: length of training in steps, a scalar, possibly traced.

    Returns:
      The new buffer, and loss features float32 (timescales - 1,) in [-1, 1], zero during the first two steps.
    """
    value = jnp.asarray(value, jnp.float32)
    num_timescales = buffer.means.shape[0]
    rates = loss_rates(num_steps, num_timescales)
    count = optax.safe_increment(buffer.count)
    k = count.astype(jnp.float32)

    # The limit uses the old means with the new correction, as the published rule does.
    limit = jnp.minimum(2.0 * jnp.abs(jnp.max(corrected_means(buffer.means, k, rates))), _LARGEST_LOSS)
    bounded = jnp.clip(jnp.where(jnp.isnan(value), _LARGEST_LOSS, value), -_LARGEST_LOSS, _LARGEST_LOSS)
    # While the limit is 0, a finite loss is taken as it is; a non-finite one is not.
    unlimited = (buffer.count == 0) | ((limit == 0) & jnp.isfinite(value))
    loss = jnp.where(unlimited, bounded, jnp.minimum(bounded, limit))

    means = jnp.exp(-rates) * buffer.means - jnp.expm1(-rates) * loss
    current = corrected_means(means, k, rates)
    running_min = jnp.minimum(buffer.running_min, current)
    new = LossBuffer(count, means, running_min)
    left_out = (buffer.count == 0) & ~jnp.isfinite(value)
    new = jax.tree.map(lambda a, b: jnp.where(left_out, b, a), new, buffer)

    spread = jnp.maximum(1e-8, current[1:] - running_min[:-1])
    features = jnp.clip((current[:-1] - running_min[:-1]) / spread - 1.0, -1.0, 1.0)
    return new, jnp.where(new.count <= 2, 0.0, features)
