"""What of a problem's losses is minimised by meta-training."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from celo_core import TaskFamily

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class LogLoss:
    """A task family whose normalised loss is the logarithm of another's: half the loss counts the same whatever its size.

    So losses of all kinds weigh alike, and the end of a training, where the loss is small, as much as its beginning: what
    an optimizer is judged by is a ratio of losses.

    Attributes:
      family: the family.
      floor: losses below this count as this.
    """

    family: TaskFamily
    floor: float = 1e-2

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "family":
            raise AttributeError(name)
        return getattr(self.family, name)

    def normalizer(self, loss: Array) -> Array:
        """Logarithm of the family's normalised loss."""
        return jnp.log(jnp.maximum(self.family.normalizer(loss), self.floor))
