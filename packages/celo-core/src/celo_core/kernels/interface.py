"""Interface of the implementations of the fused update, `celo_core.kernels.xla` and ``pallas``.

A batch is a single tensor, or several tensors of one shape stacked along a first axis. An `UpdateRule` defines its update:
moments, and directions whose steps add up. Weights of a direction may differ from tensor to tensor (VeLO, arXiv 2211.09760,
mixes a bank of networks for each), and since statistics are taken per element of the batch, an optimizer that normalises over
the last two axes alone (Celo2, arXiv 2602.19142) makes the leading axes of a tensor part of the batch.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from celo_core import features as features_lib
from celo_core.accumulators import Moments, factored_axes
from celo_core.features import Kind

Array = jax.Array

LARGEST_EXPONENT = 80.0
"""Upper bound on a learned log-magnitude: exp(80) is finite in float32."""

LARGEST_PARAMETER = 1e15
"""Bound on a parameter as the rule reads it: its square, summed over a tensor, is finite in float32."""

FULL_SIZE = (Kind.POINTWISE, Kind.FACTORED)
ALL_KINDS = tuple(Kind)


@dataclasses.dataclass(frozen=True)
class UpdateRule:
    """The static part of an update: ``scale * (sum of elementwise directions + sum of those per tensor)``.

    Attributes:
      moments: running moments of the gradient.
      elementwise: directions that are computed elementwise, from features and statistics of the tensor.
      per_tensor: directions of whole tensors, computed after the others.
      relative: whether steps are relative to each tensor's root mean square.
      step_scale: factor on every step.
    """

    moments: Moments
    elementwise: tuple["Elementwise", ...]
    per_tensor: tuple["PerTensor", ...] = ()
    relative: bool = True
    step_scale: float = 1e-3

    def applying(self, shape: Sequence[int]) -> list[int]:
        """Indices of the directions per tensor that apply to tensors of a shape."""
        return [place for place, one in enumerate(self.per_tensor) if one.applies(shape)]


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
      states: of the directions per tensor, as in `Batch`, (*stack, ...) each.
      own: as in `Batch`, (*stack, ...) each.
      stack: lengths of the leading axes that are a stack, or ``None`` for a single tensor.
      sharding: key that leaves must share to be stacked, where known; see `celo_core.sharding`.
    """

    gradient: Any
    parameter: Any
    accumulators: Accumulators
    states: tuple[Any, ...] = ()
    own: Mapping[str, Any] = dataclasses.field(default_factory=dict)
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
      states: of each direction per tensor a tree of arrays (*batch, *s), or ``None``.
      own: per-tensor values, float32 (*batch, ...): ``"scale_floor"``, which is added in quadrature to the root mean square;
        ``"multiplier"``, a factor on the steps; and by type of direction its input from the scheduler.
    """

    gradient: Array
    parameter: Array
    accumulators: Accumulators
    mask: Array | None
    stacked: int
    states: tuple[Any, ...] = ()
    own: Mapping[str, Any] = {}

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


def full_size_values(moments: Moments, x: Operands) -> features_lib.Values:
    """Values of the features that have the tensor's shape: pointwise and factored ones, for rank < 2 all."""
    wide = lambda y: y.astype(jnp.float32)
    momenta, second_moment = [wide(m) for m in x.momenta], wide(x.second_moment)
    if x.full is None:
        full: Sequence[Array] = ()
        factors = [a * b for a, b in zip(x.row_factors, x.column_factors, strict=True)]
        momentum_factors = factors
    else:
        # Moments are 0 in padding; adding 1 keeps values finite there, until they are masked out.
        full = [wide(y) if x.mask is None else wide(y) + (1.0 - x.mask) for y in x.full]
        factors = [features_lib.safe_rsqrt(y + 1e-9) for y in full]
        momentum_factors = [jax.lax.rsqrt(y) for y in full]
    return features_lib.Values(
        gradient=finite_gradient(x.gradient, moments.gradient_clip),
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


def kinds(batch: Batch) -> tuple[Kind, ...]:
    """Kinds of features that have the tensors' shape."""
    return ALL_KINDS if batch.axes is None else FULL_SIZE


class Folded(NamedTuple):
    """What an elementwise direction needs in pass 2, made from its weights and the statistics of pass 1.

    Attributes:
      shared: a tree of arrays that all tensors of a batch have in common.
      own: a tree of float32 (*batch, ...), of each tensor.
      arrays: a tree of arrays that broadcast against the batch's, such as terms of rows.
    """

    shared: Any = ()
    own: Any = ()
    arrays: Any = ()


class Elementwise(Protocol):
    """A direction that is computed elementwise: in one pass with the others, and also on pieces of a tensor."""

    @property
    def type(self) -> str:
        """Name of its weights."""
        ...

    def num_statistics(self, moments: Moments, kinds: Sequence[Kind]) -> int:
        """Number of `statistics`."""
        ...

    def statistics(self, moments: Moments, values: features_lib.Values, kinds: Sequence[Kind]) -> list[Array]:
        """Arrays whose means over each tensor are needed: of the tensor's shape, elementwise in ``values``.

        Args:
          moments: of the rule.
          values: what features are computed from.
          kinds: kinds of features that have the tensor's shape.
        """
        ...

    def mix(self, weights: Any, control: Any) -> Any:
        """Weights of each tensor, with leading axes (*batch,), from the scheduler's output for it."""
        ...

    def fold(
        self, moments: Moments, weights: Any, is_own: bool, means: Array, factored: Any, kinds: Sequence[Kind]
    ) -> Folded:
        """Combines weights and statistics, between the two passes.

        Args:
          moments: of the rule.
          weights: of this direction.
          is_own: whether they have a batch axis.
          means: of the statistics, float32 (*batch, num_statistics).
          factored: row and column statistics, see `celo_core.kernels.xla.Factored`, or ``None`` for rank < 2.
          kinds: see `statistics`.
        """
        ...

    def step(self, moments: Moments, folded: Folded, values: features_lib.Values, kinds: Sequence[Kind]) -> Array:
        """The step, float32, before it is scaled; elementwise in ``values``."""
        ...


class PerTensor(Protocol):
    """A direction of whole tensors, which may keep a state."""

    @property
    def type(self) -> str:
        """Name of its weights."""
        ...

    def applies(self, shape: Sequence[int]) -> bool:
        """Whether the direction applies to tensors of a shape."""
        ...

    def statistic(self, values: features_lib.Values) -> Array:
        """An array whose mean over each tensor is needed: of the tensor's shape, elementwise in ``values``."""
        ...

    def step(
        self, moments: Moments, weights: Any, batch: "Batch", new: "Accumulators", mean: Array, state: Any
    ) -> tuple[Array, Any]:
        """The step and the new state.

        Args:
          moments: of the rule.
          weights: of this direction.
          batch: gradients and parameters.
          new: the new moments.
          mean: of the statistic, float32 (*batch,).
          state: of the batch, or ``None``.

        Returns:
          The step, float32 (*batch, *s), before it is scaled, and the state, whose arrays are like those of ``state``.
        """
        ...


class Weights(NamedTuple):
    """Meta-parameters of the directions of an `UpdateRule`, in their order, with bias corrections and the like included."""

    elementwise: tuple[Any, ...]
    per_tensor: tuple[Any, ...] = ()


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


def expand(x: Array, ndim: int) -> Array:
    """``x`` with trailing axes of length one, so that it has ``ndim`` axes (a scalar stays one)."""
    return x if x.ndim == 0 else x.reshape(x.shape + (1,) * (ndim - x.ndim))
