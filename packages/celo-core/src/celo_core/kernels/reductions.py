"""Sums over whole tensors of elementwise functions of them.

The statistics pass needs some twenty of them. On the GPU and for sharded arrays XLA's own reductions are fast. On one
CPU device they are not: a reduction to a scalar is a chain of dependent scalar additions, or a library call that needs its
operands in memory. Two forms of the same sum are fast there, measured in docs/performance.md:

- small tensors are cut along their first axis into up to eight parts that are added elementwise, which XLA fuses with
  what computes them and vectorises;
- large tensors are processed in blocks that stay in the cache, so that nothing of the tensor's size is ever written.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Function = Callable[..., Sequence[Array]]

PARTS = 8
"""Slices of a small tensor that are added elementwise before a reduction."""

BLOCK = 16_384
"""Elements of a block: 64 kB of each float32 array, so that some ten of them fit a core's second-level cache."""

SMALL = 512
"""Tensors of fewer elements are summed directly: cutting them is no faster."""

LARGE = 2 * BLOCK
"""Tensors of more elements are processed in blocks."""


def is_manual() -> bool:
    """Whether this is traced inside a `jax.shard_map` over all axes of its mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and all(kind == jax.sharding.AxisType.Manual for kind in mesh.axis_types)


def zeros_beside(arrays: Any, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    """Zeros whose type, inside a `jax.shard_map`, varies over the axes that any of ``arrays`` varies over.

    The initial carry of a loop must have the type of the carry that the loop returns.
    """
    zeros = jnp.zeros(shape, dtype)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or jax.sharding.AxisType.Manual not in mesh.axis_types:
        return zeros
    never = np.zeros((), np.bool_)
    for x in jax.tree.leaves(arrays):
        zeros = jnp.where(never, x[(0,) * x.ndim].astype(dtype), zeros)
    return zeros


def on_one_device() -> bool:
    """Whether arrays are not split over devices: there is only one, or each works on its own part (`is_manual`)."""
    return jax.device_count() == 1 or is_manual()


def on_one_cpu() -> bool:
    """Whether arrays are not split over devices, and on a CPU."""
    return jax.default_backend() == "cpu" and on_one_device()


def sums(function: Function, arrays: Any, shape: Sequence[int], stacked: int, outputs: int) -> Array:
    """Sums over each tensor of a batch.

    Args:
      function: maps the tree ``arrays`` to arrays of ``shape``; elementwise, so that it may be applied to slices.
      arrays: tree of arrays that broadcast against ``shape`` and have as many axes.
      shape: (*batch, *s).
      stacked: 1 if there is a batch axis, else 0.
      outputs: how many arrays ``function`` returns; they are float32.

    Returns:
      Float32 (*batch, outputs).
    """
    size = math.prod(shape[stacked:])
    if stacked or size < SMALL or not on_one_cpu():
        return _together([jnp.sum(x, axis=tuple(range(stacked, x.ndim))) for x in function(arrays)])
    if size > LARGE:
        return _blocked(function, arrays, shape, outputs)
    axis = next((axis for axis, length in enumerate(shape) if length > 1), 0)
    # Parts of the few rows of a convolution's kernel would be written to memory.
    in_parts = _sum_in_parts if shape[axis] >= PARTS else lambda x, axis: jnp.sum(x)
    return _together([in_parts(x, axis) for x in function(arrays)])


def _together(sums: Sequence[Array]) -> Array:
    """Sums stacked along a last axis; behind a barrier, since XLA would fuse the stacking with their computation."""
    return jnp.stack(jax.lax.optimization_barrier(list(sums)), axis=-1)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _sum_in_parts(x: Array, axis: int) -> Array:
    """Sum of an array, ``axis`` cut into parts; under vmap a plain sum, since many small arrays make a large one."""
    total = jax.custom_batching.custom_vmap(lambda x: jnp.sum(_in_parts(x, axis)))

    @total.def_vmap
    def plain(size: int, batched: Sequence[bool], x: Array) -> tuple[Array, bool]:
        del size, batched
        return jnp.sum(x, axis=tuple(range(1, x.ndim))), True

    return total(x)


@_sum_in_parts.defjvp
def _sum_in_parts_jvp(axis: int, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return _sum_in_parts(*primals, axis), jnp.sum(*tangents)


def _in_parts(x: Array, axis: int) -> Array:
    """An array with the same sum: ``axis`` is cut into parts that are added, and the sum of the rest is appended."""
    length = x.shape[axis]
    parts = min(PARTS, length)
    whole = length // parts * parts
    folded = _fold(jax.lax.slice_in_dim(x, 0, whole, axis=axis), axis, parts)
    if whole == length:
        return folded
    rest = jnp.sum(jax.lax.slice_in_dim(x, whole, length, axis=axis), axis=axis, keepdims=True)
    return jnp.concatenate([folded, rest], axis=axis)


def one_by_one(function: Callable[[Any], Any], arrays: Any, results: Any) -> Any:
    """Applies ``function`` to each of some stacked tensors, one after the other, in one loop.

    Args:
      function: maps a tree like ``arrays`` without the first axis to one like ``results`` without it.
      arrays: tree of arrays stacked along the first axis.
      results: tree of the results' shapes and dtypes.

    Returns:
      The results, stacked.
    """

    def put(i: Any, arrays: Any, kept: Any) -> Any:
        new = function(jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), arrays))
        return jax.tree.map(lambda old, x: jax.lax.dynamic_update_index_in_dim(old, x, i, 0), kept, new)

    count = jax.tree.leaves(results)[0].shape[0]
    return _loop(count, put, arrays, jax.tree.map(lambda x: zeros_beside(arrays, x.shape, x.dtype), results))


def indices(count: int) -> list[Array]:
    """The numbers from 0 to ``count - 1``, each a uint32 scalar that XLA does not treat as a constant.

    Slices at constant places compile to a kernel each; slices of one shape at these places share one kernel.
    """
    # A loop that changes them twice, whose results XLA cannot infer. It would turn counters into one number plus constants.
    numbers = [jnp.asarray(number, jnp.uint32) for number in range(count)]
    return jax.lax.fori_loop(np.int32(0), np.int32(2), lambda _, old: [n ^ np.uint32(1) for n in old], numbers)


def _loop(count: int, body: Callable[[Any, Any, Any], Any], arrays: Any, carry: Any) -> Any:
    """``carry = body(i, arrays, carry)`` for ``i`` from 0 to ``count - 1``.

    16-bit floats among ``arrays`` are carried through the loop as if it changed them. Otherwise XLA's CPU back end would
    convert whole arrays to float32 before the loop.
    """
    treedef: Any
    leaves, treedef = jax.tree.flatten(arrays)
    is_low = [x.dtype.itemsize == 2 for x in leaves]

    def step(i: Any, state: Any) -> Any:
        low, carry = state
        of = iter(low)
        current = [next(of) if low_one else x for x, low_one in zip(leaves, is_low, strict=True)]
        carry = body(i, treedef.unflatten(current), carry)
        return list(jax.lax.optimization_barrier(low)), carry

    low = [x for x, low_one in zip(leaves, is_low, strict=True) if low_one]
    return jax.lax.fori_loop(np.int32(0), np.int32(count), step, (low, carry))[1]


def _fold(x: Array, axis: int, parts: int) -> Array:
    """Cuts ``axis`` into equal ``parts`` and adds them as a tree: less rounding than in a chain, and no sequential dependence."""
    size = x.shape[axis] // parts
    total = [jax.lax.slice_in_dim(x, i * size, (i + 1) * size, axis=axis) for i in range(parts)]
    while len(total) > 1:
        pairs = [a + b for a, b in zip(total[::2], total[1::2], strict=False)]
        total = pairs + total[2 * len(pairs) :]
    return total[0]


class _Blocks:
    """The blocks of an array: whole along the last axes, ``size`` places of axis ``axis``, one place of those before it.

    A block has at most some `BLOCK` elements, and at least half as many where there is a size of which the axis is a multiple.
    Otherwise the remainder along ``axis`` makes blocks of length ``rest``, for which the program is compiled once more.

    Args:
      shape: of the array.
      whole: the elements within one place of an axis are not cut if there are at most this many.
    """

    def __init__(self, shape: Sequence[int], whole: int):
        self.shape = tuple(shape)
        within = lambda axis: math.prod(self.shape[axis + 1 :])
        self.axis = next(axis for axis in range(len(shape)) if within(axis) <= whole)
        length = self.shape[self.axis]
        size = min(max(1, BLOCK // max(1, within(self.axis))), length)
        self.size = next((s for s in range(size, size // 2, -1) if length % s == 0), size)
        self.count, self.rest = divmod(length, self.size)

    def over(self, step: Callable[[Any, int, Any, Any], Any], arrays: Any, carry: Any) -> Any:
        """Loops ``carry = step(arrays, size, place, carry)`` over all blocks.

        ``place(x)`` is the block's start and its sizes in an array that broadcasts against this shape, and ``arrays`` a tree
        of such blocks.
        """
        leading = self.shape[: self.axis]

        def loop(count: int, size: int, first: int, carry: Any) -> Any:
            def body(i: Any, arrays: Any, carry: Any) -> Any:
                at = [*jnp.unravel_index(i // count, leading)] if leading else []
                starts = [*at, i % count * size + first] + [0] * (len(self.shape) - self.axis - 1)
                sizes = [1] * self.axis + [size, *self.shape[self.axis + 1 :]]

                def place(x: Array) -> tuple[list[Any], list[int]]:
                    wide = [length > 1 for length in x.shape]
                    return (
                        [start if w else 0 for start, w in zip(starts, wide, strict=True)],
                        [size if w else 1 for size, w in zip(sizes, wide, strict=True)],
                    )

                return step(jax.tree.map(lambda x: jax.lax.dynamic_slice(x, *place(x)), arrays), size, place, carry)

            return _loop(count * math.prod(leading), body, arrays, carry) if count and size else carry

        carry = loop(self.count, self.size, 0, carry)
        return loop(1, self.rest, self.count * self.size, carry)


def _blocked(function: Function, arrays: Any, shape: Sequence[int], outputs: int) -> Array:
    """Sums over one tensor, block by block."""

    def add(block: Any, size: int, place: Any, totals: Array) -> Array:
        del size, place
        return totals + _together([jnp.sum(x) for x in function(block)])

    return _Blocks(shape, BLOCK).over(add, arrays, zeros_beside(arrays, (outputs,)))


def means_over(function: Callable[[Array], Array], x: Array, axes: Sequence[int], stacked: int) -> list[Array]:
    """Means of ``function(x)``, which is elementwise, over each of some axes.

    Args:
      function: what the means are of, e.g. the square.
      x: (*batch, *s).
      axes: axes of ``x``; one mean for each.
      stacked: 1 if there is a batch axis, else 0.

    Returns:
      Per axis an array of x's shape without it.
    """
    if stacked or x.size <= LARGE or not on_one_cpu():
        return [jnp.mean(function(x), axis=axis) for axis in axes]

    def add(block: Array, size: int, place: Callable[[Array], Any], totals: list[Array]) -> list[Array]:
        del size
        values = function(block)
        sums = [jnp.sum(values, axis=axis, keepdims=True) for axis in axes]
        old = [jax.lax.dynamic_slice(total, *place(total)) for total in totals]
        return [
            jax.lax.dynamic_update_slice(total, a + b, place(total)[0])
            for total, a, b in zip(totals, old, sums, strict=True)
        ]

    zeros = [zeros_beside(x, (*x.shape[:axis], 1, *x.shape[axis + 1 :])) for axis in axes]
    totals = _Blocks(x.shape, 8 * BLOCK).over(add, x, zeros)
    return [jnp.squeeze(total, axis) / x.shape[axis] for total, axis in zip(totals, axes, strict=True)]
