"""Noise-reuse evolution strategies, also called ES-Single: one perturbation for the whole trajectory of a problem.

An antithetic pair draws ``e ~ N(0, sigma^2)`` when its problem begins and goes through all windows with ``theta +- e``.
With L+- the mean loss over a window, the pair's gradient is ::

    (L+ - L-) / (2 sigma^2) * e

Bias: none for the sum over windows of the gradients of the (smoothed) window losses, as PES; changes of theta between
windows add a bias that vanishes with the meta learning rate. Variance: of one window's gradient at most that of PES
(with ``g_v`` the influence of window v on this one, ``|sum g_v|^2`` in place of ``w sum |g_v|^2`` in window w: much less where
early windows have lost their influence, the same where all have the same). The windows of a trajectory share their noise, so
averaging over a trajectory reduces the variance less than with PES.

Sources: Li, Swersky, Zemel, Metz, "Noise-Reuse in Online Evolution Strategies", arXiv 2304.12180; Vicol,
"Low-Variance Gradient Estimation in Unrolled Computation Graphs with ES-Single", arXiv 2304.11153.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from celo_core.estimators import _antithetic
from celo_core.estimators._antithetic import AntitheticWindows
from celo_core.estimators._problems import ProblemState, Window
from celo_core.protocols import Theta

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class NoiseReuseES(AntitheticWindows, type="noise_reuse_es"):
    """Noise-reuse ES; a `celo_core.protocols.GradientEstimator`.

    Fields: see `AntitheticSettings` and `TruncatedEstimator`. A problem keeps the perturbation, in units of sigma, that it began
    with, so that a schedule of sigma takes effect at once.
    """

    members = 2

    def _initial_memory(self, key: Array, theta: Theta) -> Theta:
        return _antithetic.perturb(key, theta, 1.0)

    def _window(self, key: Array, theta: Theta, state: ProblemState, data: Any) -> tuple[Theta, Window, ProblemState]:
        key_renew, key_perturb, key_steps = jax.random.split(key, 3)
        sigma = _antithetic.sigma_at(self.sigma, state.estimates)
        ended = state.step >= state.length
        drawn = self._initial_memory(key_perturb, theta)
        unit = jax.tree.map(lambda new, old: jnp.where(ended, new, old), drawn, state.memory)
        perturbation = jax.tree.map(lambda x: sigma * x, unit)
        thetas = _antithetic.antithetic(theta, perturbation)
        state = self.problems.renew(key_renew, thetas, state, unit, data)
        window, state = self.problems.run(key_steps, thetas, state, self.truncation, data)
        losses = window.mean_losses()
        return _antithetic.es_gradient(losses[0] - losses[1], perturbation, sigma), window, state
