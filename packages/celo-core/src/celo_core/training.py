"""Helpers for training loops: the one thing a learned optimizer needs that others do not is the loss."""

from typing import Any

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
