"""The base of learned optimizers that are another one, changed."""

import dataclasses
from typing import Any

from celo_core.protocols import LearnedOptimizer


# Compared by identity here: a subclass that is compared by its fields says so, and one with arrays must not inherit equality
# by the architecture alone, under which compiled programs of different arrays would be shared.
@dataclasses.dataclass(frozen=True, eq=False)
class WrappedOptimizer:
    """Has the name, config and needs of ``architecture``; subclasses define ``init`` and ``build``.

    Attributes:
      architecture: the whole learned optimizer.
    """

    architecture: LearnedOptimizer

    @property
    def name(self) -> str:
        """Name of the whole architecture."""
        return self.architecture.name

    @property
    def config(self) -> Any:
        """Config of the whole architecture."""
        return self.architecture.config

    @property
    def config_class(self) -> type:
        """Class of the whole architecture's configs."""
        return self.architecture.config_class

    @property
    def reads_task_embedding(self) -> bool:
        """Whether the whole architecture does."""
        return self.architecture.reads_task_embedding
