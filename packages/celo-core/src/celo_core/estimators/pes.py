"""Persistent evolution strategies (PES) with antithetic pairs.

The unroll of an inner problem is cut into windows. In window w a pair of unrolls, each from its own network,
continues with ``theta +- e_w``, ``e_w ~ N(0, sigma^2)``. With L+- the mean loss over the window, the pair's gradient is ::

    (L+ - L-) / (2 sigma^2) * (e_1 + ... + e_w)

Bias: none for the sum over windows of the gradients of the (smoothed) window losses with respect to a theta that is
shared by all windows; changes of theta between windows add a bias that vanishes with the meta learning rate. Variance: grows
with the number of windows since the problem began, since every earlier perturbation adds its noise to the window's.

Source: Vicol, Metz, Sohl-Dickstein, "Unbiased Gradient Estimation in Unrolled Computation Graphs with Persistent
Evolution Strategies", arXiv 2112.13835.
"""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp

from celo_core.estimators import _antithetic
from celo_core.estimators._antithetic import AntitheticWindows
from celo_core.estimators._problems import ProblemState, Window
from celo_core.protocols import Theta

Array = jax.Array


def pair_gradient(
    loss_difference: Array, mask: Array, accumulator: Theta, perturbation: Theta, sigma: Any
) -> tuple[Theta, Theta]:
    """A pair's PES gradient over one window.

    Args:
      loss_difference: positive minus negative loss, (steps,).
      mask: steps that count, (steps,), bool.
      accumulator: sum of the perturbations of earlier windows of the problem.
      perturbation: this window's perturbation.
      sigma: its standard deviation.

    Returns:
      ``(gradient, accumulator)``: trees like theta; the new accumulator holds this window's perturbation as well.

    Raises:
      AssertionError: the steps, or the trees, differ in shape.
    """
    chex.assert_rank(loss_difference, 1)
    chex.assert_equal_shape([loss_difference, mask])
    chex.assert_trees_all_equal_shapes(accumulator, perturbation)
    weight = mask / jnp.maximum(jnp.sum(mask), 1) / (2 * sigma**2)
    slope = jnp.sum(loss_difference * weight)
    total = jax.tree.map(jnp.add, accumulator, perturbation)
    return jax.tree.map(lambda t: slope * t, total), total


@dataclasses.dataclass(frozen=True)
class TruncatedPES(AntitheticWindows, type="pes"):
    """PES over truncated unrolls; a `celo_core.protocols.GradientEstimator`.

    Fields: see `AntitheticSettings` and `TruncatedEstimator`. A schedule of sigma may change it within a problem's trajectory: the
    sum of earlier perturbations is then rescaled, so that each is weighted with its own ``1 / sigma^2``.
    """

    members = 2

    def _initial_memory(self, key: Array, theta: Theta) -> Theta:
        return jax.tree.map(jnp.zeros_like, theta)

    def _window(self, key: Array, theta: Theta, state: ProblemState, data: Any) -> tuple[Theta, Window, ProblemState]:
        key_renew, key_perturb, key_steps = jax.random.split(key, 3)
        sigma = _antithetic.sigma_at(self.sigma, state.estimates)
        perturbation = _antithetic.perturb(key_perturb, theta, sigma)
        thetas = _antithetic.antithetic(theta, perturbation)
        state = self.problems.renew(key_renew, thetas, state, self._initial_memory(key, theta), data)
        window, state = self.problems.run(key_steps, thetas, state, self.truncation, data)

        accumulator = state.memory
        if callable(self.sigma):
            factor = jnp.square(sigma / self.sigma(jnp.maximum(state.estimates - 1, 0)))
            accumulator = jax.tree.map(lambda x: factor * x, accumulator)
        gradient, accumulator = pair_gradient(
            window.losses[:, 0] - window.losses[:, 1],
            window.mask,
            accumulator,
            perturbation,
            sigma,
        )
        return gradient, window, state._replace(memory=accumulator)
