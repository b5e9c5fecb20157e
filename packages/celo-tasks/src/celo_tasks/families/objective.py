"""Objectives of meta-training as functions of a problem's losses."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from celo_core import TaskFamily

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class LogLoss:
    """A task family whose normalised loss is the logarithm of another's: halving a loss counts the same at every size.

    So losses of all kinds have the same weight, and the end of a training, where the loss is small, the same as its beginning:
    optimizers are evaluated by ratios of losses.

    Attributes:
      family: the family.
      floor: lower bound on losses.
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
