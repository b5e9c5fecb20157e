"""Base class of estimators: configs that are bound to an architecture and a family of problems."""

import dataclasses
from typing import Any, TypeVar

from celo_core.configs import Part
from celo_core.protocols import LearnedOptimizer, TaskFamily

Bound = TypeVar("Bound", bound="Estimator")


class Estimator(Part):
    """A `celo_core.GradientEstimator` as a config, of everything but the architecture and the problems."""

    group = "celo.estimators"

    def with_truncation(self, steps: int) -> "Estimator":
        """See `celo_core.GradientEstimator`; an estimator on truncated unrolls has a method of its own."""
        del steps
        raise ValueError(f"the estimator {self.type} has no truncation, so it cannot have a schedule of truncations.")

    def bind(self: Bound, architecture: LearnedOptimizer, family: TaskFamily, **changes: Any) -> Bound:
        """The same estimator for an architecture's meta-gradient on a family; ``changes`` are new values of its other fields.

        Raises:
          ValueError: the family lacks held-out data that it needs, or the new values are invalid.
        """
        return dataclasses.replace(self, architecture=architecture, family=family, **changes)  # type: ignore[type-var]


def unbound(what: str) -> Any:
    """A field that is set by `Estimator.bind`, or as an argument, and is not part of the config."""
    del what
    return dataclasses.field(default=None, metadata={"json": False})
