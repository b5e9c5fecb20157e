"""Full-unroll evolution strategies (ES) with antithetic pairs.

A pair trains one problem from its initialisation to its end with ``theta + e`` and ``theta - e``, ``e ~ N(0, sigma^2)``. With
L+- the mean or the last loss, the pair's gradient is ::

    (L+ - L-) / (2 sigma^2) * e

or, with ``sign_delta``, ``sign(L+ - L-) * sign_delta / (2 sigma^2) * e``.

Bias: none for the gradient of the smoothed meta-loss. With the sign there is one: every problem votes for a direction with
the same weight, whatever the size of its difference, and the length of the result has no meaning. Variance: as that of
noise-reuse ES over a whole trajectory; one estimate takes a whole unroll, during which theta does not change.

Source: Salimans, Ho, Chen, Sidor, Sutskever, "Evolution Strategies as a Scalable Alternative to Reinforcement Learning",
arXiv 1703.03864; for learned optimizers Metz et al., "VeLO", arXiv 2211.09760, where the sign and the last loss are used.
"""

import dataclasses
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
        order of one. For the others see `AntitheticSettings` and `FullUnrollEstimator`.
    """

    sign_delta: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sign_delta is not None and not self.sign_delta > 0:
            raise ValueError(
                f"sign_delta must be positive, or None for the differences themselves, not {self.sign_delta}."
            )

    @property
    def inner_steps(self) -> int:
        """Inner training steps per estimate, both members of every pair counted, those past a problem's end included."""
        return 2 * self.num_pairs * self.lengths.longest

    def _gradient(self, key: Array, theta: Theta, state: FullState, data: Any) -> tuple[Theta, Array, Window]:
        key_perturb, key_unroll = jax.random.split(key)
        sigma = _antithetic.sigma_at(self.sigma, state.estimates)
        perturbation = _antithetic.perturb(key_perturb, theta, sigma)
        losses, unroll = self._unroll(key_unroll, _antithetic.antithetic(theta, perturbation), state, data)
        difference = losses[0] - losses[1]
        if self.sign_delta is not None:
            difference = self.sign_delta * jnp.sign(difference)
        return _antithetic.es_gradient(difference, perturbation, sigma), losses, unroll
