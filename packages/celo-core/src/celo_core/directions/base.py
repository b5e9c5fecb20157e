"""Base classes of directions: kinds of step with meta-parameters of their own. The steps of an optimizer's directions add up.

There are two kinds. Elementwise ones (`celo_core.kernels.interface.Elementwise`) read a parameter, its moments and statistics
of its tensor, and run inside the fused kernels, in XLA and Pallas alike. Those per tensor (`celo_core.kernels.interface.PerTensor`)
read whole tensors, run after the kernels, and may keep a state. A new direction is one file with a class of either kind.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from celo_core import features as features_lib
from celo_core.accumulators import Moments
from celo_core.configs import Part
from celo_core.features import Kind
from celo_core.kernels.interface import Folded

Array = jax.Array

SCALE = 10.0
"""Factor on the weights of directions without a network, so that perturbations of one size suit them and a network's weights."""

ADAM_EPSILON = 1e-16
"""Added to the second moment under Adam's root; the square of its usual epsilon."""


class Direction(Part):
    """A direction's config and its mathematics; theta is a dict of float32 arrays."""

    group = "celo.directions"

    is_elementwise = True
    """Whether it is elementwise."""

    def init(self, key: Array, moments: Moments) -> dict[str, Any]:
        """Random meta-parameters."""
        raise NotImplementedError

    def prepare(self, weights: dict[str, Any], moments: Moments, count: Array) -> Any:
        """The meta-parameters in the form that the update uses, e.g. with the bias corrections after ``count`` steps."""
        del moments, count
        return weights


class ElementwiseDirection(Direction):
    """Defaults of a `celo_core.kernels.interface.Elementwise`: no statistics, and the weights unchanged."""

    def num_statistics(self, moments: Moments, kinds: Sequence[Kind]) -> int:
        """See `celo_core.kernels.interface.Elementwise`."""
        del moments, kinds
        return 0

    def statistics(self, moments: Moments, values: features_lib.Values, kinds: Sequence[Kind]) -> list[Array]:
        """See `celo_core.kernels.interface.Elementwise`."""
        del moments, values, kinds
        return []

    def mix(self, weights: Any, control: Any) -> Any:
        """See `celo_core.kernels.interface.Elementwise`."""
        raise ValueError(f"the direction {self.type} takes nothing from a scheduler.")

    def fold(
        self, moments: Moments, weights: Any, is_own: bool, means: Array, factored: Any, kinds: Sequence[Kind]
    ) -> Folded:
        """See `celo_core.kernels.interface.Elementwise`."""
        del moments, means, factored, kinds
        return Folded(own=weights) if is_own else Folded(shared=weights)


def correction(decay: float, count: Array) -> Array:
    """Divisor of the bias correction of a running mean that began at 0, after ``count + 1`` steps."""
    steps = count.astype(jnp.float32) + 1.0
    return -jnp.expm1(steps * math.log(decay)) if decay > 0 else jnp.ones_like(steps)
