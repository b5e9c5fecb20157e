"""The fused update in XLA: two passes over a batch of tensors, on any back end, under any transformation.

Pass 1, statistics: new moments, the row and column moments, and the mean square of each of the features. Pass 2, update: one
elementwise loop from gradient, parameter and moments to the step. What keeps it near the memory traffic:

- The normalisers are folded into the first layer's kernel: 30 numbers per tensor instead of 30 products per parameter.
- Row and column features enter the first layer as rank-one terms, one vector per hidden unit.
- Pass 2 computes the features again from its operands. An optimization barrier keeps XLA from sharing them with pass 1, which
  would write out a dozen arrays of the parameters' size.

Source of the equations: Celo, arXiv 2501.12670, section 3.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from celo_core import accumulators as moments
from celo_core import features as features_lib
from celo_core import networks
from celo_core.accumulators import FACTORED_FLOOR
from celo_core.features import Kind
from celo_core.kernels import interface, reductions
from celo_core.kernels.interface import Accumulators, Batch, Finish, Operands, Statistic, UpdateRule, Weights

Array = jax.Array

Store = Callable[[Array, Any, Array], Array]
"""As `celo_core.accumulators.store`."""


def update_batch(
    rule: UpdateRule,
    weights: Weights,
    multiplier: Array | None,
    batch: Batch,
    seed: Array,
    finish: Finish | None = None,
    finish_arguments: Any = None,
) -> tuple[Array, Accumulators]:
    """One step of a batch of tensors.

    Args:
      rule: the update rule.
      weights: meta-parameters of its network.
      multiplier: the scheduler's step-size multiplier, a float32 scalar, or ``None`` for 1.
      batch: gradients, parameters and moments.
      seed: uint32 scalar for stochastic rounding, different for every step and batch.
      finish: what is done to the step, for tensors to which it applies; or ``None``.
      finish_arguments: arrays that it takes.

    Returns:
      ``(step, accumulators)``: the step to be subtracted, (*batch, *s) in the gradient's dtype, and the new moments.
    """
    if batch.stacked and reductions.on_one_cpu():
        # One program for a tensor, run for each, rather than one for the stack: that compiles to half as many kernels.
        own = jnp.ndim(weights["output"]["bias"]) > 1
        arrays = (batch._replace(stacked=None), weights if own else None)  # type: ignore[arg-type]
        numbers = jnp.arange(batch.gradient.shape[0], dtype=jnp.uint32)

        def one(x: Any) -> tuple[Array, Accumulators]:
            (tensor, its_weights), number = x
            each = tensor._replace(stacked=0)
            rest = (multiplier, each, seed + number, finish, finish_arguments)
            return update_batch(rule, its_weights if own else weights, *rest)

        results = (jax.ShapeDtypeStruct(batch.gradient.shape, batch.gradient.dtype), batch.accumulators)
        return reductions.one_by_one(one, (arrays, numbers), results)
    new = update_moments(rule, batch, seed)
    factored = None if batch.axes is None else factored_statistics(batch, new)
    statistic = None if finish is None else finish.statistic
    sums = sums_of_squares(rule, batch, new, factored, statistic)
    statistics = mean_squares(rule, batch, factored, sums)
    folded = fold(rule, weights, multiplier, factored, statistics)
    step = apply_rule(rule, weights, folded, operands(batch, new, factored), interface.kinds(batch))
    if finish is not None:
        means = statistics[1], sums[..., -1] / batch.num_elements
        step = finish.apply(rule, finish_arguments, batch, step, new, means)
    return step, new


def update_moments(rule: UpdateRule, batch: Batch, seed: Array) -> Accumulators:
    """The new running moments, rounded to the dtype in which they are kept: that is what the features see."""
    new = full_size_moments(rule, batch.gradient, batch.accumulators, seed, batch.axes is None)
    return new if batch.axes is None else factored_moments(rule, batch, new, seed)


def full_size_moments(
    rule: UpdateRule, gradient: Array, old: Accumulators, seed: Array, full: bool, store: Store = moments.store
) -> Accumulators:
    """The new moments that have the tensor's shape; elementwise, so that it may be applied to pieces.

    Args:
      rule: the update rule.
      gradient: the raw gradient, any floating dtype.
      old: the moments; those that do not have the tensor's shape are returned as they are.
      seed: see `update_batch`.
      full: whether the row moments have the tensor's shape: for rank < 2.
      store: how a new moment is rounded.
    """
    gradient = interface.finite_gradient(gradient, rule.gradient_clip)
    squared = jnp.square(gradient)
    seeds = _seeds(seed)
    average = lambda kept, new, decay: store(moments.decay_average(kept, new, decay), kept.dtype, next(seeds))
    momenta = tuple(average(m, gradient, d) for m, d in zip(old.momenta, rule.momentum_decays, strict=True))
    second_moment = average(old.second_moment, squared, rule.second_moment_decay)
    rows = old.rows
    if full:
        decays = zip(rows, rule.factored_decays, strict=True)
        rows = tuple(average(row, squared + FACTORED_FLOOR, d) for row, d in decays)
    return Accumulators(momenta, second_moment, rows, old.columns)


def factored_moments(rule: UpdateRule, batch: Batch, old: Accumulators, seed: Array) -> Accumulators:
    """New row and column moments of a batch of rank >= 2, in place of those of ``old``."""
    assert batch.axes is not None
    d1, d0 = batch.axes
    square = lambda g: jnp.square(interface.finite_gradient(g, rule.gradient_clip))
    # The barrier keeps these reductions apart from the elementwise moments, whose squares would be written out for them.
    row_mean, column_mean = reductions.means_over(
        square, jax.lax.optimization_barrier(batch.gradient), (d0, d1), batch.stacked
    )
    seeds = itertools.islice(_seeds(seed), len(old.momenta) + 1, None)

    def averages(kept: Sequence[Array], new: Array) -> tuple[Array, ...]:
        average = lambda k, d: moments.decay_average(k, new + FACTORED_FLOOR, d)
        return tuple(
            moments.store(average(k, d), k.dtype, next(seeds)) for k, d in zip(kept, rule.factored_decays, strict=True)
        )

    return old._replace(rows=averages(old.rows, row_mean), columns=averages(old.columns, column_mean))


def _seeds(seed: Array) -> Iterator[Array]:
    """A seed for each accumulator, in the order of `Accumulators`."""
    return (seed ^ np.uint32(number * 0x85EBCA6B % 2**32) for number in itertools.count(1))


class Factored(NamedTuple):
    """Row and column statistics of a batch of rank >= 2, float32, with the reduced axis kept; per decay."""

    rows: list[Array]
    columns: list[Array]
    row_factors: list[Array]
    column_factors: list[Array]

    @property
    def size(self) -> int:
        """Elements of the batch."""
        return math.prod(np.broadcast_shapes(self.rows[0].shape, self.columns[0].shape))


def factored_statistics(batch: Batch, new: Accumulators) -> Factored:
    """The two factors of the preconditioner, and what they are made of."""
    assert batch.axes is not None
    d1, d0 = batch.axes
    rows = [jnp.expand_dims(row.astype(jnp.float32), d0) for row in new.rows]
    columns = [jnp.expand_dims(column.astype(jnp.float32), d1) for column in new.columns]
    row_factors = [features_lib.row_factor(row, jnp.mean(row, axis=d1, keepdims=True)) for row in rows]
    return Factored(rows, columns, row_factors, [features_lib.safe_rsqrt(column) for column in columns])


def operands(batch: Batch, new: Accumulators, factored: Factored | None) -> Operands:
    """What pass 1 or pass 2 reads, behind a barrier, so that the passes share no computation."""
    gradient, parameter, momenta, second_moment = jax.lax.optimization_barrier(
        (batch.gradient, batch.parameter, new.momenta, new.second_moment)
    )
    row_factors, column_factors = ((), ()) if factored is None else (factored.row_factors, factored.column_factors)
    full = new.rows if factored is None else None
    return Operands(gradient, parameter, momenta, second_moment, row_factors, column_factors, full, batch.mask)


def squares(rule: UpdateRule, x: Operands, kinds: Sequence[Kind], statistic: Statistic | None = None) -> list[Array]:
    """Squares of the features of the tensor's shape, and of the parameter; 0 in padding. Last a ``statistic``, if any."""
    values = interface.full_size_values(rule, x)
    made = [*rule.make(values, kinds), values.parameter]
    made = [jnp.square(y) if x.mask is None else jnp.square(y) * x.mask for y in made]
    return made if statistic is None else [*made, statistic(values)]


def sums_of_squares(
    rule: UpdateRule, batch: Batch, new: Accumulators, factored: Factored | None, statistic: Statistic | None = None
) -> Array:
    """Pass 1: sums over each tensor of what `squares` returns, float32 (*batch, features + 1), or one more."""
    kinds = interface.kinds(batch)
    outputs = len(rule.indices(kinds)) + (1 if statistic is None else 2)
    function = lambda x: squares(rule, x, kinds, statistic)
    return reductions.sums(function, operands(batch, new, factored), batch.gradient.shape, batch.stacked, outputs)


def mean_squares(rule: UpdateRule, batch: Batch, factored: Factored | None, sums: Array) -> tuple[Array, Array]:
    """Mean squares from the sums of pass 1 and, for row and column features, from the small arrays themselves.

    Returns:
      Mean square of every feature in checkpoint order, float32 (*batch, features), and that of the parameter, float32
      (*batch,), with the square of the batch's scale floor added.
    """
    size = jnp.asarray(batch.num_elements, jnp.float32)
    means = sums / jnp.expand_dims(size, -1)
    places = rule.indices(interface.kinds(batch))
    scale, means = means[..., len(places)], means[..., : len(places)]
    if batch.scale_floor is not None:
        scale = scale + jnp.square(batch.scale_floor)
    parts = [means]
    for kind, made in small_features(rule, factored):
        # Each is repeated equally often in the whole tensor, so that its own mean is that over the tensor.
        axes = tuple(axis + 1 for axis in batch.tensor_axes)
        parts.append(jnp.moveaxis(jnp.mean(jnp.square(made), axis=axes), 0, -1))
        places = [*places, *rule.indices((kind,))]
    if len(parts) == 1:
        return means, scale
    return jnp.concatenate(parts, axis=-1)[..., np.argsort(places)], scale


def small_features(rule: UpdateRule, factored: Factored | None) -> list[tuple[Kind, Array]]:
    """Row and column features, those of a kind stacked along a first axis, float32 (features, *batch, ...)."""
    if factored is None:
        return []
    values = interface.small_values(factored.rows, factored.columns)
    made = [(kind, rule.make(values, (kind,))) for kind in (Kind.ROW, Kind.COLUMN)]
    return [(kind, jnp.stack(features)) for kind, features in made if features]


class Folded(NamedTuple):
    """What the network needs besides the full-size features and its later layers.

    Attributes:
      kernel: float32 (*batch, num_features, units), the first layer's kernel times the normalisers.
      size: float32 (*batch,), what the network's output is multiplied by.
      rank_one: per kind of small feature, row and column, its part of each unit's preactivation: one array per unit, of
        the shape of the features.
    """

    kernel: Array
    size: Array
    rank_one: list[list[Array]]


def fold(
    rule: UpdateRule,
    weights: Weights,
    multiplier: Array | None,
    factored: Factored | None,
    statistics: tuple[Array, Array],
) -> Folded:
    """Between the passes: normalisers into the first layer's kernel, small features into rank-one terms, the step size."""
    mean_square, parameter_square = statistics
    kernel = weights["hidden_0"]["kernel"] * features_lib.normalizer(mean_square)[..., None]
    size = features_lib.parameter_scale(parameter_square) * rule.step_scale
    size = size if multiplier is None else size * multiplier
    units = range(kernel.shape[-1])
    rank_one: list[list[Array]] = []
    for kind, made in small_features(rule, factored):
        rows = rule.indices((kind,))
        if kernel.ndim == 2 and reductions.on_one_cpu() and factored is not None and factored.size > reductions.LARGE:
            # As one reduction: XLA would make plain sums one kernel with pass 2, and compute them for every parameter. That
            # takes less time than one kernel more for small tensors alone.
            part = kernel[np.asarray(rows)].reshape(len(rows), -1, *(1 for _ in made.shape[1:]))
            rank_one.append(list(jnp.sum(part * made[:, None], axis=0)))
        else:
            rank_one.append([networks.first_layer(kernel, list(made), rows, unit) for unit in units])
    # Without the barrier XLA's GPU back end would compute each scalar and each vector again for every parameter.
    return Folded(*jax.lax.optimization_barrier((kernel, size, rank_one)))


def means_for(rule: UpdateRule, finish: Finish, batch: Batch, new: Accumulators) -> tuple[Array, Array]:
    """The means that `Finish.apply` takes, where pass 1 has not made them."""
    x = Operands(batch.gradient, batch.parameter, new.momenta, new.second_moment, (), (), None, batch.mask)
    values = interface.full_size_values(rule, x)
    square, statistic = (
        jnp.mean(y, axis=batch.tensor_axes) for y in (jnp.square(values.parameter), finish.statistic(values))
    )
    return square if batch.scale_floor is None else square + jnp.square(batch.scale_floor), statistic


def apply_rule(rule: UpdateRule, weights: Weights, folded: Folded, x: Operands, kinds: Sequence[Kind]) -> Array:
    """Pass 2: the step, in the gradient's shape and dtype; elementwise, so that it may be applied to pieces.

    Args:
      rule: the update rule.
      weights: meta-parameters of its network.
      folded: what `fold` makes of them.
      x: the operands.
      kinds: kinds of features that have the tensor's shape.
    """
    ndim = x.gradient.ndim
    values = interface.full_size_values(rule, x)
    made = rule.make(values, kinds)
    preactivations = []
    for unit in range(folded.kernel.shape[-1]):
        total = networks.expand(weights["hidden_0"]["bias"][..., unit], ndim)
        for terms in folded.rank_one:
            total = total + terms[unit]
        if made:
            total = total + networks.first_layer(folded.kernel, made, rule.indices(kinds), unit)
        preactivations.append(total)
    direction, magnitude = networks.later_layers(weights, preactivations)
    exponent = jnp.minimum(rule.magnitude_scale * magnitude, interface.LARGEST_EXPONENT)
    step = direction * jnp.exp(exponent)
    if "adam" in weights:
        step = step + interface.adam_direction(weights["adam"]["kernel"], values)
    step = step * networks.expand(folded.size, ndim)
    # A rule of nothing but row features, say, has made a row.
    return jnp.broadcast_to(interface.cast_finite(step, x.gradient.dtype), x.gradient.shape)
