"""The fused update of whole trees: leaves are grouped into batches, and each batch goes to an implementation."""

import functools
import math
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from celo_core.kernels import grouping, reductions, xla
from celo_core.kernels.interface import Accumulators, Batch, Finish, Leaf, UpdateRule, Weights

Array = jax.Array

FEW = 8
"""Up to so many leaves are cut out of batches at fixed places."""

IMPLEMENTATIONS = ("auto", "xla", "pallas")
"""``auto`` takes the Pallas kernels on a CUDA GPU for tensors large enough, and XLA elsewhere."""


def update_tree(
    rule: UpdateRule,
    weights: Weights,
    multiplier: Array | None,
    gradients: Any,
    params: Any,
    accumulators: Accumulators,
    count: Array,
    implementation: str = "auto",
    scale_floor: Array | None = None,
    stacks: Sequence[tuple[int, ...] | None] | None = None,
    shardings: Sequence[Any] | None = None,
    finish: Finish | None = None,
    finish_arguments: Any = None,
) -> tuple[Any, Accumulators]:
    """One step of every tensor of a tree.

    Args:
      rule: the update rule.
      weights: meta-parameters of its network.
      multiplier: the scheduler's multiplier, a float32 scalar, or ``None`` for 1.
      gradients: tree of gradients like ``params``. A leaf with ``None`` for one gets no step, and keeps its moments; so
        does one without elements.
      params: tree of parameters.
      accumulators: as `Accumulators`, with a tree like ``params`` in place of each array.
      count: steps taken, int32 ().
      implementation: one of `IMPLEMENTATIONS`; see `celo_core.scale_by_celo`.
      scale_floor: as in `Batch`, of all tensors in their order, float32 (tensors,); ``None`` for none.
      stacks: for each leaf, see `Leaf`; by default there is none.
      shardings: for each leaf, see `Leaf`; by default none is known.
      finish: what is done to the step of each batch, or ``None``.
      finish_arguments: arrays that it takes.

    Returns:
      The tree of steps, each in its gradient's dtype, and the new accumulators, as trees.
    """
    treedef: Any
    flat_params, treedef = jax.tree.flatten(params)
    flat = treedef.flatten_up_to(gradients)
    trees = [*accumulators.momenta, accumulators.second_moment, *accumulators.rows, *accumulators.columns]
    columns = [treedef.flatten_up_to(tree) for tree in trees]
    by_leaf = [[column[i] for column in columns] for i in range(len(flat))]
    stacks = [None] * len(flat) if stacks is None else stacks
    shardings = [None] * len(flat) if shardings is None else shardings
    tensors = sum(math.prod(stack or ()) for stack in stacks)
    places = reductions.indices(tensors) if len(flat) > FEW and reductions.on_one_cpu() else None
    floors = floors_of(scale_floor, stacks, places)
    leaves = [
        Leaf(g, p, _joined(parts, accumulators), floor, stack, sharding)
        for g, p, parts, floor, stack, sharding in zip(
            flat, flat_params, by_leaf, floors, stacks, shardings, strict=True
        )
    ]
    results: list[Any] = [(leaf.gradient, leaf.accumulators) for leaf in leaves]
    moving = [i for i, leaf in enumerate(leaves) if leaf.gradient is not None and leaf.gradient.size > 0]
    for number, batch in enumerate(grouping.plan([leaves[i] for i in moving])):
        indices = [moving[place] for place in batch]
        members = [leaves[i] for i in indices]
        seed = step_seed(count, number)
        arrays = (weights, multiplier, grouping.gather(members), seed, finish_arguments)
        step, new = _update_batch(rule, *arrays, implementation, finish)
        for index, result in zip(indices, grouping.scatter(members, step, new, places), strict=True):
            results[index] = result
    steps = treedef.unflatten([step for step, _ in results])
    parts = [[*new.momenta, new.second_moment, *new.rows, *new.columns] for _, new in results]
    new_trees = [treedef.unflatten([part[k] for part in parts]) for k in range(len(trees))]
    return steps, _joined(new_trees, accumulators)


def floors_of(
    scale_floor: Array | None, stacks: Sequence[tuple[int, ...] | None], places: Sequence[Array] | None = None
) -> list[Array | None]:
    """The part of each leaf, float32 (*stack,), in a floor of all tensors, float32 (tensors,).

    With ``places``, see `celo_core.kernels.reductions.indices`, it is cut out there.
    """
    if scale_floor is None:
        return [None] * len(stacks)
    floors: list[Array | None] = []
    first = 0
    for stack in stacks:
        count = math.prod(stack or ())
        if places is None or count == 0:
            part = scale_floor[first : first + count]
        else:
            part = jax.lax.dynamic_slice_in_dim(scale_floor, places[first], count)
        floors.append(part.reshape(stack or ()))
        first += count
    return floors


def step_seed(count: Array, number: int) -> Array:
    """Seed of the stochastic rounding of one batch in one step, uint32 ().

    Args:
      count: steps taken, int32 ().
      number: which batch.
    """
    return (count.astype(jnp.uint32) * np.uint32(0xC2B2AE35)) ^ np.uint32(number * 0x27D4EB2F % 2**32)


def _update_batch(
    rule: UpdateRule,
    weights: Weights,
    multiplier: Array | None,
    batch: Batch,
    seed: Array,
    finish_arguments: Any,
    implementation: str,
    finish: Finish | None,
) -> tuple[Array, Accumulators]:
    """One batch by the implementation that is asked for and possible."""
    stacked = batch.stacked
    arrays = batch._replace(stacked=None)  # type: ignore[arg-type]
    if finish is not None and not finish.applies(batch.gradient.shape[stacked:]):
        finish = None

    def on_xla() -> tuple[Array, Accumulators]:
        static = (rule, stacked, finish, reductions.on_one_cpu(), reductions.on_one_device())
        return _on_xla(static, weights, multiplier, arrays, seed, finish_arguments)

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
            "leave implementation at 'auto' to have the best of each machine.",
            stacklevel=2,
        )
        return on_xla()
    # Chosen where the program is lowered: arrays may be on a CPU beside the GPU. What is static stays out of the operands.
    of = lambda update: lambda w, m, x, seed: update(rule, w, m, x._replace(stacked=stacked), seed)
    step, new = jax.lax.platform_dependent(
        weights,
        multiplier,
        arrays,
        seed,
        cuda=of(pallas.update_batch),
        default=of(xla.update_batch),
    )
    if finish is None:
        return step, new
    return finish.apply(rule, finish_arguments, batch, step, new, xla.means_for(rule, finish, batch, new)), new


@functools.partial(jax.jit, static_argnums=0)
def _on_xla(
    static: tuple[Any, ...], weights: Weights, multiplier: Array | None, arrays: Any, seed: Array, finish_arguments: Any
) -> tuple[Array, Accumulators]:
    """One batch by XLA, inlined when it is compiled, but traced once for all batches of the same shapes.

    Args:
      static: rule, ``stacked`` of `Batch`, `Finish`, and what a trace depends on beside its arguments.
      weights: see `update_tree`.
      multiplier: see `update_tree`.
      arrays: a `Batch`, but for ``stacked``.
      seed: of the batch.
      finish_arguments: see `update_tree`.
    """
    rule, stacked, finish, *_ = static
    batch = arrays._replace(stacked=stacked)
    return xla.update_batch(rule, weights, multiplier, batch, seed, finish, finish_arguments)


def _joined(parts: list[Any], like: Accumulators) -> Accumulators:
    """`Accumulators` from a list of their parts, with as many decays as ``like`` has."""
    momenta, factored = len(like.momenta), len(like.rows)
    rows = momenta + 1
    return Accumulators(
        tuple(parts[:momenta]), parts[momenta], tuple(parts[rows : rows + factored]), tuple(parts[rows + factored :])
    )
