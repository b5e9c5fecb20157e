"""Perturbations of theta and antithetic pairs: what the evolution strategies share."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from celo_core.estimators._problems import TruncatedEstimator
from celo_core.protocols import Theta

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class DecayingSigma:
    """An exponential decay from ``first`` to ``last``: by the same factor in every estimate.

    Attributes:
      first: standard deviation in the first estimate.
      last: standard deviation after ``estimates`` estimates; the decay goes on at the same rate after that.
      estimates: number of estimates; ``None`` for as many as a phase of meta-training has iterations.
    """

    first: float
    last: float
    estimates: int | None = None

    def __post_init__(self) -> None:
        if not (self.first > 0 and self.last > 0 and (self.estimates is None or self.estimates >= 1)):
            raise ValueError(f"sigma must be positive, and decay in at least 1 estimate, not {self}.")

    def __call__(self, estimates: Any) -> Any:
        """Sigma after a number of estimates, float32 ()."""
        if self.estimates is None:
            raise ValueError("DecayingSigma has no number of estimates over which to decay: pass estimates=.")
        return optax.exponential_decay(self.first, self.estimates, self.last / self.first)(estimates)


Sigma = float | DecayingSigma | Callable[[Any], Any]
"""Standard deviation of perturbations: a number, or a schedule, i.e. a function of the number of estimates so far."""


def check_sigma(sigma: Sigma) -> None:
    """Raises ValueError unless sigma is positive (of a schedule, the first value is checked)."""
    if isinstance(sigma, DecayingSigma):
        return  # checked in its constructor
    first = float(sigma(0)) if callable(sigma) else sigma
    if not first > 0:
        raise ValueError(f"sigma, the standard deviation of the perturbations, must be > 0, not {first}.")


def sigma_at(sigma: Sigma, estimates: Any) -> Any:
    """Sigma after a number of estimates."""
    return jnp.asarray(sigma(estimates), jnp.float32) if callable(sigma) else sigma


def perturb(key: Array, theta: Theta, sigma: Any) -> Theta:
    """Independent normal numbers of standard deviation ``sigma``, like theta."""
    treedef: Any
    leaves, treedef = jax.tree.flatten(theta)
    keys = jax.random.split(key, len(leaves))
    return treedef.unflatten(
        [sigma * jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
    )


def antithetic(theta: Theta, perturbation: Theta) -> Theta:
    """``theta + e`` and ``theta - e``, stacked along a leading axis."""
    return jax.tree.map(lambda t, e: jnp.stack([t + e, t - e]), theta, perturbation)


def es_gradient(loss_difference: Array, perturbation: Theta, sigma: Any) -> Theta:
    """``(L+ - L-) / (2 sigma^2) * e``."""
    return jax.tree.map(lambda e: loss_difference / (2 * sigma**2) * e, perturbation)


@dataclasses.dataclass(frozen=True)
class AntitheticSettings:
    """Fields of evolution strategies in addition to those of every estimator; a mix-in, to be listed before the base class.

    Attributes:
      num_pairs: antithetic pairs, each a problem of its own.
      sigma: standard deviation of the perturbations, or a schedule ``sigma(estimates)``.
    """

    _: dataclasses.KW_ONLY
    num_pairs: int = 32
    sigma: Sigma = 0.01

    _count = "num_pairs"

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[misc]
        check_sigma(self.sigma)

    @property
    def num_problems(self) -> int:
        """Problems at once: the pairs."""
        return self.num_pairs


@dataclasses.dataclass(frozen=True)
class AntitheticWindows(AntitheticSettings, TruncatedEstimator):
    """Evolution strategies on truncated unrolls; fields: see the two base classes."""

    @property
    def inner_steps(self) -> int:
        """Inner training steps per estimate, both members of every pair counted."""
        return 2 * self.num_pairs * self.truncation
