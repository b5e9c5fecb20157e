"""The fused update in XLA: two passes over a batch of tensors, on any back end, under any transformation.

Pass 1, statistics: new moments, the row and column moments, and the means that directions need, such as the mean square of
each of a network's features. Pass 2, update: one elementwise loop from gradient, parameter and moments to the step. Directions
per tensor come last. Two measures keep the time close to that of the memory traffic:

- Directions fold the means into their weights (see `celo_core.directions.MLP`): 30 numbers per tensor instead of 30 products per
  parameter, and row and column features as rank-one terms.
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

from celo_core import accumulators
from celo_core import features as features_lib
from celo_core.accumulators import FACTORED_FLOOR, Moments
from celo_core.features import Kind
from celo_core.kernels import interface, reductions
from celo_core.kernels.interface import Accumulators, Batch, Folded, Operands, UpdateRule, Weights

Array = jax.Array

Store = Callable[[Array, Any, Array], Array]
"""As `celo_core.accumulators.store`."""


class Results(NamedTuple):
    """What an update of a batch returns.

    Attributes:
      step: to be subtracted, (*batch, *s) in the gradient's dtype.
      accumulators: the new moments.
      states: of the directions per tensor.
    """

    step: Array
    accumulators: Accumulators
    states: tuple[Any, ...]


def update_batch(
    rule: UpdateRule, weights: Weights, multiplier: Array | None, batch: Batch, seed: Array, finished: bool = True
) -> Results:
    """One step of a batch of tensors.

    Args:
      rule: the update rule.
      weights: meta-parameters of its directions.
      multiplier: the scheduler's step-size multiplier, a float32 scalar, or ``None`` for 1.
      batch: gradients, parameters and moments.
      seed: uint32 scalar for stochastic rounding, different for every step and batch.
      finished: whether the directions per tensor are added; `finish` adds them later.
    """
    if batch.stacked and reductions.on_one_cpu():
        # One program for a tensor, run for each, instead of one for the stack: it compiles to half as many kernels.
        arrays = batch._replace(stacked=None)  # type: ignore[arg-type]
        numbers = jnp.arange(batch.gradient.shape[0], dtype=jnp.uint32)

        def one(x: Any) -> Results:
            tensor, number = x
            return update_batch(rule, weights, multiplier, tensor._replace(stacked=0), seed + number, finished)

        like = Results(batch.gradient, batch.accumulators, batch.states)
        return reductions.one_by_one(one, (arrays, numbers), like)
    new = update_moments(rule.moments, batch, seed)
    factored = None if batch.axes is None else factored_statistics(batch, new)
    active = rule.applying(batch.gradient.shape[batch.stacked :]) if finished else []
    sums = sums_over_tensors(rule, batch, new, factored, active)
    folded = fold(rule, weights, multiplier, batch, factored, sums)
    step = apply_rule(rule, folded, operands(batch, new, factored), interface.kinds(batch))
    if not active:
        return Results(step, new, batch.states)
    means = sums[..., sums.shape[-1] - len(active) :] / jnp.expand_dims(
        jnp.asarray(batch.num_elements, jnp.float32), -1
    )
    return add_per_tensor(rule, weights, batch, Results(step, new, batch.states), folded.size, means)


def add_per_tensor(
    rule: UpdateRule, weights: Weights, batch: Batch, results: Results, size: Array, means: Array
) -> Results:
    """Adds the directions per tensor that apply.

    Args:
      rule: the update rule.
      weights: meta-parameters of its directions.
      batch: see `update_batch`.
      results: those without these directions.
      size: factor on the steps, float32 (*batch,).
      means: of the statistic of each direction that applies, float32 (*batch, directions).
    """
    states, total = list(batch.states), None
    for number, place in enumerate(rule.applying(batch.gradient.shape[batch.stacked :])):
        one, state = rule.per_tensor[place], states[place]
        added, states[place] = one.step(
            rule.moments, weights.per_tensor[place], batch, results.accumulators, means[..., number], state
        )
        total = added if total is None else total + added
    if total is None:
        return results
    step = results.step.astype(jnp.float32) + interface.expand(size, total.ndim) * total
    return results._replace(step=interface.cast_finite(step, results.step.dtype), states=tuple(states))


def finish(rule: UpdateRule, weights: Weights, multiplier: Array | None, batch: Batch, results: Results) -> Results:
    """Adds the directions per tensor to the results of another implementation without them."""
    active = rule.applying(batch.gradient.shape[batch.stacked :])
    if not active:
        return results
    new = results.accumulators
    x = Operands(batch.gradient, batch.parameter, new.momenta, new.second_moment, (), (), None, batch.mask)
    values = interface.full_size_values(rule.moments, x)
    mean = lambda y: jnp.mean(y, axis=batch.tensor_axes)
    means = jnp.stack([mean(rule.per_tensor[place].statistic(values)) for place in active], axis=-1)
    size = step_size(rule, multiplier, batch, mean(jnp.square(values.parameter)) if rule.relative else None)
    return add_per_tensor(rule, weights, batch, results, size, means)


def update_moments(moments: Moments, batch: Batch, seed: Array) -> Accumulators:
    """The new running moments, rounded to the dtype in which they are kept: features are computed from these."""
    new = full_size_moments(moments, batch.gradient, batch.accumulators, seed, batch.axes is None)
    return new if batch.axes is None else factored_moments(moments, batch, new, seed)


def full_size_moments(
    moments: Moments, gradient: Array, old: Accumulators, seed: Array, full: bool, store: Store = accumulators.store
) -> Accumulators:
    """The new moments that have the tensor's shape; elementwise, so that it may be applied to pieces.

    Args:
      moments: their decays.
      gradient: the raw gradient, any floating dtype.
      old: the moments; those that do not have the tensor's shape are returned as they are.
      seed: see `update_batch`.
      full: whether the row moments have the tensor's shape: for rank < 2.
      store: how a new moment is rounded.
    """
    gradient = interface.finite_gradient(gradient, moments.gradient_clip)
    squared = jnp.square(gradient)
    seeds = _seeds(seed)
    average = lambda kept, new, decay: store(accumulators.decay_average(kept, new, decay), kept.dtype, next(seeds))
    momenta = tuple(average(m, gradient, d) for m, d in zip(old.momenta, moments.momentum_decays, strict=True))
    second_moment = average(old.second_moment, squared, moments.second_moment_decay)
    rows = old.rows
    if full:
        decays = zip(rows, moments.factored_decays, strict=True)
        rows = tuple(average(row, squared + FACTORED_FLOOR, d) for row, d in decays)
    return Accumulators(momenta, second_moment, rows, old.columns)


def factored_moments(moments: Moments, batch: Batch, old: Accumulators, seed: Array) -> Accumulators:
    """New row and column moments of a batch of rank >= 2, in place of those of ``old``."""
    assert batch.axes is not None
    d1, d0 = batch.axes
    square = lambda g: jnp.square(interface.finite_gradient(g, moments.gradient_clip))
    # The barrier keeps these reductions apart from the elementwise moments, whose squares would be written to memory for them.
    row_mean, column_mean = reductions.means_over(
        square, jax.lax.optimization_barrier(batch.gradient), (d0, d1), batch.stacked
    )
    seeds = itertools.islice(_seeds(seed), len(old.momenta) + 1, None)

    def averages(kept: Sequence[Array], new: Array) -> tuple[Array, ...]:
        average = lambda k, d: accumulators.decay_average(k, new + FACTORED_FLOOR, d)
        return tuple(
            accumulators.store(average(k, d), k.dtype, next(seeds))
            for k, d in zip(kept, moments.factored_decays, strict=True)
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
    """The two factors of the preconditioner, and the moments that they are computed from."""
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


def statistics(rule: UpdateRule, x: Operands, kinds: Sequence[Kind], active: Sequence[int] = ()) -> list[Array]:
    """Arrays whose means are needed, in the tensor's shape and 0 in padding.

    Those of the elementwise directions, the squared parameter if steps are relative to it, and those of the directions per
    tensor with the indices ``active``.
    """
    values = interface.full_size_values(rule.moments, x)
    made = [y for one in rule.elementwise for y in one.statistics(rule.moments, values, kinds)]
    made += [jnp.square(values.parameter)] * rule.relative
    made += [rule.per_tensor[place].statistic(values) for place in active]
    return made if x.mask is None else [y * x.mask for y in made]


def num_statistics(rule: UpdateRule, kinds: Sequence[Kind]) -> int:
    """Number of `statistics` without the directions per tensor."""
    return sum(one.num_statistics(rule.moments, kinds) for one in rule.elementwise) + int(rule.relative)


def sums_over_tensors(
    rule: UpdateRule, batch: Batch, new: Accumulators, factored: Factored | None, active: Sequence[int]
) -> Array:
    """Pass 1: sums over each tensor of what `statistics` returns, float32 (*batch, statistics)."""
    kinds = interface.kinds(batch)
    function = lambda x: statistics(rule, x, kinds, active)
    outputs = num_statistics(rule, kinds) + len(active)
    if outputs == 0:
        return jnp.zeros((*batch.gradient.shape[: batch.stacked], 0), jnp.float32)
    return reductions.sums(function, operands(batch, new, factored), batch.gradient.shape, batch.stacked, outputs)


class FoldedRule(NamedTuple):
    """What pass 2 needs besides its operands.

    Attributes:
      size: float32 (*batch,), factor on the steps.
      directions: for each elementwise direction the result of its ``fold``.
    """

    size: Array
    directions: tuple[Folded, ...]


def fold(
    rule: UpdateRule,
    weights: Weights,
    multiplier: Array | None,
    batch: Batch,
    factored: Factored | None,
    sums: Array,
) -> FoldedRule:
    """Folds statistics into the directions' weights, and computes the step size, between the two passes.

    Args:
      rule: the update rule.
      weights: meta-parameters of its directions.
      multiplier: see `update_batch`.
      batch: see `update_batch`.
      factored: its row and column statistics.
      sums: those of pass 1.
    """
    kinds = interface.kinds(batch)
    means = sums / jnp.expand_dims(jnp.asarray(batch.num_elements, jnp.float32), -1)
    folded, first = [], 0
    for one, shared in zip(rule.elementwise, weights.elementwise, strict=True):
        count = one.num_statistics(rule.moments, kinds)
        control = batch.own.get(one.type)
        own = shared if control is None else one.mix(shared, control)
        is_own = control is not None and batch.stacked > 0
        folded.append(one.fold(rule.moments, own, is_own, means[..., first : first + count], factored, kinds))
        first += count
    size = step_size(rule, multiplier, batch, means[..., first] if rule.relative else None)
    # Without the barrier XLA's GPU back end would compute each scalar and each vector again for every parameter.
    size, kept = jax.lax.optimization_barrier((size, [(one.own, one.arrays) for one in folded]))
    return FoldedRule(
        size, tuple(Folded(one.shared, own, arrays) for one, (own, arrays) in zip(folded, kept, strict=True))
    )


def step_size(rule: UpdateRule, multiplier: Array | None, batch: Batch, parameter_square: Array | None) -> Array:
    """Factor on the steps, float32 (*batch,), from the mean square of the parameters if steps are relative to it."""
    if parameter_square is None:
        size = jnp.full(batch.gradient.shape[: batch.stacked], rule.step_scale, jnp.float32)
    else:
        if "scale_floor" in batch.own:
            parameter_square = parameter_square + jnp.square(batch.own["scale_floor"])
        size = features_lib.parameter_scale(parameter_square) * rule.step_scale
    for factor in (multiplier, batch.own.get("multiplier")):
        size = size if factor is None else size * factor
    return size


def apply_rule(rule: UpdateRule, folded: FoldedRule, x: Operands, kinds: Sequence[Kind]) -> Array:
    """Pass 2: the step, in the gradient's shape and dtype; elementwise, so that it may be applied to pieces.

    Args:
      rule: the update rule.
      folded: the result of `fold`.
      x: the operands.
      kinds: kinds of features that have the tensor's shape.
    """
    values = interface.full_size_values(rule.moments, x)
    step: Any = None
    for one, own in zip(rule.elementwise, folded.directions, strict=True):
        part = one.step(rule.moments, own, values, kinds)
        step = part if step is None else step + part
    if step is None:
        return jnp.zeros_like(x.gradient)
    step = step * interface.expand(folded.size, x.gradient.ndim)
    # A rule with row features only, say, gives a step of the shape of a row.
    return jnp.broadcast_to(interface.cast_finite(step, x.gradient.dtype), x.gradient.shape)
