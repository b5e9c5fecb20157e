"""What a direction is: a kind of step, with meta-parameters of its own. The steps of an optimizer's directions add up.

There are two kinds. Elementwise ones (`celo_core.kernels.interface.Elementwise`) look at a parameter, its moments and statistics
of its tensor, and run inside the fused kernels, in XLA and Pallas alike. Those per tensor (`celo_core.kernels.interface.PerTensor`)
see whole tensors, run after the kernels, and may keep a state. A new direction is one file with a class of either kind.
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
"""Factor on the weights of the directions that are not a network's, so that a perturbation that suits the network's suits them."""

ADAM_EPSILON = 1e-16
"""Added to the second moment under Adam's root; the square of its usual epsilon."""


class Direction(Part):
    """A direction's config and its mathematics; theta is a dict of float32 arrays."""

    group = "celo.directions"

    is_elementwise = True
    """Whether it is of the first kind."""

    def init(self, key: Array, moments: Moments) -> dict[str, Any]:
        """Random meta-parameters."""
        raise NotImplementedError

    def prepare(self, weights: dict[str, Any], moments: Moments, count: Array) -> Any:
        """What the update takes of the meta-parameters in a step, with bias corrections after ``count`` steps, say."""
        del moments, count
        return weights


class ElementwiseDirection(Direction):
    """Defaults of a `celo_core.kernels.interface.Elementwise`: without statistics, and with weights as they are."""

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
    """What a running mean that began at 0 is to be divided by, after ``count`` steps and one more."""
    steps = count.astype(jnp.float32) + 1.0
    return -jnp.expm1(steps * math.log(decay)) if decay > 0 else jnp.ones_like(steps)
