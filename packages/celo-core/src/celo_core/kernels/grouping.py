"""Many tensors as few batches: leaves of one shape are stacked, short vectors of various lengths are padded and packed.

Compiling and launching cost per batch, not per leaf. Tensors that are large stay alone, since stacking would copy them.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from celo_core.kernels import reductions
from celo_core.kernels.interface import Accumulators, Batch, Leaf

Array = jax.Array

STACKED = 131_072
"""Leaves of at most so many elements are stacked with those of the same shape."""

PACKED = 4_096
"""Vectors of at most so many elements are packed with those of other lengths."""

BATCH = 524_288
"""Elements of a batch of several leaves at most, which bounds what the copies take."""


def plan(leaves: Sequence[Leaf]) -> list[list[int]]:
    """Which leaves make a batch together; every leaf is in one batch, in order of first appearance."""
    groups: dict[Any, list[list[int]]] = {}
    for index, leaf in enumerate(leaves):
        batches = groups.setdefault(_key(index, leaf), [[]])
        size = max(leaf.gradient.size, *(leaves[i].gradient.size for i in batches[-1]), 0)
        if batches[-1] and size * (len(batches[-1]) + 1) > BATCH:
            batches.append([])
        batches[-1].append(index)
    return [batch for batches in groups.values() for batch in batches]


def _key(index: int, leaf: Leaf) -> Any:
    """Leaves with equal keys can share a batch."""
    shape, size = leaf.gradient.shape, leaf.gradient.size
    if size > STACKED:
        return index
    # Under a mesh with explicit axes a leaf's type has a sharding, which a stack must share.
    types = tuple((x.dtype, getattr(jax.typeof(x), "sharding", None)) for x in jax.tree.leaves(leaf))
    if len(shape) < 2 and size <= PACKED and reductions.on_one_cpu():
        # Lengths within a factor of four, so that no more than three quarters of a batch are padding.
        dtypes = tuple(x.dtype for x in jax.tree.leaves(leaf))
        return ("packed", int(np.log2(max(size, 1))) // 2, dtypes)
    return (shape, types)


def stack(arrays: Sequence[Array]) -> Array:
    """Tensors that belong together as one array: a single one as it is, others stacked, shorter vectors padded with zeros.

    Scalars count as vectors of length one.
    """
    if len(arrays) == 1:
        return arrays[0].reshape(arrays[0].shape or (1,))
    length = max(x.size for x in arrays)
    return jnp.stack([x if x.ndim > 1 else jnp.pad(x.reshape(-1), (0, length - x.size)) for x in arrays])


def gather(leaves: Sequence[Leaf]) -> Batch:
    """The batch of some leaves that belong together."""
    arrays = [(leaf.gradient, leaf.parameter, leaf.accumulators) for leaf in leaves]
    gradient, parameter, accumulators = jax.tree.map(lambda *x: stack(x), *arrays)
    floor = jax.tree.map(lambda *x: jnp.stack(x) if len(x) > 1 else x[0], *[leaf.scale_floor for leaf in leaves])
    mask = None
    if len({leaf.gradient.size for leaf in leaves}) > 1:
        sizes = np.array([leaf.gradient.size for leaf in leaves])
        mask = jnp.asarray(np.arange(gradient.shape[-1]) < sizes[:, None], jnp.float32)
    return Batch(gradient, parameter, accumulators, mask, int(len(leaves) > 1), floor)


def scatter(leaves: Sequence[Leaf], step: Array, accumulators: Accumulators) -> list[tuple[Array, Accumulators]]:
    """Step and new moments of each leaf of a batch, in the leaves' own shapes: the inverse of `gather`."""

    def one(index: int, like: Array, x: Array) -> Array:
        x = x[index] if len(leaves) > 1 else x
        return x if x.shape == like.shape else x[: like.size].reshape(like.shape)

    return [
        jax.tree.map(lambda like, x, i=index: one(i, like, x), (leaf.gradient, leaf.accumulators), (step, accumulators))
        for index, leaf in enumerate(leaves)
    ]
