"""Adam's direction, once for each momentum, with learned weights.

::

    a = sum_k 10 w_k m_k / sqrt(v)

with bias-corrected momenta and second moment. Every feature of the network is divided by its root mean square over the tensor, so
that the network alone cannot take smaller steps where the gradient is mostly noise. This direction gets shorter there.

Source: Kingma and Ba, "Adam", arXiv 1412.6980, section 2.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from celo_core import features as features_lib
from celo_core.accumulators import Moments
from celo_core.directions.base import ADAM_EPSILON, SCALE, ElementwiseDirection, correction
from celo_core.directions.mlp import first_layer
from celo_core.features import Kind
from celo_core.kernels.interface import Folded

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Adam(ElementwiseDirection, type="adam"):
    """See the module; theta: ``{"kernel": (momenta, 1)}``."""

    def init(self, key: Array, moments: Moments) -> dict[str, Any]:
        """Adam with the first momentum, and steps of some 3 % of the parameters: the network's are small compared with them."""
        del key
        first = [[3.0], *[[0.0]] * (len(moments.momentum_decays) - 1)]
        return {"kernel": jnp.array(first, jnp.float32)}

    def prepare(self, weights: dict[str, Any], moments: Moments, count: Array) -> dict[str, Any]:
        """The weights with their factor and the bias corrections."""
        root = jnp.sqrt(correction(moments.second_moment_decay, count))
        factors = jnp.stack([SCALE * root / correction(decay, count) for decay in moments.momentum_decays])
        return {"kernel": weights["kernel"] * factors[:, None]}

    def step(self, moments: Moments, folded: Folded, values: features_lib.Values, kinds: Sequence[Kind]) -> Array:
        """See `celo_core.kernels.interface.Elementwise`."""
        del moments, kinds
        return adam_direction(folded.shared["kernel"], values)


def adam_direction(kernel: Array, values: features_lib.Values) -> Array:
    """``sum_k kernel[k] m_k / sqrt(v)``, float32 in the tensor's shape.

    Unlike the features, it is not normalised over the tensor: the more of the gradient is noise, the shorter it is.
    """
    momenta = values.momenta
    total = first_layer(kernel, momenta, range(len(momenta)), 0)
    return total * jax.lax.rsqrt(values.second_moment + ADAM_EPSILON)
