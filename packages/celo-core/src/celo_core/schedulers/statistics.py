"""Statistics of a step that a scheduler may read, of the whole network, computed before the step."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


class Averages(NamedTuple):
    """Running moments before a step; lists of one array for each tensor that has a gradient.

    Attributes:
      momenta: for each decay such a list.
      second_moment: such a list.
      decays: of the momenta.
      second_decay: of the second moment.
      count: steps taken, int32 ().
    """

    momenta: Sequence[Sequence[Array]]
    second_moment: Sequence[Array]
    decays: Sequence[float]
    second_decay: float
    count: Any


class Observed(NamedTuple):
    """Inputs of the statistics; lists of one array for each tensor that has a gradient.

    Attributes:
      gradients: float32, finite.
      momenta: of the first decay, before this step.
      averages: all moments.
    """

    gradients: Sequence[Array]
    momenta: Sequence[Array]
    averages: Averages | None = None


def gradient_alignment(observed: Observed) -> Array:
    """Cosine of the gradient with the momentum of the first decay, over all parameters; 0 where one of them is 0.

    Near 0 where gradients are mostly noise, negative where steps overshoot. It does not depend on the scale of the loss, but
    on the units of the parameters.
    """
    wide = lambda x: x.astype(jnp.float32)
    dot = lambda xs, ys: sum((jnp.sum(wide(x) * wide(y)) for x, y in zip(xs, ys, strict=True)), jnp.float32(0.0))
    g, m = observed.gradients, observed.momenta
    # Roots first: products of squares leave float32's range.
    norms = jnp.sqrt(dot(g, g)) * jnp.sqrt(dot(m, m))
    return jnp.clip(dot(g, m) / jnp.maximum(norms, np.finfo(np.float32).tiny), -1.0, 1.0)


def signal_to_noise(observed: Observed) -> Array:
    """How much larger each momentum is than noise alone would make it, in the mean over tensors, float32 (decays,).

    With a momentum m of decay b and a second moment v of decay c after t steps, gradients that are independent noise have
    ``|m|^2 = n sum v / (1 - c^t)`` in the mean with ``n = (1 - b) (1 - b^2t) / (1 + b)``, and equal ones ``n = (1 - b^t)^2``. The
    statistic is half the logarithm of ``|m|^2`` over the former, within plus or minus 4: 0 for noise, above 0 where gradients agree
    for as long as the momentum remembers, and below 0 where they alternate. It depends neither on the scale of the loss nor on the
    units of a tensor, and costs a pass over the moments. 0 before the third step.
    """
    seen = observed.averages
    if seen is None:
        raise ValueError("this optimizer does not tell its scheduler its moments, which the signal to noise is of.")
    if not seen.second_moment:
        return jnp.zeros((len(seen.decays),), jnp.float32)
    steps = jnp.asarray(seen.count, jnp.float32)
    decayed = lambda decay, power=1.0: -jnp.expm1(power * steps * jnp.log(jnp.float32(decay)))
    # Of scaled values, since squares leave float32's range.
    total = jnp.stack([jnp.sum(v.astype(jnp.float32)) for v in seen.second_moment])
    expected = total / jnp.maximum(decayed(seen.second_decay), 1e-6)
    unit = jnp.sqrt(expected)
    used = (unit > 1e-18) & (steps > 1)
    logs = []
    for momentum, decay in zip(seen.momenta, seen.decays, strict=True):
        scaled = [m.astype(jnp.float32) / jnp.where(u > 1e-18, u, 1.0) for m, u in zip(momentum, unit, strict=True)]
        energy = jnp.stack([jnp.sum(jnp.square(m)) for m in scaled])
        noise = (1.0 - decay) / (1.0 + decay) * decayed(decay, 2.0)
        ratio = 0.5 * jnp.log(jnp.maximum(energy, 1e-12) / jnp.maximum(noise, 1e-12))
        logs.append(jnp.sum(jnp.where(used, jnp.clip(ratio, -4.0, 4.0), 0.0)) / jnp.maximum(jnp.sum(used), 1))
    return jnp.stack(logs)


STATISTICS: Mapping[str, Callable[[Observed], Array]] = MappingProxyType(
    {"gradient_alignment": gradient_alignment, "signal_to_noise": signal_to_noise}
)
"""Statistics by name."""
