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
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from celo_core import accumulators as moments
from celo_core import features as features_lib
from celo_core import networks
from celo_core.accumulators import FACTORED_FLOOR
from celo_core.features import Kind
from celo_core.kernels import interface, reductions
from celo_core.kernels.interface import Accumulators, Batch, Operands, UpdateRule, Weights

Array = jax.Array


def update_batch(
    rule: UpdateRule, weights: Weights, multiplier: Array | None, batch: Batch, seed: Array
) -> tuple[Array, Accumulators]:
    """One step of a batch of tensors.

    Args:
      rule: the update rule.
      weights: meta-parameters of its network.
      multiplier: the scheduler's step-size multiplier, a float32 scalar, or ``None`` for 1.
      batch: gradients, parameters and moments.
      seed: uint32 scalar for stochastic rounding, different for every step and batch.

    Returns:
      ``(step, accumulators)``: the step to be subtracted, (*batch, *s) in the gradient's dtype, and the new moments.
    """
    if batch.stacked and reductions.on_one_cpu():
        # One program for a tensor, run for each, rather than one for the stack: that compiles to half as many kernels.
        each, numbers = batch._replace(stacked=0), jnp.arange(batch.gradient.shape[0], dtype=jnp.uint32)
        results = (jax.ShapeDtypeStruct(batch.gradient.shape, batch.gradient.dtype), batch.accumulators)
        one = lambda x: update_batch(rule, weights, multiplier, each._replace(**x[0]), seed + x[1])
        arrays = {name: x for name, x in each._asdict().items() if name != "stacked"}
        return reductions.one_by_one(one, (arrays, numbers), results)
    new = update_moments(rule, batch, seed)
    factored = None if batch.axes is None else factored_statistics(batch, new)
    statistics = mean_squares(rule, batch, new, factored)
    return apply_rule(rule, weights, multiplier, batch, new, factored, statistics), new


def update_moments(rule: UpdateRule, batch: Batch, seed: Array) -> Accumulators:
    """The new running moments, rounded to the dtype in which they are kept: that is what the features see."""
    old = batch.accumulators
    gradient = interface.finite_gradient(batch.gradient, rule.gradient_clip)
    squared = jnp.square(gradient)
    numbers = itertools.count(1)

    def average(kept: Array, new: Array, decay: float) -> Array:
        salt = jnp.uint32(next(numbers) * 0x85EBCA6B % 2**32)
        return moments.store(moments.decay_average(kept, new, decay), kept.dtype, seed ^ salt)

    def averages(kept: Sequence[Array], new: Array) -> tuple[Array, ...]:
        return tuple(average(k, new + FACTORED_FLOOR, d) for k, d in zip(kept, rule.factored_decays, strict=True))

    momenta = tuple(average(m, gradient, d) for m, d in zip(old.momenta, rule.momentum_decays, strict=True))
    second_moment = average(old.second_moment, squared, rule.second_moment_decay)
    if batch.axes is None:
        return Accumulators(momenta, second_moment, averages(old.rows, squared), old.columns)
    d1, d0 = batch.axes
    square = lambda g: jnp.square(interface.finite_gradient(g, rule.gradient_clip))
    # The barrier keeps these reductions apart from the elementwise moments, whose squares would be written out for them.
    row_mean, column_mean = reductions.means_over(
        square, jax.lax.optimization_barrier(batch.gradient), (d0, d1), batch.stacked
    )
    return Accumulators(momenta, second_moment, averages(old.rows, row_mean), averages(old.columns, column_mean))


class Factored(NamedTuple):
    """Row and column statistics of a batch of rank >= 2, float32, with the reduced axis kept; per decay."""

    rows: list[Array]
    columns: list[Array]
    row_factors: list[Array]
    column_factors: list[Array]


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
    read = jax.lax.optimization_barrier((batch.gradient, batch.parameter, new.momenta, new.second_moment))
    if factored is None:
        return Operands(*read, (), (), new.rows, batch.mask)
    return Operands(*read, factored.row_factors, factored.column_factors, None, None)


def mean_squares(
    rule: UpdateRule, batch: Batch, new: Accumulators, factored: Factored | None
) -> tuple[list[Array], Array]:
    """Pass 1.

    Returns:
      Mean square of every feature in checkpoint order, each float32 (*batch,), and that of the parameter.
    """
    kinds = interface.kinds(batch)

    def squares(x: Operands) -> list[Array]:
        values = interface.full_size_values(rule, x)
        made = [*rule.make(values, kinds), values.parameter]
        return [jnp.square(y) if x.mask is None else jnp.square(y) * x.mask for y in made]

    outputs = len(rule.indices(kinds)) + 1
    shape = batch.gradient.shape
    *sums, parameter = reductions.sums(squares, operands(batch, new, factored), shape, batch.stacked, outputs)
    means: dict[int, Array] = dict(zip(rule.indices(kinds), [x / batch.count for x in sums], strict=True))
    if factored is not None:
        for kind in (Kind.ROW, Kind.COLUMN):
            # Each is repeated equally often in the whole tensor, so that its own mean is that over the tensor.
            made = rule.make(interface.small_values(factored.rows, factored.columns), (kind,))
            own = [jnp.mean(jnp.square(x), axis=batch.tensor_axes) for x in made]
            means.update(zip(rule.indices((kind,)), own, strict=True))
    return [means[index] for index in sorted(means)], parameter / batch.count


def apply_rule(
    rule: UpdateRule,
    weights: Weights,
    multiplier: Array | None,
    batch: Batch,
    new: Accumulators,
    factored: Factored | None,
    statistics: tuple[list[Array], Array],
) -> Array:
    """Pass 2: the step, (*batch, *s) in the gradient's dtype."""
    squares, parameter_square = statistics
    kernel = weights["hidden_0"]["kernel"] * features_lib.normalizer(jnp.stack(squares, axis=-1))[..., None]
    size = features_lib.parameter_scale(parameter_square) * rule.step_scale
    size = size if multiplier is None else size * multiplier
    units = range(kernel.shape[-1])
    rank_one: list[list[Array]] = []
    if factored is not None:
        small = interface.small_values(factored.rows, factored.columns)
        for kind in (Kind.ROW, Kind.COLUMN):
            if made := rule.make(small, (kind,)):
                rank_one.append([networks.first_layer(kernel, made, rule.indices((kind,)), u) for u in units])
    # Each scalar and each vector is computed once: without the barrier XLA would compute them again for every parameter.
    kernel, size, rank_one = jax.lax.optimization_barrier((kernel, size, rank_one))
    kinds, ndim = interface.kinds(batch), batch.gradient.ndim
    made = rule.make(interface.full_size_values(rule, operands(batch, new, factored)), kinds)
    preactivations = []
    for unit in units:
        total = networks.expand(weights["hidden_0"]["bias"][..., unit], ndim)
        for terms in rank_one:
            total = total + terms[unit]
        preactivations.append(total + networks.first_layer(kernel, made, rule.indices(kinds), unit))
    direction, magnitude = networks.later_layers(weights, preactivations)
    exponent = jnp.minimum(rule.magnitude_scale * magnitude, interface.LARGEST_EXPONENT)
    step = direction * jnp.exp(exponent) * networks.expand(size, ndim)
    return interface.cast_finite(step, batch.gradient.dtype)
