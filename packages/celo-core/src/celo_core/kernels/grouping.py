"""Many tensors as few batches: tensors of one shape are stacked, short vectors of various lengths are padded and packed.

Compiling and launching then cost per batch, not per tensor. Large tensors are not stacked, since that would copy them.

On several devices under automatic axes, where shardings are unknown in a trace, every leaf is a batch of its own: stacked leaves
are sharded alike, and a replicated leaf would get the sharding of another one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from celo_core.kernels import reductions
from celo_core.kernels.interface import Accumulators, Batch, Leaf

Array = jax.Array

STACKED = 131_072
"""Tensors of at most this many elements are stacked with those of the same shape."""

PACKED = 4_096
"""Vectors of at most this many elements are packed with those of other lengths."""

MERGED = 4_096
"""Batches of vectors of very different lengths are merged up to this many elements, padding included."""

BATCH = 524_288
"""Maximum number of elements in a batch of several leaves, which bounds the memory of the copies."""


def plan(leaves: Sequence[Leaf]) -> list[list[int]]:
    """Indices of the leaves of each batch; every leaf is in one batch, in order of first appearance."""
    groups: dict[Any, list[int]] = {}
    for index, leaf in enumerate(leaves):
        groups.setdefault(_key(index, leaf), []).append(index)
    return _merged({key: _split(leaves, group) for key, group in groups.items()}, leaves)


def _split(leaves: Sequence[Leaf], group: Sequence[int]) -> list[list[int]]:
    """A group as batches of at most some `BATCH` elements, of equally many leaves if possible, since these share a program."""
    size = max(leaves[index].size for index in group)
    count = sum(leaves[index].count for index in group)
    batches = max(1, -(-size * count // BATCH))
    batches = next((n for n in range(batches, min(2 * batches, len(group)) + 1) if len(group) % n == 0), batches)
    length = -(-len(group) // batches)
    return [list(group[first : first + length]) for first in range(0, len(group), length)]


def _merged(groups: Mapping[Any, list[list[int]]], leaves: Sequence[Leaf]) -> list[list[int]]:
    """All batches; those of short vectors are merged while they are small, so that fewer programs are compiled."""
    merged: list[list[int]] = []
    last: dict[Any, list[int]] = {}
    for key, batches in groups.items():
        for batch in batches:
            if isinstance(key, tuple) and key[0] == "packed":
                together = [*last.get(key[-1], []), *batch]
                members = [leaves[index] for index in together]
                if max(leaf.size for leaf in members) * sum(leaf.count for leaf in members) <= MERGED:
                    if key[-1] in last:
                        last[key[-1]].extend(batch)
                        continue
                last[key[-1]] = batch
            merged.append(batch)
    return merged


def may_stack(leaf: Leaf) -> bool:
    """Whether a leaf may be stacked with others: it is not split over devices, or its sharding is known."""
    return leaf.sharding is not None or reductions.on_one_device()


def _key(index: int, leaf: Leaf) -> Any:
    """Leaves with equal keys can share a batch."""
    if leaf.size > STACKED or not may_stack(leaf):
        return index
    dtypes = tuple(x.dtype for x in jax.tree.leaves((leaf.gradient, leaf.parameter, leaf.accumulators, leaf.states)))
    if len(leaf.shape) < 2 and leaf.size <= PACKED and reductions.on_one_cpu():
        # Lengths within a factor of four, so that no more than three quarters of a batch are padding.
        return ("packed", int(np.log2(max(leaf.size, 1))) // 2, dtypes)
    return (leaf.shape, dtypes, leaf.sharding)


def is_stacked(leaves: Sequence[Leaf]) -> bool:
    """Whether the batch of some leaves has a batch axis."""
    return len(leaves) > 1 or leaves[0].stack is not None


def gather(leaves: Sequence[Leaf]) -> Batch:
    """The batch of some leaves that belong together.

    Scalars count as vectors of length one, and shorter vectors are padded with zeros.
    """
    arrays = [(leaf.gradient, leaf.parameter, leaf.accumulators, leaf.states) for leaf in leaves]
    if not is_stacked(leaves):
        alone = lambda x: x.reshape(x.shape or (1,))
        gradient, parameter, accumulators, states = jax.tree.map(alone, arrays[0])
        return Batch(gradient, parameter, accumulators, None, 0, states, dict(leaves[0].own))
    length = max(leaf.size for leaf in leaves)

    def tensors(leaf: Leaf, x: Array) -> Array:
        """An array of a leaf with a batch axis."""
        own = x.shape if leaf.stack is None else x.shape[len(leaf.stack) :]
        x = x.reshape(leaf.count, *(own or (1,)))
        short = length - x.shape[1] if len(leaf.shape) < 2 else 0
        return jnp.pad(x, ((0, 0), (0, short))) if short else x

    def together(*arrays: Array) -> Array:
        parts = [tensors(leaf, x) for leaf, x in zip(leaves, arrays, strict=True)]
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts)

    gradient, parameter, accumulators, states = jax.tree.map(together, *arrays)

    def by_tensor(leaf: Leaf) -> Any:
        """Per-tensor values of a leaf, along one axis."""
        return jax.tree.map(lambda x: x.reshape(leaf.count, *x.shape[len(leaf.stack or ()) :]), dict(leaf.own))

    own = jax.tree.map(lambda *parts: jnp.concatenate(parts), *map(by_tensor, leaves))
    mask = None
    if len({leaf.size for leaf in leaves}) > 1:
        sizes = np.repeat([leaf.size for leaf in leaves], [leaf.count for leaf in leaves])
        mask = jnp.asarray(np.arange(gradient.shape[-1]) < sizes[:, None], jnp.float32)
    return Batch(gradient, parameter, accumulators, mask, 1, states, own)


def scatter(
    leaves: Sequence[Leaf], results: tuple[Array, Accumulators, tuple[Any, ...]], places: Sequence[Array] | None = None
) -> list[tuple[Array, Accumulators, tuple[Any, ...]]]:
    """Step, new moments and states of each leaf of a batch, in the leaves' own shapes: the inverse of `gather`.

    Args:
      leaves: of the batch.
      results: step, new moments and states of the batch.
      places: what `celo_core.kernels.reductions.indices` returns, for at least as many tensors, or ``None``.
    """
    counts = [leaf.count for leaf in leaves]
    firsts = [sum(counts[:index]) for index in range(len(leaves))]

    def one(leaf: Leaf, first: int, like: Array, x: Array) -> Array:
        if is_stacked(leaves):
            if places is None:
                x = jax.lax.slice_in_dim(x, first, first + leaf.count)
            else:
                x = jax.lax.dynamic_slice_in_dim(x, places[first], leaf.count)
        per_tensor = like.size // leaf.count
        if len(leaf.shape) < 2 and x.shape[-1] != per_tensor:
            x = x[..., :per_tensor]
        return x if x.shape == like.shape else x.reshape(like.shape)

    return [
        jax.tree.map(
            lambda like, x, leaf=leaf, first=first: one(leaf, first, like, x),
            (leaf.gradient, leaf.accumulators, leaf.states),
            tuple(results),
        )
        for leaf, first in zip(leaves, firsts, strict=True)
    ]
