"""Statistics of a step that a scheduler may read, one number each for the whole network, computed before the step."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


class Observed(NamedTuple):
    """Inputs of the statistics; lists of one array for each tensor that has a gradient.

    Attributes:
      gradients: float32, finite.
      momenta: of the first decay, before this step.
    """

    gradients: Sequence[Array]
    momenta: Sequence[Array]


def gradient_alignment(observed: Observed) -> Array:
    """Cosine of the gradient with the momentum of the first decay, over all parameters; 0 where one of them is 0.

    Near 0 where gradients are mostly noise, negative where steps overshoot. It does not depend on the scale of the loss, but
    on the units of the parameters.
    """
    wide = lambda x: x.astype(jnp.float32)
    dot = lambda xs, ys: sum((jnp.sum(wide(x) * wide(y)) for x, y in zip(xs, ys, strict=True)), jnp.float32(0.0))
    g, m = observed
    # Roots first: products of squares leave float32's range.
    norms = jnp.sqrt(dot(g, g)) * jnp.sqrt(dot(m, m))
    return jnp.clip(dot(g, m) / jnp.maximum(norms, np.finfo(np.float32).tiny), -1.0, 1.0)


STATISTICS: Mapping[str, Callable[[Observed], Array]] = MappingProxyType({"gradient_alignment": gradient_alignment})
"""Statistics by name."""
