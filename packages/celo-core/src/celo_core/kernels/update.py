"""The fused update of whole trees: leaves are grouped into batches, and each batch goes to an implementation."""

import functools
import math
import warnings
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from celo_core.kernels import grouping, reductions, xla
from celo_core.kernels.interface import Accumulators, Batch, Leaf, UpdateRule, Weights

Array = jax.Array

FEW = 8
"""Up to this many leaves are sliced out of batches at constant places."""

IMPLEMENTATIONS = ("auto", "xla", "pallas")
"""``auto`` chooses the Pallas kernels on a CUDA GPU for tensors large enough, and XLA otherwise."""


def update_tree(
    rule: UpdateRule,
    weights: Weights,
    multiplier: Array | None,
    gradients: Any,
    params: Any,
    accumulators: Accumulators,
    count: Array,
    implementation: str = "auto",
    *,
    states: Sequence[Any] = (),
    own: Mapping[str, Any] = MappingProxyType({}),
    stacks: Sequence[tuple[int, ...] | None] | None = None,
    shardings: Sequence[Any] | None = None,
) -> tuple[Any, Accumulators, tuple[Any, ...]]:
    """One step of every tensor of a tree.

    Args:
      rule: the update rule.
      weights: meta-parameters of its directions.
      multiplier: the scheduler's multiplier, a float32 scalar, or ``None`` for 1.
      gradients: tree of gradients like ``params``. A leaf whose gradient is ``None`` gets no step and keeps its moments; so
        does a leaf without elements.
      params: tree of parameters.
      accumulators: as `Accumulators`, with a tree like ``params`` in place of each array.
      count: steps taken, int32 ().
      implementation: one of `IMPLEMENTATIONS`; see `celo_core.scale_by_celo`.
      states: for each direction per tensor a tree like ``params`` with a tree of arrays like the parameter, or ``None``, in
        place of each parameter.
      own: as in `celo_core.kernels.Batch`, of all tensors in order, with those of a stack one by one: float32 (tensors, ...).
      stacks: for each leaf, see `Leaf`; by default there is none.
      shardings: for each leaf, see `Leaf`; by default none is known.

    Returns:
      The tree of steps, each in its gradient's dtype, the new accumulators, as trees, and the new states.
    """
    treedef: Any
    flat_params, treedef = jax.tree.flatten(params)
    flat = treedef.flatten_up_to(gradients)
    trees = [*accumulators.momenta, accumulators.second_moment, *accumulators.rows, *accumulators.columns]
    columns = [treedef.flatten_up_to(tree) for tree in trees]
    by_leaf = [[column[i] for column in columns] for i in range(len(flat))]
    states_by_leaf = list(zip(*(treedef.flatten_up_to(tree) for tree in states), strict=True)) or [()] * len(flat)
    stacks = [None] * len(flat) if stacks is None else stacks
    shardings = [None] * len(flat) if shardings is None else shardings
    tensors = sum(math.prod(stack or ()) for stack in stacks)
    places = reductions.indices(tensors) if len(flat) > FEW and reductions.on_one_cpu() else None
    leaves = [
        Leaf(g, p, _joined(parts, accumulators), state, mine, stack, sharding)
        for g, p, parts, state, mine, stack, sharding in zip(
            flat, flat_params, by_leaf, states_by_leaf, own_of(own, stacks, places), stacks, shardings, strict=True
        )
    ]
    results: list[Any] = [(leaf.gradient, leaf.accumulators, leaf.states) for leaf in leaves]
    moving = [i for i, leaf in enumerate(leaves) if leaf.gradient is not None and leaf.gradient.size > 0]
    for number, batch in enumerate(grouping.plan([leaves[i] for i in moving])):
        indices = [moving[place] for place in batch]
        members = [leaves[i] for i in indices]
        arrays = (weights, multiplier, grouping.gather(members), step_seed(count, number))
        made = _update_batch(rule, *arrays, implementation)
        for index, result in zip(indices, grouping.scatter(members, made, places), strict=True):
            results[index] = result
    steps = treedef.unflatten([step for step, _, _ in results])
    parts = [[*new.momenta, new.second_moment, *new.rows, *new.columns] for _, new, _ in results]
    new_trees = [treedef.unflatten([part[k] for part in parts]) for k in range(len(trees))]
    new_states = tuple(treedef.unflatten([kept[k] for *_, kept in results]) for k in range(len(states)))
    return steps, _joined(new_trees, accumulators), new_states


def own_of(
    own: Mapping[str, Any], stacks: Sequence[tuple[int, ...] | None], places: Sequence[Array] | None = None
) -> list[dict[str, Any]]:
    """The values of each leaf, (*stack, ...), from those of all tensors, (tensors, ...).

    With ``places``, see `celo_core.kernels.reductions.indices`, they are sliced out there.
    """
    parts: list[dict[str, Any]] = []
    first = 0
    for stack in stacks:
        count = math.prod(stack or ())

        def cut(x: Array, first: int = first, count: int = count, stack: tuple[int, ...] = stack or ()) -> Array:
            if places is None or count == 0:
                part = x[first : first + count]
            else:
                part = jax.lax.dynamic_slice_in_dim(x, places[first], count)
            return part.reshape(*stack, *x.shape[1:])

        parts.append(jax.tree.map(cut, dict(own)))
        first += count
    return parts


def step_seed(count: Array, number: int) -> Array:
    """Seed of the stochastic rounding of one batch in one step, uint32 ().

    Args:
      count: steps taken, int32 ().
      number: which batch.
    """
    return (count.astype(jnp.uint32) * np.uint32(0xC2B2AE35)) ^ np.uint32(number * 0x27D4EB2F % 2**32)


def _update_batch(
    rule: UpdateRule, weights: Weights, multiplier: Array | None, batch: Batch, seed: Array, implementation: str
) -> xla.Results:
    """Updates one batch by the chosen implementation, or by XLA where that is not possible."""
    stacked = batch.stacked
    arrays = batch._replace(stacked=None)  # type: ignore[arg-type]

    def on_xla() -> xla.Results:
        static = (rule, stacked, reductions.on_one_cpu(), reductions.on_one_device())
        return _on_xla(static, weights, multiplier, arrays, seed)

    if implementation == "xla" or (implementation == "auto" and jax.default_backend() == "cpu"):
        return on_xla()
    # Imported when it is used: Pallas takes longer to import than all of Celo.
    from celo_core.kernels import pallas

    if reason := pallas.supports(batch):
        if implementation == "pallas":
            warnings.warn(
                f"celo: XLA instead of Pallas for a tensor of shape {batch.gradient.shape}: {reason}", stacklevel=2
            )
        return on_xla()
    if jax.default_backend() == "cpu":
        warnings.warn(
            "celo: XLA instead of Pallas, since the default back end is the CPU and the kernels are for GPUs: "
            "leave implementation at 'auto' for the best one on each machine.",
            stacklevel=2,
        )
        return on_xla()
    # Chosen when the program is lowered, since arrays may be on a CPU despite a GPU. Static values are not operands.
    of = lambda update: lambda w, m, x, seed: update(rule, w, m, x._replace(stacked=stacked), seed)
    made = jax.lax.platform_dependent(
        weights,
        multiplier,
        arrays,
        seed,
        cuda=of(pallas.update_batch),
        default=of(functools.partial(xla.update_batch, finished=False)),
    )
    return xla.finish(rule, weights, multiplier, batch, made)


@functools.partial(jax.jit, static_argnums=0)
def _on_xla(
    static: tuple[Any, ...], weights: Weights, multiplier: Array | None, arrays: Any, seed: Array
) -> xla.Results:
    """Updates one batch by XLA, inlined when it is compiled, but traced once for all batches of the same shapes.

    Args:
      static: rule, ``stacked`` of `Batch`, and what a trace depends on besides its arguments.
      weights: see `update_tree`.
      multiplier: see `update_tree`.
      arrays: a `Batch` without ``stacked``.
      seed: of the batch.
    """
    rule, stacked, *_ = static
    return xla.update_batch(rule, weights, multiplier, arrays._replace(stacked=stacked), seed)


def _joined(parts: list[Any], like: Accumulators) -> Accumulators:
    """`Accumulators` from a list of their parts, with as many decays as ``like`` has."""
    momenta, factored = len(like.momenta), len(like.rows)
    rows = momenta + 1
    return Accumulators(
        tuple(parts[:momenta]), parts[momenta], tuple(parts[rows : rows + factored]), tuple(parts[rows + factored :])
    )
