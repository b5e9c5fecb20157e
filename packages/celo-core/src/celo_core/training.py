"""Helpers for training loops: the loss that a learned optimizer reads, and states that come from a checkpoint."""

from collections.abc import Mapping
from typing import Any

import jax
import optax
from flax.training import train_state


class TrainState(train_state.TrainState):
    """flax.linen's TrainState whose ``apply_gradients`` passes the loss on to the optimizer.

    Example:
      ``state = state.apply_gradients(grads=grads, value=loss)``
    """

    def apply_gradients(self, *, grads: Any, value: Any = None, **kwargs: Any) -> "TrainState":
        """One step.

        Args:
          grads: gradients of the same structure as ``params``.
          value: loss of this step, a scalar.
          **kwargs: fields to replace in the state, as in flax (e.g. ``batch_stats``).
        """
        tx = optax.with_extra_args_support(self.tx)
        updates, opt_state = tx.update(grads, self.opt_state, self.params, value=value)
        params = optax.apply_updates(self.params, updates)
        return self.replace(step=self.step + 1, params=params, opt_state=opt_state, **kwargs)


def restore_structure(like: Any, restored: Any) -> Any:
    """A tree of the structure of ``like`` with the leaves of ``restored``, a checkpoint that was read without a target.

    Without a target Orbax returns nested dicts and lists: named tuples come back as dicts with the names of their fields, and
    tuples as lists.

    Args:
      like: a tree of the structure that was saved, such as ``jax.eval_shape(tx.init, params)``.
      restored: nested dicts, lists and tuples.

    Returns:
      A tree like ``like``, the leaves as they are in ``restored``.

    Raises:
      ValueError: a part of ``like`` is missing in ``restored``, or ``restored`` has further leaves.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from celo_core import restore_structure
      >>> like = jax.eval_shape(optax.adam(1e-3).init, jnp.ones(2))
      >>> state = restore_structure(like, [{"count": 3, "mu": jnp.ones(2), "nu": jnp.ones(2)}, {}])
      >>> int(state[0].count)
      3
    """
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(like)]
    found = [_at(restored, path) for path in paths]
    if (number := len(jax.tree.leaves(restored))) != len(paths):
        raise ValueError(
            f"what was restored has {number} leaves and not {len(paths)}: it is of another optimizer or model."
        )
    return jax.tree.unflatten(jax.tree.structure(like), found)


def _at(tree: Any, path: Any) -> Any:
    for depth, key in enumerate(path):
        name = next(getattr(key, kind) for kind in ("name", "key", "idx") if hasattr(key, kind))
        try:
            tree = (
                tree[name]
                if isinstance(tree, (Mapping, list, tuple)) and not hasattr(tree, "_fields")
                else getattr(tree, name)
            )
        except (KeyError, IndexError, TypeError, AttributeError):
            where = jax.tree_util.keystr(path[: depth + 1])
            raise ValueError(f"what was restored has no {where}: it is of another optimizer or model.") from None
    return tree
