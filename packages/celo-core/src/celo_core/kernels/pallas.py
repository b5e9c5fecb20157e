"""The fused update as two Pallas kernels for GPUs, in place and without intermediate arrays of the parameters' size.

The same two passes as `celo_core.kernels.xla`, and the same mathematics: the kernels apply its elementwise functions to
tiles. Both compute the new moments from the old ones, so that those need not be written between the passes.

Memory traffic per parameter, everything in float32:

- row and column means of the squared gradient, by XLA, for rank >= 2: the gradient once or twice, 4 to 8 bytes;
- statistics: reads gradient, parameter, three momenta and second moment, 24 bytes; writes one row of sums per tile;
- update: reads the same 24 bytes, writes three momenta, second moment and step, 20 bytes.

Together 72 to 76 bytes. Vectors keep their three factored moments in full, which adds 24 to the reads and 12 to the writes.

Sums are written per tile and added up by XLA, without atomics: the same input gives the same bits. Under `jax.vmap` each
kernel gets one more axis of its grid. Derivatives are those of `celo_core.kernels.xla`, which then runs instead.

Pallas is lowered through Triton, which JAX deprecates from 0.11 on: where it is missing, `supports` says so. Importing this
module imports Pallas, which is slow: import it where it is used.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from celo_core import accumulators as accumulators_lib
from celo_core.kernels import interface, reductions, xla
from celo_core.kernels.interface import Accumulators, Batch, Operands, UpdateRule, Weights

try:
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton
except ImportError:  # pragma: no cover - a JAX without the Triton back end
    triton = None  # type: ignore[assignment]

Array = jax.Array

MINIMUM = 65_536
"""Elements below which XLA is at least as good: launching the kernels costs more than the traffic they save."""

STATISTICS_TILE = 256
"""Elements of a tile of the statistics kernel: 8 per thread, so that its reductions are a small part of the work."""

UPDATE_TILE = 128
"""Elements of a tile of the update kernel: 4 per thread. Eight spill registers where moments are kept in bfloat16."""

WIDTH = 128
"""Elements of a tile along the contiguous axis if the tile has two axes: 16 bytes of float32 for each thread of a warp."""

WARPS = 1
"""Warps of 32 threads per tile. One needs no shared memory and no barrier, neither to reduce nor to spread row factors."""

DTYPES = (jnp.float32, jnp.bfloat16, jnp.float16)
"""Supported dtypes of gradients, parameters and moments."""


def supports(batch: Batch) -> str | None:
    """The reason why a batch should be updated by XLA instead, in a sentence, or ``None`` if the kernels suit it.

    They do on one device, or inside a `jax.shard_map` over all axes of its mesh; elsewhere an array may be sharded, and a
    kernel would gather it. Whether there is a GPU is not checked.
    """
    if triton is None:
        return "this version of JAX has no Triton back end of Pallas."
    if batch.gradient.size < MINIMUM:
        return f"of fewer than {MINIMUM} elements, launching kernels costs more than they save."
    for x in jax.tree.leaves((batch.gradient, batch.parameter, batch.accumulators)):
        if x.dtype not in DTYPES:
            return f"the kernels are for arrays of {', '.join(jnp.dtype(d).name for d in DTYPES)}, not {x.dtype}."
    if not reductions.on_one_device():
        return "there are several devices and this is not inside a jax.shard_map over all axes of their mesh."
    return None


def update_batch(
    rule: UpdateRule,
    weights: Weights,
    multiplier: Array | None,
    batch: Batch,
    seed: Array,
    *,
    interpret: bool = False,
) -> xla.Results:
    """One step of a batch of tensors, without the directions per tensor; otherwise as `celo_core.kernels.xla.update_batch`.

    The moments are updated in place where their buffers are donated or not used again, and copied first elsewhere.

    Args:
      rule: the update rule.
      weights: meta-parameters of its directions.
      multiplier: the scheduler's step-size multiplier, a float32 scalar, or ``None`` for 1.
      batch: gradients, parameters and moments.
      seed: uint32 scalar for stochastic rounding, different for every step and batch. Bits are those of XLA's
        implementation where that takes a stack of tensors at once, as it does on GPUs.
      interpret: run the kernels as plain JAX, on any back end: slow, for tests.
    """
    arrays, stacked = batch._replace(stacked=None), batch.stacked  # type: ignore[arg-type]
    of = lambda update: lambda w, m, x, seed: update(rule, w, m, x._replace(stacked=stacked), seed)
    fused = jax.custom_jvp(of(functools.partial(_update_batch, interpret=interpret)))
    in_xla = functools.partial(xla.update_batch, finished=False)
    fused.defjvp(functools.partial(_jvp, of(in_xla)), symbolic_zeros=True)
    return fused(weights, multiplier, arrays, seed)


def _jvp(function: Callable[..., Any], primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    """`jax.jvp` with respect to the arguments that have a tangent only: not all of JAX can transpose zeros for the rest."""
    treedef: Any
    flat, treedef = jax.tree.flatten(primals)
    moving = {
        index: tangent
        for index, tangent in enumerate(jax.tree.leaves(tangents))
        if not isinstance(tangent, jax.custom_derivatives.SymbolicZero)
    }

    def of(values: list[Array]) -> Any:
        replaced = dict(zip(moving, values, strict=True))
        return function(*treedef.unflatten([replaced.get(index, x) for index, x in enumerate(flat)]))

    return jax.jvp(of, ([flat[index] for index in moving],), (list(moving.values()),))


def _update_batch(
    rule: UpdateRule, weights: Weights, multiplier: Array | None, batch: Batch, seed: Array, *, interpret: bool
) -> xla.Results:
    """`update_batch` itself."""
    old, factored = batch.accumulators, None
    if batch.axes is not None:
        old = xla.factored_moments(rule.moments, batch, old, seed)
        factored = xla.factored_statistics(batch, old)
    inputs = _inputs(batch, factored, seed)
    sums = _statistics(rule, batch, inputs, interpret)
    folded = xla.fold(rule, weights, multiplier, batch, factored, sums)
    step, new = _update(rule, folded, batch, inputs, interpret)
    step, new = jax.tree.map(lambda x: x.reshape(batch.gradient.shape), (step, new))
    new = new._replace(rows=new.rows if factored is None else old.rows, columns=old.columns)
    return xla.Results(step, new, batch.states)


class Inputs(NamedTuple):
    """Inputs of both kernels, as arrays of the six axes of `Tiling`, as references to tiles of them, or as tiles.

    Attributes:
      gradient, parameter: as they were passed.
      accumulators: old moments of the tensor's shape only.
      mask: see `Batch`.
      row_factors, column_factors: see `Operands`.
      seed: uint32 (1,).
    """

    gradient: Any
    parameter: Any
    accumulators: Accumulators
    mask: Any
    row_factors: Sequence[Any]
    column_factors: Sequence[Any]
    seed: Any


class Tiling(NamedTuple):
    """A batch as an array of six axes, cut into tiles along two of them.

    The axes are: batch; what precedes the two factored axes; the first of these; what is between them; the second; what
    follows. The reshape moves no data. A vector has the last axis only.

    Attributes:
      shape: lengths of the six axes.
      axes: the two along which a tile has elements, the last that is contiguous and one before it.
      tile: elements of a tile along the six axes, powers of two; 1 along all but ``axes``.
    """

    shape: tuple[int, ...]
    axes: tuple[int, int]
    tile: tuple[int, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """Tiles along the six axes."""
        return tuple(-(-length // tile) for length, tile in zip(self.shape, self.tile, strict=True))

    @property
    def grid(self) -> tuple[int, ...]:
        """Grid of the kernels: `counts` backwards, since the first axis of a grid varies fastest on a GPU."""
        return self.counts[::-1]

    def spec(self, shape: Sequence[int]) -> Any:
        """The block specification of an array of six axes: axes of length one are broadcast."""
        whole = [length == full for length, full in zip(shape, self.shape, strict=True)]
        block: list[Any] = [None] * 6
        for axis in self.axes:
            block[axis] = self.tile[axis] if whole[axis] else 1
        return pl.BlockSpec(
            tuple(block), lambda *ids: tuple(i if w else 0 for i, w in zip(ids[::-1], whole, strict=True))
        )

    def id(self, axis: int) -> Array:
        """Number of the kernel's tile along an axis, int32."""
        return pl.program_id(5 - axis)

    def inside(self, shape: Sequence[int]) -> Array | None:
        """Which elements of a tile of shape ``shape`` exist: bool, or ``None`` for all."""
        checks = []
        for place, axis in enumerate(self.axes):
            if shape[place] > 1 and self.shape[axis] % self.tile[axis]:
                index = self.id(axis) * self.tile[axis] + jax.lax.broadcasted_iota(jnp.int32, shape, place)
                checks.append(index < self.shape[axis])
        return functools.reduce(operator.and_, checks) if checks else None

    def places(self) -> Array:
        """Place in the whole array of each element of a tile, as `celo_core.accumulators.places`."""
        shape = tuple(self.tile[axis] for axis in self.axes)
        strides = [math.prod(self.shape[axis + 1 :]) for axis in range(6)]
        place = jnp.zeros(shape, jnp.uint32)
        for axis, stride in enumerate(strides):
            place = place + self.id(axis).astype(jnp.uint32) * np.uint32(self.tile[axis] * stride % 2**32)
        for axis, stride in zip(self.axes, [strides[axis] for axis in self.axes], strict=True):
            iota = jax.lax.broadcasted_iota(jnp.uint32, shape, self.axes.index(axis))
            place = place + iota * np.uint32(stride % 2**32)
        return place

    def load(self, tree: Any) -> Any:
        """Tiles from references to them; 0 past the end of the array, on which nothing that is summed or stored depends."""
        return jax.tree.map(lambda ref: _load(ref, self.inside(ref.shape)), tree)

    def store(self, tree: Any, tiles: Any) -> None:
        """Writes tiles, up to the end of the array."""
        jax.tree.map(lambda ref, x: triton.store(ref, x, mask=self.inside(ref.shape)), tree, tiles)


def _load(ref: Any, inside: Array | None) -> Array:
    """One tile."""
    if inside is None:
        return triton.load(ref)
    return triton.load(ref, mask=inside, other=jnp.zeros((), ref.dtype))


def _six(batch: Batch, shape: Sequence[int]) -> tuple[int, ...]:
    """Shape of an array that broadcasts against the batch's, by the six axes of `Tiling`."""
    own = shape[batch.stacked :]
    count = math.prod(shape[: batch.stacked])
    if batch.axes is None:
        return (count, 1, 1, 1, 1, math.prod(own))
    first, second = sorted(axis - batch.stacked for axis in batch.axes)
    groups = (own[:first], own[first : first + 1], own[first + 1 : second], own[second : second + 1], own[second + 1 :])
    return (count, *map(math.prod, groups))


def _tiling(batch: Batch, size: int) -> Tiling:
    """Tiles of about ``size`` elements, a power of two."""
    shape = _six(batch, batch.gradient.shape)
    major, minor = axes = (2, 4) if shape[5] == 1 else (4, 5)
    width = min(_power_of_two(shape[minor]), WIDTH, size)
    height = min(_power_of_two(shape[major]), size // width)
    tile = [1] * 6
    tile[major], tile[minor] = height, min(_power_of_two(shape[minor]), size // height)
    return Tiling(shape, axes, tuple(tile))


def _power_of_two(x: int) -> int:
    """The smallest power of two that is at least ``x``."""
    return 1 << (x - 1).bit_length()


def _inputs(batch: Batch, factored: xla.Factored | None, seed: Array) -> Inputs:
    """The kernels' inputs, of six axes each."""
    six = lambda tree: jax.tree.map(lambda x: x.reshape(_six(batch, x.shape)), tree)
    old = batch.accumulators
    row_factors, column_factors = ([], []) if factored is None else (factored.row_factors, factored.column_factors)
    return Inputs(
        gradient=six(batch.gradient),
        parameter=six(batch.parameter),
        accumulators=six(Accumulators(old.momenta, old.second_moment, old.rows if factored is None else (), ())),
        mask=six(batch.mask),
        row_factors=six(row_factors),
        column_factors=six(column_factors),
        seed=seed.reshape(1),
    )


def _specs(tiling: Tiling, inputs: Inputs) -> Inputs:
    """Specifications of the inputs' tiles."""
    specs = jax.tree.map(lambda x: tiling.spec(x.shape), inputs._replace(seed=None))
    return specs._replace(seed=pl.BlockSpec((1,), lambda *_: (0,)))


def _new(rule: UpdateRule, tiling: Tiling, refs: Inputs) -> tuple[Accumulators, Operands]:
    """In a kernel: the new moments of a tile, rounded, and what its features are computed from."""
    x: Inputs = tiling.load(refs._replace(seed=None))
    full = len(x.accumulators.rows) > 0
    store = functools.partial(accumulators_lib.store, place=tiling.places)
    new = xla.full_size_moments(rule.moments, x.gradient, x.accumulators, refs.seed[0], full, store)
    mask = x.mask
    if mask is None and (inside := tiling.inside(x.gradient.shape)) is not None:
        mask = inside.astype(jnp.float32)
    rows = new.rows if full else None
    return new, Operands(
        x.gradient, x.parameter, new.momenta, new.second_moment, x.row_factors, x.column_factors, rows, mask
    )


def _statistics(rule: UpdateRule, batch: Batch, inputs: Inputs, interpret: bool) -> Array:
    """Pass 1: sums over each tensor of what `celo_core.kernels.xla.statistics` returns, float32 (*batch, statistics)."""
    tiling, kinds = _tiling(batch, STATISTICS_TILE), interface.kinds(batch)
    outputs = xla.num_statistics(rule, kinds)
    if outputs == 0:
        return jnp.zeros((*batch.gradient.shape[: batch.stacked], 0), jnp.float32)

    def celo_statistics(refs: Inputs, sums: Any) -> None:
        _, x = _new(rule, tiling, refs)
        made = xla.statistics(rule, x, kinds)
        if rule.relative:
            # On the GPU the bounds of `finite_parameter` remove a NaN, which must be kept to show in the step.
            made[-1] = jnp.where(x.parameter != x.parameter, x.parameter.astype(jnp.float32), made[-1])
        for index, y in enumerate(made):
            sums[index] = jnp.sum(jnp.sum(y, axis=0))  # the axis within a thread first

    sums = _call(
        celo_statistics,
        (inputs,),
        (_specs(tiling, inputs),),
        jax.ShapeDtypeStruct((*tiling.counts, outputs), jnp.float32),
        pl.BlockSpec((None,) * 6 + (outputs,), lambda *ids: (*ids[::-1], 0)),
        tiling.grid,
        interpret=interpret,
    )
    totals = jnp.sum(sums, axis=(1, 2, 3, 4, 5))
    return totals if batch.stacked else totals[0]


def _update(
    rule: UpdateRule, folded: xla.FoldedRule, batch: Batch, inputs: Inputs, interpret: bool
) -> tuple[Array, Accumulators]:
    """Pass 2: step and new moments of the tensor's shape, as arrays of six axes."""
    tiling, kinds = _tiling(batch, UPDATE_TILE), interface.kinds(batch)
    # All get an axis for the batch, of length one where all tensors share the values, and at least one more axis.
    with_axis = lambda tree: jax.tree.map(lambda x: x[None], tree)
    own = (folded.size[..., None], [one.own for one in folded.directions])
    scalars = (own if batch.stacked else with_axis(own), with_axis([one.shared for one in folded.directions]))
    arrays_of = [jax.tree.map(lambda x: x.reshape(_six(batch, x.shape)), one.arrays) for one in folded.directions]

    def spec_per_tensor(x: Array) -> Any:
        index = lambda *ids: (ids[5] if x.shape[0] > 1 else 0, *(0,) * (x.ndim - 1))
        return pl.BlockSpec((None, *x.shape[1:]), index)

    def celo_update(refs: Inputs, scalars: Any, arrays_of: Any, step: Any, moments: Any) -> None:
        (size, own), shared = scalars
        new, x = _new(rule, tiling, refs)
        parts = zip(shared, own, tiling.load(arrays_of), strict=True)
        here = xla.FoldedRule(size[0], tuple(interface.Folded(*part) for part in parts))
        tiling.store((step, moments), (xla.apply_rule(rule, here, x, kinds), new))

    arrays = (inputs, scalars, arrays_of)
    specs = (
        _specs(tiling, inputs),
        jax.tree.map(spec_per_tensor, scalars),
        jax.tree.map(lambda x: tiling.spec(x.shape), arrays_of),
    )
    outputs = (inputs.gradient, inputs.accumulators)
    # Gradient and parameter come before the moments in the inputs, the step before them in the outputs.
    aliases = {2 + index: 1 + index for index in range(len(jax.tree.leaves(inputs.accumulators)))}
    return _call(
        celo_update,
        arrays,
        specs,
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), outputs),
        jax.tree.map(lambda x: tiling.spec(x.shape), outputs),
        tiling.grid,
        aliases=aliases,
        interpret=interpret,
    )


def _call(
    kernel: Callable[..., None],
    arrays: tuple[Any, ...],
    in_specs: Any,
    out_shape: Any,
    out_specs: Any,
    grid: tuple[int, ...],
    *,
    aliases: dict[int, int] | None = None,
    interpret: bool,
) -> Any:
    """One kernel over a grid; the only place that depends on the version of JAX."""
    if reductions.is_manual():
        # A scalar that depends on every input varies over the same axes of the mesh as they do, by its type.
        leaves = jax.tree.leaves(arrays)
        kind = jax.typeof(sum(x[(0,) * x.ndim].astype(jnp.float32) for x in leaves))
        name = "manual_axis_type" if hasattr(kind, "manual_axis_type") else "vma"
        out_shape = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, **{name: getattr(kind, name)}), out_shape
        )
    return pl.pallas_call(
        kernel,
        out_shape=out_shape,
        grid=grid,
        in_specs=in_specs,
        out_specs=out_specs,
        input_output_aliases=aliases or {},
        interpret=interpret,
        name=kernel.__name__,
        compiler_params=triton.CompilerParams(num_warps=WARPS, num_stages=1),
    )(*arrays)
