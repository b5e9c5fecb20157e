"""Full-unroll evolution strategies (ES) with antithetic pairs.

A pair trains one problem from its initialisation to its end with ``theta + e`` and ``theta - e``, ``e ~ N(0, sigma^2)``. With
L+- the mean, the last or the final loss, the pair's gradient is ::

    (L+ - L-) / (2 sigma^2) * e

or, with ``sign_delta``, ``sign(L+ - L-) * sign_delta / (2 sigma^2) * e``, or, with ``clip_difference``, that of the difference
clipped. A loss that is not finite counts as larger than every other; where the difference is not finite even so, its pair
contributes nothing.

Bias: none for the gradient of the smoothed meta-loss. With the sign there is one: every problem votes for a direction with
the same weight, whatever the size of its difference, and the length of the result has no meaning. With clipping there is one
where differences are large, as those of trainings that diverge are, which then decide no more than others do.

Variance: as that of noise-reuse ES over a whole trajectory; the more, the fewer steps at the end of a training count.

Cost: one estimate takes a whole unroll, during which theta does not change: of the longest problem that can be drawn, or with
``same_length`` of the length that is drawn for it, whose mean is several times less where lengths are log-uniform.

Source: Salimans, Ho, Chen, Sidor, Sutskever, "Evolution Strategies as a Scalable Alternative to Reinforcement Learning",
arXiv 1703.03864; for learned optimizers Metz et al., "VeLO", arXiv 2211.09760, where the sign and the last loss are used.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from celo_core.estimators import _antithetic
from celo_core.estimators._antithetic import AntitheticSettings
from celo_core.estimators._full import FullState, FullUnrollEstimator
from celo_core.estimators._problems import Window
from celo_core.protocols import Theta

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class FullES(AntitheticSettings, FullUnrollEstimator, type="full_es"):
    """Full-unroll ES; a `celo_core.protocols.GradientEstimator`.

    Attributes:
      sign_delta: if given, loss differences are replaced by this number with their sign; e.g. sigma, for a gradient of the
        order of one.
      clip_difference: if given, loss differences are clipped to plus or minus this. For the others see `AntitheticSettings` and
        `FullUnrollEstimator`.

    Raises:
      ValueError: settings that are out of range, or a ``sign_delta`` together with a ``clip_difference``.
    """

    sign_delta: float | None = None
    clip_difference: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sign_delta is not None and not self.sign_delta > 0:
            raise ValueError(
                f"sign_delta must be positive, or None for the differences themselves, not {self.sign_delta}."
            )
        if self.clip_difference is not None and not 0 < self.clip_difference < math.inf:
            raise ValueError(
                f"clip_difference must be a positive number, or None for no clipping, not {self.clip_difference}."
            )
        if self.sign_delta is not None and self.clip_difference is not None:
            raise ValueError("sign_delta leaves no difference to be clipped: leave out clip_difference, or sign_delta.")

    @property
    def inner_steps(self) -> int:
        """Inner training steps per estimate, both members of every pair counted, those past a problem's end included.

        With ``same_length`` it is their mean.
        """
        steps = round(self.lengths.mean) if self.same_length else self.lengths.longest
        return 2 * self.num_pairs * steps

    def _gradient(
        self, key: Array, theta: Theta, state: FullState, data: Any, length: Array | None
    ) -> tuple[Theta, Array, Window]:
        key_perturb, key_unroll = jax.random.split(key)
        sigma = _antithetic.sigma_at(self.sigma, state.estimates)
        perturbation = _antithetic.perturb(key_perturb, theta, sigma)
        losses, unroll = self._unroll(key_unroll, _antithetic.antithetic(theta, perturbation), state, data, length)
        return _antithetic.es_gradient(self._difference(losses), perturbation, sigma), losses, unroll

    def _difference(self, losses: Array) -> Array:
        """``L+ - L-``, as it counts."""
        losses = jnp.where(jnp.isfinite(losses), losses, jnp.inf)
        difference = losses[0] - losses[1]
        if self.sign_delta is not None:
            difference = self.sign_delta * jnp.sign(difference)
        if self.clip_difference is not None:
            difference = jnp.clip(difference, -self.clip_difference, self.clip_difference)
        return jnp.where(jnp.isfinite(difference), difference, 0.0)
