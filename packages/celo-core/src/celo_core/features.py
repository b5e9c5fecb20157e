"""Per-parameter features: what the update rule sees of a gradient, a parameter and their running moments.

`FEATURES` is the one table of feature groups. The order in which a config names them is the order of the rows of the
first layer's kernel, hence part of the checkpoint format (Celo, arXiv 2501.12670, section 3).

A feature is an array that broadcasts against its tensor. Row and column statistics keep their reduced axis with size
one and are never blown up to the tensor's size: the first layer adds them as rank-one terms.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from celo_core.accumulators import FactoredMoment, factored_axes

Array = jax.Array

NORMALIZER_EPSILON = 1e-5
"""Added to a feature's mean square before the reciprocal square root."""


class TensorStatistics(NamedTuple):
    """All that the features of one tensor are made of; every array is float32.

    Attributes:
      gradient: clipped gradient, the tensor's shape.
      parameter: the parameter, same shape.
      momenta: one array of that shape per momentum decay.
      second_moment: one array of that shape.
      rows, columns: factored second moments, broadcastable against the tensor, one per factored decay. For rank < 2
        both are the full second moment of that decay.
      factors: reciprocal root of the factored second moment that preconditions the gradient, one per decay.
      momentum_factors: likewise for the momenta.
    """

    gradient: Array
    parameter: Array
    momenta: Sequence[Array]
    second_moment: Array
    rows: Sequence[Array]
    columns: Sequence[Array]
    factors: Sequence[Array]
    momentum_factors: Sequence[Array]


def safe_rsqrt(x: Array) -> Array:
    """``rsqrt(max(x, 1e-9))``."""
    return jax.lax.rsqrt(jnp.maximum(x, 1e-9))


def tensor_statistics(
    gradient: Array,
    parameter: Array,
    momenta: Sequence[Array],
    second_moment: Array,
    factored: Sequence[FactoredMoment],
) -> TensorStatistics:
    """Collects what the features need, with the factored moments expanded to broadcast against the tensor."""
    axes = factored_axes(gradient.shape)
    if axes is None:
        full = [moment.row for moment in factored]
        return TensorStatistics(
            gradient,
            parameter,
            momenta,
            second_moment,
            rows=full,
            columns=full,
            factors=[safe_rsqrt(x + 1e-9) for x in full],
            momentum_factors=[jax.lax.rsqrt(x) for x in full],
        )
    d1, d0 = axes
    rows = [jnp.expand_dims(moment.row, d0) for moment in factored]
    columns = [jnp.expand_dims(moment.column, d1) for moment in factored]
    factors = [
        safe_rsqrt(row / (jnp.mean(row, axis=d1, keepdims=True) + 1e-9)) * safe_rsqrt(column)
        for row, column in zip(rows, columns, strict=True)
    ]
    return TensorStatistics(gradient, parameter, momenta, second_moment, rows, columns, factors, factors)


def _normalized_second_moment(s: TensorStatistics) -> Array:
    return jax.lax.rsqrt(s.second_moment + 1e-6)


FEATURES: dict[str, Callable[[TensorStatistics], Sequence[Array]]] = {
    "gradient": lambda s: [s.gradient],
    "clipped_gradient": lambda s: [jnp.clip(s.gradient, -0.1, 0.1)],
    "parameter": lambda s: [s.parameter],
    "momentum": lambda s: list(s.momenta),
    "second_moment": lambda s: [s.second_moment],
    "momentum_over_rms": lambda s: [m * _normalized_second_moment(s) for m in s.momenta],
    "inverse_rms": lambda s: [_normalized_second_moment(s)],
    "factored_gradient": lambda s: [s.gradient * factor for factor in s.factors],
    "gradient_over_rms": lambda s: [s.gradient * _normalized_second_moment(s)],
    "row": lambda s: list(s.rows),
    "column": lambda s: list(s.columns),
    "inverse_root_row": lambda s: [jax.lax.rsqrt(row + 1e-8) for row in s.rows],
    "inverse_root_column": lambda s: [jax.lax.rsqrt(column + 1e-8) for column in s.columns],
    "factored_momentum": lambda s: [m * f for m, f in zip(s.momenta, s.momentum_factors, strict=True)],
}
"""Name of a feature group -> function from a tensor's statistics to its features."""

CELO_FEATURES: tuple[str, ...] = tuple(FEATURES)
"""The groups of Celo in their published order: 14 groups, 30 numbers."""


def num_features(names: Sequence[str], num_momenta: int, num_factored: int) -> int:
    """Number of features that the groups ``names`` make, given the numbers of decays."""
    sizes = {
        "momentum": num_momenta,
        "momentum_over_rms": num_momenta,
        "factored_gradient": num_factored,
        "row": num_factored,
        "column": num_factored,
        "inverse_root_row": num_factored,
        "inverse_root_column": num_factored,
        "factored_momentum": num_factored,
    }
    return sum(sizes.get(name, 1) for name in names)


def compute_features(names: Sequence[str], statistics: TensorStatistics) -> tuple[list[Array], list[Array]]:
    """Features in checkpoint order and the scalar that normalises each.

    Returns:
      ``(features, scales)``: arrays that broadcast against the tensor, and float32 scalars
      ``rsqrt(1e-5 + mean(feature^2))``. The mean is over the whole tensor, which for a row or column statistic equals
      the mean over its own entries, since each is repeated equally often.
    """
    features = [feature for name in names for feature in FEATURES[name](statistics)]
    scales = [jax.lax.rsqrt(NORMALIZER_EPSILON + jnp.mean(jnp.square(x))) for x in features]
    return features, scales


def parameter_scale(parameter: Array) -> Array:
    """Root mean square of a tensor, ``sqrt(mean p^2 + 1e-9)``: steps are relative to it."""
    return jnp.sqrt(jnp.mean(jnp.square(parameter)) + 1e-9)
