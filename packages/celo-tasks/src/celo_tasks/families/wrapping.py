"""The base of families that are another one, changed."""

import dataclasses
from typing import Any

import jax

from celo_core import FamilyDefaults, TaskFamily
from celo_tasks.families.held_out import HeldOut

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class WrappedFamily(FamilyDefaults):
    """Has the data, configs, networks and batches of ``family``; subclasses define ``name`` and ``loss``.

    If the family has ``load_held_out`` and ``metrics``, so has this one: they are the family's.

    Attributes:
      family: the family.
    """

    family: TaskFamily

    def __post_init__(self) -> None:
        if isinstance(self.family, HeldOut):
            object.__setattr__(self, "load_held_out", self.family.load_held_out)
            object.__setattr__(self, "metrics", self.family.metrics)

    def load(self) -> Any:
        """The family's data."""
        return self.family.load()

    def sample(self, key: Array) -> Any:
        """The family's config."""
        return self.family.sample(key)

    def init(self, key: Array, config: Any) -> tuple[Any, Any]:
        """The family's parameters and model state."""
        return self.family.init(key, config)

    def batch(self, key: Array, config: Any, data: Any) -> Any:
        """The family's batch."""
        return self.family.batch(key, config, data)

    def normalizer(self, loss: Array) -> Array:
        """The family's."""
        return self.family.normalizer(loss)
