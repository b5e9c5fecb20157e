"""How long inner problems run: lengths of unrolls for meta-gradient estimators.

A schedule's ``sample(key, estimates)`` draws one length, int32 (); ``estimates`` counts the estimates that the problem's
slot has taken part in, which in meta-training is the meta-iteration, so that lengths may grow over meta-training.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from celo_core.configs import Part

Array = jax.Array


class LengthSchedule(Part):
    """A schedule of lengths."""

    group = "celo.length_schedules"

    @property
    def longest(self) -> int:
        """The longest length that can be drawn."""
        raise NotImplementedError

    @property
    def mean(self) -> float:
        """The mean length, for costs; the longest where it is not known."""
        return float(self.longest)

    def sample(self, key: Array, estimates: Any = 0) -> Array:
        """Length of one problem, int32 ()."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class ConstantLength(LengthSchedule, type="constant"):
    """Every problem runs for ``steps`` steps."""

    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"a problem must run for at least 1 step, not {self.steps}.")

    @property
    def longest(self) -> int:
        """The longest length that can be drawn."""
        return self.steps

    def sample(self, key: Array, estimates: Any = 0) -> Array:
        """Length of one problem, int32 ()."""
        del key, estimates
        return jnp.asarray(self.steps, jnp.int32)


@dataclasses.dataclass(frozen=True)
class LogUniformLength(LengthSchedule, type="log_uniform"):
    """Lengths log-uniform in [minimum, maximum], as Celo is meta-trained (arXiv 2501.12670, section 4)."""

    minimum: int = 100
    maximum: int = 2000

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.maximum:
            raise ValueError(f"lengths must satisfy 1 <= minimum <= maximum, not {self.minimum} and {self.maximum}.")

    @property
    def longest(self) -> int:
        """The longest length that can be drawn."""
        return self.maximum

    @property
    def mean(self) -> float:
        """The mean length, but for the rounding."""
        if self.minimum == self.maximum:
            return float(self.minimum)
        return (self.maximum - self.minimum) / math.log(self.maximum / self.minimum)

    def sample(self, key: Array, estimates: Any = 0) -> Array:
        """Length of one problem, int32 ()."""
        del estimates
        return _log_uniform(key, self.minimum, self.maximum)


@dataclasses.dataclass(frozen=True)
class GrowingLength(LengthSchedule, type="growing"):
    """A curriculum: log-uniform in [minimum, m], where m grows from ``first`` to ``maximum``.

    ``m = first * (maximum / first) ** min(1, estimates / duration)``: by the same factor in every estimate, so that all
    orders of magnitude get the same share of meta-training. Curricula over the unroll's length are how VeLO's
    meta-training began (arXiv 2211.09760, appendix on meta-training).

    Attributes:
      minimum: shortest length.
      first: longest length at the start.
      maximum: longest length at the end, e.g. 20,000.
      duration: estimates (meta-iterations) until then.
    """

    minimum: int = 100
    first: int = 200
    maximum: int = 20_000
    duration: int = 10_000

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.first <= self.maximum:
            raise ValueError(
                "lengths must satisfy 1 <= minimum <= first <= maximum, "
                f"not {self.minimum}, {self.first} and {self.maximum}."
            )
        if self.duration < 1:
            raise ValueError(f"a curriculum must last at least 1 estimate, not {self.duration}.")

    @property
    def longest(self) -> int:
        """The longest length that can be drawn."""
        return self.maximum

    def sample(self, key: Array, estimates: Any = 0) -> Array:
        """Length of one problem, int32 ()."""
        progress = jnp.minimum(1.0, jnp.asarray(estimates, jnp.float32) / self.duration)
        longest = self.first * (self.maximum / self.first) ** progress
        return _log_uniform(key, self.minimum, longest)


def _log_uniform(key: Array, low: Any, high: Any) -> Array:
    low, high = jnp.log(jnp.asarray(low, jnp.float32)), jnp.log(jnp.asarray(high, jnp.float32))
    return jnp.round(jnp.exp(low + (high - low) * jax.random.uniform(key, dtype=jnp.float32))).astype(jnp.int32)
