"""Truncated evolution strategies (ES) with antithetic pairs.

In each window a pair starts from one network, with ``theta +- e``, ``e ~ N(0, sigma^2)``. With L+- the mean loss over the
window, the pair's gradient is ::

    (L+ - L-) / (2 sigma^2) * e

The next window continues from the network that ``theta + e`` has trained.

Bias: estimates the gradient of the smoothed window loss for a fixed initial network: theta's influence on that network is
ignored, which favours short horizons (Wu, Ren, Liao, Grosse, "Understanding short-horizon bias in stochastic
meta-optimization", arXiv 1803.02021). Variance: that of one window, the lowest of the evolution strategies; proportional
to the number of meta-parameters and, once losses are locally linear in theta, independent of sigma.

Source: Metz, Maheswaranathan, Nixon, Freeman, Sohl-Dickstein, "Understanding and correcting pathologies in the training of
learned optimizers", arXiv 1810.10180 (antithetic ES on truncated unrolls).
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
class TruncatedES(AntitheticWindows, type="es"):
    """Truncated ES; a `celo_core.protocols.GradientEstimator`. Fields: see `AntitheticSettings` and `TruncatedEstimator`."""

    def _window(self, key: Array, theta: Theta, state: ProblemState, data: Any) -> tuple[Theta, Window, ProblemState]:
        key_renew, key_perturb, key_steps = jax.random.split(key, 3)
        sigma = _antithetic.sigma_at(self.sigma, state.estimates)
        perturbation = _antithetic.perturb(key_perturb, theta, sigma)
        state = self.problems.renew(key_renew, jax.tree.map(lambda x: x[None], theta), state, None, data)
        both = jax.tree.map(lambda x: jnp.concatenate([x, x]), state.trainee)
        thetas = _antithetic.antithetic(theta, perturbation)
        window, state = self.problems.run(key_steps, thetas, state._replace(trainee=both), self.truncation, data)
        losses = window.mean_losses()
        gradient = _antithetic.es_gradient(losses[0] - losses[1], perturbation, sigma)
        return gradient, window, state._replace(trainee=jax.tree.map(lambda x: x[:1], state.trainee))
