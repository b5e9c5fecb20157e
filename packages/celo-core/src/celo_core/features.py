"""Per-parameter features: inputs of the update rule, computed from a gradient, a parameter and running moments.

`FEATURES` is the one table of feature groups. The order in which a config names them is the order of the rows of the
first layer's kernel, hence part of the checkpoint format (Celo, arXiv 2501.12670, section 3).

Every feature is divided by its root mean square over the tensor. How that mean is computed, and how the first layer reads the
feature, depends on the feature's `Kind`: row and column statistics are never broadcast to the tensor's size.
"""

import enum
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array

NORMALIZER_EPSILON = 1e-5
"""Added to a feature's mean square before the reciprocal square root."""


class Kind(enum.Enum):
    """What a feature depends on, for a tensor of rank 2 or more; below that every feature has the tensor's shape.

    Attributes:
      POINTWISE: gradient, parameter, momenta and second moment at the same place.
      FACTORED: those and the factored preconditioner, whose statistics come from a pass over the whole gradient first.
      ROW: a row statistic: one number per row, a rank-one term of the first layer.
      COLUMN: likewise a column statistic.
    """

    POINTWISE = enum.auto()
    FACTORED = enum.auto()
    ROW = enum.auto()
    COLUMN = enum.auto()


class Values(NamedTuple):
    """What the features of a tensor are computed from; float32 arrays that broadcast against the tensor.

    Attributes:
      gradient: clipped gradient.
      parameter: the parameter.
      momenta: one array per momentum decay.
      second_moment: running mean of the squared gradient.
      inverse_rms: ``rsqrt(second_moment + 1e-6)``.
      factors: reciprocal root of the factored second moment that preconditions the gradient, one per decay.
      momentum_factors: likewise for the momenta.
      rows: factored second moments over rows, one per decay; for rank < 2 the full second moment of that decay.
      columns: likewise over columns.
    """

    gradient: Array
    parameter: Array
    momenta: Sequence[Array]
    second_moment: Array
    inverse_rms: Array
    factors: Sequence[Array]
    momentum_factors: Sequence[Array]
    rows: Sequence[Array]
    columns: Sequence[Array]


class Feature(NamedTuple):
    """A group of features.

    Attributes:
      kind: what they depend on.
      of: function from `Values` to one array per feature.
    """

    kind: Kind
    of: Callable[[Values], Sequence[Array]]


def safe_rsqrt(x: Array) -> Array:
    """``rsqrt(max(x, 1e-9))``."""
    return jax.lax.rsqrt(jnp.maximum(x, 1e-9))


def inverse_rms(second_moment: Array) -> Array:
    """``rsqrt(v + 1e-6)``."""
    return jax.lax.rsqrt(second_moment + 1e-6)


def clip_gradient(gradient: Array) -> Array:
    """The gradient limited to plus or minus 0.1."""
    return jnp.maximum(jnp.minimum(gradient, 0.1), -0.1)


def row_factor(row: Array, mean_row: Array) -> Array:
    """Row part of the factored preconditioner: ``rsqrt(max(row / (mean row + 1e-9), 1e-9))``."""
    return safe_rsqrt(row / (mean_row + 1e-9))


FEATURES: dict[str, Feature] = {
    "gradient": Feature(Kind.POINTWISE, lambda x: [x.gradient]),
    "clipped_gradient": Feature(Kind.POINTWISE, lambda x: [clip_gradient(x.gradient)]),
    "parameter": Feature(Kind.POINTWISE, lambda x: [x.parameter]),
    "momentum": Feature(Kind.POINTWISE, lambda x: list(x.momenta)),
    "second_moment": Feature(Kind.POINTWISE, lambda x: [x.second_moment]),
    "momentum_over_rms": Feature(Kind.POINTWISE, lambda x: [m * x.inverse_rms for m in x.momenta]),
    "inverse_rms": Feature(Kind.POINTWISE, lambda x: [x.inverse_rms]),
    "factored_gradient": Feature(Kind.FACTORED, lambda x: [x.gradient * f for f in x.factors]),
    "gradient_over_rms": Feature(Kind.POINTWISE, lambda x: [x.gradient * x.inverse_rms]),
    "row": Feature(Kind.ROW, lambda x: list(x.rows)),
    "column": Feature(Kind.COLUMN, lambda x: list(x.columns)),
    "inverse_root_row": Feature(Kind.ROW, lambda x: [jax.lax.rsqrt(row + 1e-8) for row in x.rows]),
    "inverse_root_column": Feature(Kind.COLUMN, lambda x: [jax.lax.rsqrt(column + 1e-8) for column in x.columns]),
    "factored_momentum": Feature(
        Kind.FACTORED, lambda x: [m * f for m, f in zip(x.momenta, x.momentum_factors, strict=True)]
    ),
}
"""Name of a feature group -> what it depends on and how it is computed."""

CELO_FEATURES: tuple[str, ...] = tuple(FEATURES)
"""The groups of Celo in their published order: 14 groups, 30 numbers."""

_PER_DECAY = frozenset(
    {
        *("momentum", "momentum_over_rms", "factored_gradient", "row", "column"),
        *("inverse_root_row", "inverse_root_column", "factored_momentum"),
    }
)


def num_features(names: Sequence[str], num_decays: int) -> int:
    """Number of features in the groups ``names`` with ``num_decays`` momenta and factored moments."""
    return sum(num_decays if name in _PER_DECAY else 1 for name in names)


def indices(names: Sequence[str], num_decays: int, kinds: Sequence[Kind]) -> list[int]:
    """Indices, in checkpoint order, of the features of some kinds."""
    kind_of = [FEATURES[name].kind for name in names for _ in range(num_features([name], num_decays))]
    return [index for index, kind in enumerate(kind_of) if kind in kinds]


def make(names: Sequence[str], values: Values, kinds: Sequence[Kind]) -> list[Array]:
    """The features of some kinds, in the order of `indices`."""
    return [x for name in names if FEATURES[name].kind in kinds for x in FEATURES[name].of(values)]


def normalizer(mean_square: Array) -> Array:
    """Factor on a feature: ``rsqrt(1e-5 + mean(feature^2))``, the mean over the whole tensor."""
    return jax.lax.rsqrt(NORMALIZER_EPSILON + mean_square)


def parameter_scale(mean_square: Array) -> Array:
    """Root mean square of a tensor, ``sqrt(mean p^2 + 1e-9)``: steps are relative to it."""
    return jnp.sqrt(mean_square + 1e-9)
