"""Perturbations of theta and antithetic pairs: what the evolution strategies share."""

import dataclasses
from collections.abc import Callable
from typing import Any, Self

import jax
import jax.numpy as jnp
import optax

from celo_core.estimators._base import SET_BY_BIND
from celo_core.estimators._problems import TruncatedEstimator
from celo_core.protocols import LearnedOptimizer, TaskFamily, Theta

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class ExponentialDecay:
    """A schedule from ``first`` to ``last``, by the same factor in every estimate; constant after ``iterations``.

    Attributes:
      first: value at the beginning.
      last: value at the end.
      iterations: estimates until then; `Estimator.bind` sets those of the phase.
    """

    first: float
    last: float
    iterations: int = dataclasses.field(default=1, metadata=SET_BY_BIND)

    def __post_init__(self) -> None:
        if not (self.first > 0 and self.last > 0):
            raise ValueError(
                f"an exponential decay needs a first and a last value > 0, not {self.first} and {self.last}."
            )

    def __call__(self, estimates: Any) -> Any:
        """Value after a number of estimates."""
        decay = optax.exponential_decay(self.first, self.iterations, self.last / self.first)
        return decay(estimates)


Sigma = float | ExponentialDecay | Callable[[Any], Any]
"""Standard deviation of perturbations: a number, or a schedule of the number of estimates done, as Optax's are."""


def check_sigma(sigma: Sigma) -> None:
    """Raises ValueError unless sigma is positive (of a schedule, the first value is looked at)."""
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
    """What evolution strategies are given besides the fields of every estimator; to stand before its base among the bases.

    Attributes:
      num_pairs: antithetic pairs, each a problem of its own.
      sigma: standard deviation of the perturbations, or a schedule ``sigma(estimates)``.
    """

    _: dataclasses.KW_ONLY
    num_pairs: int = dataclasses.field(default=32, metadata=SET_BY_BIND)
    sigma: Sigma = 0.01

    _count = "num_pairs"

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[misc]
        check_sigma(self.sigma)

    @property
    def num_problems(self) -> int:
        """Problems at once: the pairs."""
        return self.num_pairs

    def bind(self, architecture: LearnedOptimizer, family: TaskFamily, num_pairs: int, iterations: int) -> Self:
        """See `celo_core.estimators.Estimator`."""
        sigma = self.sigma
        if isinstance(sigma, ExponentialDecay):
            sigma = dataclasses.replace(sigma, iterations=iterations)
        changes: dict[str, Any] = {"num_pairs": num_pairs, "sigma": sigma}
        return dataclasses.replace(self, architecture=architecture, family=family, **changes)


@dataclasses.dataclass(frozen=True)
class AntitheticWindows(AntitheticSettings, TruncatedEstimator):
    """Evolution strategies on truncated unrolls; fields: see the two classes that it is made of."""

    @property
    def inner_steps(self) -> int:
        """Inner training steps per estimate, both members of every pair counted."""
        return 2 * self.num_pairs * self.truncation
