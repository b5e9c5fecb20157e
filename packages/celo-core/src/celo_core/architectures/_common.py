"""Pieces that the architectures share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

Array = jax.Array


def zeros_like(params: Any, dtype: Any) -> Any:
    """A tree of zeros of ``dtype``, each its own buffer so that all can be donated."""
    return jax.tree.map(lambda p: jnp.zeros_like(p, dtype=dtype), params)


def map_tensors(
    function: Callable[..., tuple[Any, ...]], updates: Any, params: Any, *accumulators: Any
) -> tuple[Any, ...]:
    """Applies ``function(gradient, parameter, *accumulators of this tensor)`` to every tensor.

    Args:
      function: takes, per accumulator, the tuple of this tensor's values, and returns a new tuple likewise.
      updates: tree of gradients.
      params: tree of parameters.
      *accumulators: tuples of trees like ``updates``, one tree per decay.

    Returns:
      The tree of updates, then a tuple of trees per accumulator.
    """
    treedef: Any
    gradients, treedef = jax.tree.flatten(updates)
    flat_params = treedef.flatten_up_to(params)

    def by_tensor(trees: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        columns = [treedef.flatten_up_to(tree) for tree in trees]
        return [tuple(column[i] for column in columns) for i in range(len(gradients))]

    flat = [by_tensor(trees) for trees in accumulators]
    results = [function(*arguments) for arguments in zip(gradients, flat_params, *flat, strict=True)]
    steps = treedef.unflatten([result[0] for result in results])
    new = [
        tuple(treedef.unflatten([result[index][i] for result in results]) for i in range(len(trees)))
        for index, trees in enumerate(accumulators, start=1)
    ]
    return (steps, *new)


def descend(
    direction: optax.GradientTransformationExtraArgs, weight_decay: Any, mask: Any
) -> optax.GradientTransformationExtraArgs:
    """The whole optimizer: the direction, decoupled weight decay if any, and the minus sign."""
    parts: list[Any] = [direction]
    if not (isinstance(weight_decay, (int, float)) and weight_decay == 0):
        parts.append(optax.add_decayed_weights(weight_decay, mask))
    return optax.with_extra_args_support(optax.chain(*parts, optax.scale(-1.0)))
