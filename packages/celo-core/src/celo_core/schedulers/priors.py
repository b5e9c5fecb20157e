"""Fixed schedules: a learned multiplier modulates one, or it is the whole schedule where nothing is learned."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from celo_core.configs import Part

Array = jax.Array

REFERENCE_STEPS = 1000
"""Length of training, in steps, for which a schedule begins at its ``peak``."""

LONGEST = math.exp(10.0)
"""By default longer trainings count as this many steps, some 22,000: there were none that long in meta-training."""


class Prior(Part):
    """A schedule: a height, which may depend on the length of training, times a decay that begins at 1."""

    group = "celo.scheduler_priors"

    def height(self, num_steps: Any) -> Array | float:
        """Multiplier of the first step, () or a number; ``num_steps`` is a scalar, possibly traced."""
        raise NotImplementedError

    def decay(self, fraction: Array) -> Array:
        """Fraction of the height after a fraction of the training, float32 ()."""
        raise NotImplementedError

    @property
    def reference(self) -> float:
        """Its height in a training of `REFERENCE_STEPS` steps."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Constant(Prior, type="constant"):
    """The same multiplier in every step: 0.1 in the published scheduler, whose network does the rest.

    Attributes:
      value: the multiplier.
    """

    value: float = 0.1

    def __post_init__(self) -> None:
        _check_positive("value", self.value)

    def height(self, num_steps: Any) -> Array | float:
        """See `Prior`."""
        del num_steps
        return self.value

    def decay(self, fraction: Array) -> Array:
        """See `Prior`."""
        return jnp.ones_like(fraction)

    @property
    def reference(self) -> float:
        """See `Prior`."""
        return self.value


@dataclasses.dataclass(frozen=True)
class _Falling(Prior):
    """A decay to 0 from ``peak * (n / 1000)^-exponent`` in a training of n steps.

    Attributes:
      peak: height in a training of 1,000 steps.
      exponent: of the decrease with the length of training; 0 for the same height at all lengths.
      shortest: shorter trainings count as this many steps.
      longest: longer trainings count as this many steps.
    """

    peak: float = 1.0
    exponent: float = 0.0
    shortest: float = 1.0
    longest: float = LONGEST

    def __post_init__(self) -> None:
        _check_positive("peak", self.peak)
        if not 1 <= self.shortest <= self.longest:
            raise ValueError(f"1 <= shortest <= longest must hold, not {self.shortest} and {self.longest}.")

    def height(self, num_steps: Any) -> Array | float:
        """See `Prior`."""
        if self.exponent == 0:
            return self.peak
        steps = jnp.clip(jnp.asarray(num_steps, jnp.float32), self.shortest, self.longest)
        return self.peak * jnp.exp(-self.exponent * jnp.log(steps / REFERENCE_STEPS))

    @property
    def reference(self) -> float:
        """See `Prior`."""
        return self.peak


@dataclasses.dataclass(frozen=True)
class LinearDecay(_Falling, type="linear_decay"):
    """A linear decay to 0 at the end of training; see `Cosine` for the fields."""

    def decay(self, fraction: Array) -> Array:
        """See `Prior`."""
        return _left(fraction)


@dataclasses.dataclass(frozen=True)
class Cosine(_Falling, type="cosine"):
    """A cosine decay to 0 at the end of training, ``cos^2(pi/2 x)``, and 0 after it, as Optax's schedules.

    Source: Loshchilov and Hutter, "SGDR", arXiv 1608.03983, equation 5.

    Attributes:
      peak: height in a training of 1,000 steps.
      exponent: in a training of n steps the height is ``peak * (n / 1000)^-exponent``.
      shortest: shorter trainings count as this many steps.
      longest: longer trainings count as this many steps.
    """

    def decay(self, fraction: Array) -> Array:
        """See `Prior`."""
        return jnp.square(jnp.sin(0.5 * jnp.pi * _left(fraction)))


def _left(fraction: Array) -> Array:
    return 1.0 - jnp.clip(fraction, 0.0, 1.0)


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number, not {value}.")
