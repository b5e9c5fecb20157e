"""Running moments of the gradient: the state of a per-parameter learned optimizer.

Every accumulator keeps one tree per decay. A tree of momenta or second moments has exactly the structure
and the shapes of the parameters, so a parameter's ``PartitionSpec`` is valid for its accumulators too,
and no array has a short trailing axis that would prevent vectorisation.

Recurrences (Celo, arXiv 2501.12670, section 3; Adafactor, arXiv 1804.04235, for the factored moments)::

    m <- b m + (1 - b) g          v <- b v + (1 - b) g^2          q = g^2 + 1e-30
    rank >= 2:  row <- b row + (1 - b) mean_{d0} q      column <- b column + (1 - b) mean_{d1} q
    rank <  2:  row <- b row + (1 - b) q                column <- (unused)

There is no bias correction.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

FACTORED_FLOOR = 1e-30
"""Added to the squared gradient in factored second moments, so that they are never zero."""


@dataclasses.dataclass(frozen=True)
class Moments:
    """Which moments an optimizer keeps.

    Attributes:
      momentum_decays: decays of the momenta.
      second_moment_decay: decay of the second moment.
      factored_decays: decays of the factored second moments; as many as momentum decays, with which they are combined.
      gradient_clip: gradients are clipped elementwise to plus or minus this.

    Raises:
      ValueError: there are not as many factored decays as momentum decays.
    """

    momentum_decays: tuple[float, ...] = (0.9, 0.99, 0.999)
    second_moment_decay: float = 0.999
    factored_decays: tuple[float, ...] = (0.9, 0.99, 0.999)
    gradient_clip: float = 1000.0

    def __post_init__(self) -> None:
        if len(self.momentum_decays) != len(self.factored_decays):
            raise ValueError(
                "momentum_decays and factored_decays must have the same length: they are combined pairwise."
            )


class FactoredMoment(NamedTuple):
    """Factored second moments of one decay for one tensor (or, in an optimizer's state, tuples of trees of these).

    Attributes:
      row: mean over the largest axis ``d0`` (shape of the tensor without ``d0``); for rank < 2 the full moment.
      column: mean over the second largest axis ``d1`` (shape without ``d1``); ``None`` for rank < 2.
    """

    row: Any
    column: Any


def factored_axes(shape: Sequence[int]) -> tuple[int, int] | None:
    """Axes ``(d1, d0)`` over which a tensor of ``shape`` is factored, or ``None`` for rank < 2.

    ``d0`` is the position of the largest size and ``d1`` of the second largest, by a stable argsort.
    """
    if len(shape) < 2:
        return None
    order = np.argsort(np.asarray(shape), kind="stable")
    return int(order[-2]), int(order[-1])


def init_factored(parameter: Array, dtype: Any, stacked: int = 0) -> FactoredMoment:
    """Zero factored moments for a tensor, or for a stack of them along the first ``stacked`` axes.

    They are computed by the same reductions as the updated ones, so that they are sharded alike.
    """
    zeros = jnp.zeros_like(parameter, dtype=dtype)
    axes = factored_axes(zeros.shape[stacked:])
    if axes is None:
        return FactoredMoment(zeros, None)
    d1, d0 = axes
    return FactoredMoment(jnp.sum(zeros, axis=stacked + d0), jnp.sum(zeros, axis=stacked + d1))


def init_factored_trees(
    params: Any, num_decays: int, dtype: Any, stacks: Sequence[tuple[int, ...] | None] | None = None
) -> FactoredMoment:
    """Zero factored moments as an optimizer's state holds them.

    Args:
      params: a tree of arrays.
      num_decays: how many moments.
      dtype: of the moments.
      stacks: for each leaf, see `celo_core.kernels.Leaf`; by default there is none.

    Returns:
      A `FactoredMoment` whose ``row`` and ``column`` are tuples of trees like ``params``, one per decay. An array, or
      ``None``, is in place of each parameter, since containers that wrap each parameter allow no subtree there.
    """
    treedef: Any
    leaves, treedef = jax.tree.flatten(params)
    stacked = [0] * len(leaves) if stacks is None else [len(stack or ()) for stack in stacks]

    def trees(part: str) -> tuple[Any, ...]:
        # Each its own buffer, so that all can be donated.
        one = lambda: [getattr(init_factored(p, dtype, k), part) for p, k in zip(leaves, stacked, strict=True)]
        return tuple(treedef.unflatten(one()) for _ in range(num_decays))

    return FactoredMoment(trees("row"), trees("column"))


def decay_average(old: Array, new: Array, decay: float) -> Array:
    """Exponential moving average ``decay * old + (1 - decay) * new`` in float32 (old may be of lower precision)."""
    return decay * old.astype(jnp.float32) + (1.0 - decay) * new


def store(new: Array, dtype: Any, seed: Array, place: Callable[[], Array] | None = None) -> Array:
    """A new float32 accumulator in the dtype in which it is kept, bfloat16 by stochastic rounding.

    An average of decay 0.999 moves by less than half a unit in the last place of bfloat16 (2^-9) per step wherever the
    new value is within some 2.5 times the old one: rounded to the nearest, it would not change. Rounded up or down with
    probabilities by distance, it is right in expectation (Gupta et al., arXiv 1502.02551). The random bits are a hash of
    ``seed`` and an element's place, so that no key is kept in the state and the same step gives the same bits everywhere.

    Args:
      new: float32, any shape.
      dtype: dtype of the result; others than bfloat16 round to the nearest.
      seed: uint32, broadcasts against ``new``: different for every step, tensor and accumulator.
      place: for a piece of a tensor, a function that returns its elements' places in the whole, uint32 like `places`.
    """
    if dtype != jnp.bfloat16:
        return new.astype(dtype)
    return round_stochastically(new, random_bits(seed, place() if place else places(new.shape)))


def places(shape: Sequence[int]) -> Array:
    """Place of each element of a tensor in row-major order, uint32 (modulo 2^32)."""
    index = jnp.zeros(shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(len(shape))):
        index = index + jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * np.uint32(stride % 2**32)
        stride *= shape[axis]
    return index


def random_bits(seed: Array, place: Array) -> Array:
    """A hash of seed and place, uint32: two rounds of multiply and shift (C. Wellons' lowbias32 mixing constants)."""
    x = place * np.uint32(0x9E3779B1) + seed
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    return x ^ (x >> 16)


def round_stochastically(x: Array, bits: Array) -> Array:
    """Float32 to bfloat16, rounded up with a probability equal to the truncated fraction; finite numbers stay finite.

    Args:
      x: float32.
      bits: uint32 of the same shape; the lower 16 are used.
    """
    largest = np.float32(jnp.finfo(jnp.bfloat16).max)
    x = jnp.clip(x, -largest, largest)
    dithered = jax.lax.bitcast_convert_type(x, jnp.uint32) + (bits & np.uint32(0xFFFF))
    cut = jax.lax.bitcast_convert_type(dithered & np.uint32(0xFFFF0000), jnp.float32)
    return cut.astype(jnp.bfloat16)
