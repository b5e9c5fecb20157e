"""What an implementation of the fused update takes and returns; `celo_core.kernels.xla` and ``pallas`` share it.

A batch is one tensor as it is, or some tensors of one shape stacked along a first axis. The interface is that of
per-parameter MLP optimizers in general: weights may differ from tensor to tensor (VeLO, arXiv 2211.09760, mixes a bank of
networks for each), and since statistics are taken per element of the batch, an optimizer that normalises over the last two
axes alone (Celo2, arXiv 2602.19142) makes the leading axes of a tensor part of the batch.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from celo_core import features as features_lib
from celo_core import networks
from celo_core.accumulators import factored_axes
from celo_core.features import Kind

Array = jax.Array

LARGEST_EXPONENT = 80.0
"""Upper bound on a learned log-magnitude: exp(80) is finite in float32."""

LARGEST_PARAMETER = 1e15
"""Bound on a parameter as the rule sees it: its square, summed over a tensor, is finite in float32."""

ADAM_EPSILON = 1e-16
"""Added to the second moment under Adam's root; the square of its usual epsilon."""

FULL_SIZE = (Kind.POINTWISE, Kind.FACTORED)
ALL_KINDS = tuple(Kind)


@dataclasses.dataclass(frozen=True)
class UpdateRule:
    """The static part of a per-parameter MLP update rule; see `celo_core.CeloConfig` for the attributes."""

    features: tuple[str, ...]
    momentum_decays: tuple[float, ...]
    second_moment_decay: float
    factored_decays: tuple[float, ...]
    gradient_clip: float
    step_scale: float
    magnitude_scale: float

    def indices(self, kinds: Sequence[Kind]) -> list[int]:
        """Places of the features of some kinds."""
        return features_lib.indices(self.features, len(self.momentum_decays), kinds)

    def make(self, values: features_lib.Values, kinds: Sequence[Kind]) -> list[Array]:
        """The features of some kinds."""
        return features_lib.make(self.features, values, kinds)


class Accumulators(NamedTuple):
    """Running moments of a batch of tensors of shape ``s``, in the dtype in which they are kept.

    Attributes:
      momenta: (*batch, *s) per momentum decay.
      second_moment: (*batch, *s).
      rows: per factored decay (*batch, *s without d0); for rank < 2 (*batch, *s).
      columns: per factored decay (*batch, *s without d1), or ``None`` for rank < 2.
    """

    momenta: tuple[Array, ...]
    second_moment: Array
    rows: tuple[Array, ...]
    columns: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One leaf of a tree: a tensor of any rank, or a stack of tensors of one shape, such as the layers of a scan.

    Attributes:
      gradient: (*stack, *s).
      parameter: (*stack, *s).
      accumulators: moments as of `Accumulators`, (*stack, ...) each.
      scale_floor: ``None``, or float32 (*stack,), as in `Batch`.
      stack: lengths of the leading axes that are a stack, or ``None`` for a single tensor.
      sharding: what leaves must have in common to be stacked, where that is known; see `celo_core.sharding`.
    """

    gradient: Any
    parameter: Any
    accumulators: Accumulators
    scale_floor: Array | None = None
    stack: tuple[int, ...] | None = None
    sharding: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a tensor."""
        return tuple(self.gradient.shape[len(self.stack or ()) :])

    @property
    def size(self) -> int:
        """Elements of a tensor."""
        return math.prod(self.shape)

    @property
    def count(self) -> int:
        """Number of tensors."""
        return math.prod(self.stack or ())


class Batch(NamedTuple):
    """One tensor of shape ``s``, or a stack of tensors of that shape; of rank 1 or more.

    Attributes:
      gradient: (*batch, *s), any floating dtype; ``*batch`` is nothing or the length of the stack.
      parameter: (*batch, *s).
      accumulators: their running moments.
      mask: ``None``, or float32 (*batch, *s): 1 where there is an element and 0 in padding. Rank 1 only.
      stacked: 1 if there is a batch axis, else 0.
      scale_floor: ``None``, or float32 (*batch,): added in quadrature to the tensor's root mean square, to which steps
        are relative.
    """

    gradient: Array
    parameter: Array
    accumulators: Accumulators
    mask: Array | None
    stacked: int
    scale_floor: Array | None = None

    @property
    def axes(self) -> tuple[int, int] | None:
        """Axes ``(d1, d0)`` of the batch's arrays over which they are factored, or ``None`` for rank < 2."""
        axes = factored_axes(self.gradient.shape[self.stacked :])
        return None if axes is None else (axes[0] + self.stacked, axes[1] + self.stacked)

    @property
    def tensor_axes(self) -> tuple[int, ...]:
        """All axes but the batch axis."""
        return tuple(range(self.stacked, self.gradient.ndim))

    @property
    def num_elements(self) -> Array | float:
        """Elements per tensor: a number, or float32 (batch,) where there is padding."""
        if self.mask is not None:
            return jnp.sum(self.mask, axis=self.tensor_axes)
        return float(math.prod(self.gradient.shape[self.stacked :]))


class Operands(NamedTuple):
    """What the full-size features of a tensor, or of a piece of it, are computed from.

    Attributes:
      gradient: the raw gradient, any floating dtype.
      parameter: the parameter.
      momenta: new momenta, any floating dtype, as the rest.
      second_moment: the new second moment.
      row_factors, column_factors: float32, the factors of the preconditioner per decay, broadcastable; rank >= 2.
      full: the new full second moments per decay, for rank < 2; else ``None``.
      mask: see `Batch`.
    """

    gradient: Array
    parameter: Array
    momenta: Sequence[Array]
    second_moment: Array
    row_factors: Sequence[Array]
    column_factors: Sequence[Array]
    full: Sequence[Array] | None
    mask: Array | None


def full_size_values(rule: UpdateRule, x: Operands) -> features_lib.Values:
    """Values of the features that have the tensor's shape: pointwise and factored ones, for rank < 2 all."""
    wide = lambda y: y.astype(jnp.float32)
    momenta, second_moment = [wide(m) for m in x.momenta], wide(x.second_moment)
    if x.full is None:
        full: Sequence[Array] = ()
        factors = [a * b for a, b in zip(x.row_factors, x.column_factors, strict=True)]
        momentum_factors = factors
    else:
        # Padding has no moments; 1 keeps what is masked out later finite.
        full = [wide(y) if x.mask is None else wide(y) + (1.0 - x.mask) for y in x.full]
        factors = [features_lib.safe_rsqrt(y + 1e-9) for y in full]
        momentum_factors = [jax.lax.rsqrt(y) for y in full]
    return features_lib.Values(
        gradient=finite_gradient(x.gradient, rule.gradient_clip),
        parameter=finite_parameter(x.parameter),
        momenta=momenta,
        second_moment=second_moment,
        inverse_rms=features_lib.inverse_rms(second_moment),
        factors=factors,
        momentum_factors=momentum_factors,
        rows=full,
        columns=full,
    )


def small_values(rows: Sequence[Array], columns: Sequence[Array]) -> features_lib.Values:
    """Values of the row and column features of rank >= 2, which need nothing else."""
    none: Any = None
    return features_lib.Values(none, none, (), none, none, (), (), rows, columns)


def adam_direction(kernel: Array, values: features_lib.Values) -> Array:
    """``sum_k kernel[k] m_k / sqrt(v)``, float32 in the tensor's shape.

    Not normalised over the tensor, as the features are: how long it is tells how much of the gradient is noise.

    Source: Kingma and Ba, "Adam", arXiv 1412.6980, section 2 (its bias corrections are in the kernel).
    """
    momenta = values.momenta
    total = networks.first_layer(kernel, momenta, range(len(momenta)), 0)
    return total * jax.lax.rsqrt(values.second_moment + ADAM_EPSILON)


def kinds(batch: Batch) -> tuple[Kind, ...]:
    """Kinds of features that have the tensors' shape."""
    return ALL_KINDS if batch.axes is None else FULL_SIZE


Statistic = Callable[[features_lib.Values], Array]
"""Elementwise, from what features are made of to an array of the tensor's shape."""


class Finish(NamedTuple):
    """What is done to the step of each tensor after the update rule, by functions of a module: they are part of a key.

    Attributes:
      applies: whether anything is done, from a tensor's shape.
      statistic: what the mean over each tensor is needed of.
      apply: from the rule, arrays of its own, a batch, its step, its new moments and two means, float32 (*batch,), the step
        in its place. The means are those of the squared parameter, with the square of the scale floor added, and of
        ``statistic``.
    """

    applies: Callable[[Sequence[int]], bool]
    statistic: Statistic
    apply: Callable[[UpdateRule, Any, Batch, Array, Accumulators, tuple[Array, Array]], Array]


Weights = Mapping[str, Mapping[str, Any]]
"""theta of a `celo_core.networks.PerParameterMLP`, each leaf possibly with a leading batch axis.

With ``{"adam": {"kernel": (momenta, 1)}}`` besides, the momenta over the root of the second moment are added to the network's
direction, each times its entry.
"""


def finite_gradient(gradient: Array, bound: float) -> Array:
    """The gradient in float32, NaN as 0 and everything clipped elementwise to plus or minus ``bound``."""
    gradient = gradient.astype(jnp.float32)
    return jnp.where(gradient != gradient, np.float32(0.0), _within(gradient, bound))


def finite_parameter(parameter: Array) -> Array:
    """The parameter in float32, limited so that its square does not overflow."""
    return _within(parameter.astype(jnp.float32), LARGEST_PARAMETER)


def _within(x: Array, bound: float) -> Array:
    """``x``, float32, limited to plus or minus ``bound``; a NaN stays one."""
    return jax.lax.clamp(np.float32(-bound), x, np.float32(bound))


def cast_finite(step: Array, dtype: Any) -> Array:
    """``step`` in ``dtype``, limited to its finite range (which matters for float16)."""
    limit = float(jnp.finfo(dtype).max)
    return _within(step, limit).astype(dtype) if limit < 1e30 else step.astype(dtype)
