"""The mean of several estimators: meta-training on families whose networks differ in shape, or with several estimators."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from celo_core.protocols import GradientEstimator, LearnedOptimizer, Theta

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class MeanOfEstimators:
    """A `celo_core.protocols.GradientEstimator` whose gradient is the weighted mean of others', for one theta.

    Bias and variance are those of the parts: the mean is unbiased for the weighted mean of what they estimate. Families whose
    networks have the same shapes are better combined into one family that draws one of them per problem (as celo-tasks' image
    families do), which compiles to one program.

    Attributes:
      estimators: the parts. Their ``data`` is a sequence of the same length.
      weights: of the parts, positive; they are divided by their sum. Equal by default.
    """

    estimators: Sequence[GradientEstimator]
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if not self.estimators:
            raise ValueError("a mean of estimators needs at least one estimator.")
        if len({id(one.architecture) for one in self.estimators}) > 1 and any(
            one.architecture != self.estimators[0].architecture for one in self.estimators
        ):
            raise ValueError("the estimators of a mean must share one architecture, whose theta the gradient is for.")
        if self.weights is not None and (len(self.weights) != len(self.estimators) or not min(self.weights) > 0):
            raise ValueError(f"weights must be positive, one per estimator, not {self.weights}.")

    @property
    def architecture(self) -> LearnedOptimizer:
        """The architecture that all share."""
        return self.estimators[0].architecture

    @property
    def num_problems(self) -> int:
        """The greatest common divisor of the parts' numbers of problems."""
        return math.gcd(*(one.num_problems for one in self.estimators))

    @property
    def inner_steps(self) -> int:
        """Inner training steps per estimate of all parts."""
        return sum(one.inner_steps for one in self.estimators)

    def with_truncation(self, steps: int) -> "MeanOfEstimators":
        """The mean of the parts with windows of ``steps`` steps."""
        return dataclasses.replace(self, estimators=[one.with_truncation(steps) for one in self.estimators])

    def check(self, data: Any) -> None:
        """Raises ValueError if a part's family has no finite scalar loss, or the data are not one for each part."""
        if len(data) != len(self.estimators):
            raise ValueError(f"a mean of {len(self.estimators)} estimators needs as many data, not {len(data)}.")
        for one, its_data in zip(self.estimators, data, strict=True):
            one.check(its_data)

    def init(self, key: Array, theta: Theta) -> tuple[Any, ...]:
        """The parts' states."""
        return tuple(one.init(jax.random.fold_in(key, i), theta) for i, one in enumerate(self.estimators))

    def estimate(
        self, key: Array, theta: Theta, state: tuple[Any, ...], data: Sequence[Any]
    ) -> tuple[tuple[Theta, Array, dict[str, Array]], tuple[Any, ...]]:
        """One estimate of every part; in ``info`` the parts' means, and the largest of what ends in ``_max``."""
        results, states = [], []
        for i, (one, its_state, its_data) in enumerate(zip(self.estimators, state, data, strict=True)):
            result, new = one.estimate(jax.random.fold_in(key, i), theta, its_state, its_data)
            results.append(result)
            states.append(new)
        weights = [1.0] * len(results) if self.weights is None else self.weights
        shares = [weight / sum(weights) for weight in weights]
        mean = lambda *parts: sum(share * part for share, part in zip(shares, parts, strict=True))
        gradients, losses, infos = zip(*results, strict=True)
        info = {
            name: jnp.max(jnp.stack([one[name] for one in infos]))
            if name.endswith("_max")
            else mean(*[one[name] for one in infos])
            for name in infos[0]
        }
        return (jax.tree.map(mean, *gradients), mean(*losses), info), tuple(states)
