"""Toy problems and a toy learned optimizer whose meta-gradients are known in closed form."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from celo_core.protocols import FamilyDefaults, LearnedOptimizer

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Quadratic(FamilyDefaults):
    """``loss = mean(p^2) / 2``, from ``p = 1``, with optional noise in the gradient; a `celo_core.TaskFamily`.

    Attributes:
      size: number of parameters.
      noise: standard deviation of a random linear term ``mean(noise * p)``, drawn per batch.
      broken: fraction of tasks whose loss is NaN.
    """

    size: int = 4
    noise: float = 0.0
    broken: float = 0.0
    name = "quadratic"

    def load(self) -> dict[str, Array]:
        """No data."""
        return {}

    def sample(self, key: Array) -> Array:
        """Whether the task is broken, bool ()."""
        return jax.random.bernoulli(key, self.broken)

    def init(self, key: Array, config: Array) -> tuple[Array, None]:
        """Ones (size,)."""
        del key, config
        return jnp.ones((self.size,), jnp.float32), None

    def batch(self, key: Array, config: Array, data: Any) -> Array:
        """The linear term (size,)."""
        del config, data
        return self.noise * jax.random.normal(key, (self.size,), jnp.float32)

    def loss(self, params: Array, model_state: None, key: Array, config: Array, batch: Array) -> tuple[Array, None]:
        """The loss, NaN for a broken task."""
        del key
        loss = jnp.mean(0.5 * params**2 + batch * params)
        return jnp.where(config, jnp.nan, loss), model_state

    def normalizer(self, loss: Array) -> Array:
        """Clips to [-10, 10]; non-finite counts as 10."""
        return jnp.clip(jnp.nan_to_num(loss, nan=10.0, posinf=10.0, neginf=10.0), -10.0, 10.0)


@dataclasses.dataclass(frozen=True)
class LearnedSGD(LearnedOptimizer):
    """Gradient descent whose log learning rate is learned; a `celo_core.LearnedOptimizer`.

    theta: ``{"rule": {"log_learning_rate": ()}, "unused": {"bias": (2,)}}``. On `Quadratic` of size n a step multiplies the
    parameters by ``1 - exp(log_learning_rate) / n``.
    """

    initial: float = -1.0
    name = "learned_sgd"
    config = None

    def init(self, key: Array) -> dict[str, Any]:
        """The initial log learning rate; the key is not used."""
        del key
        return {
            "rule": {"log_learning_rate": jnp.asarray(self.initial, jnp.float32)},
            "unused": {"bias": jnp.ones((2,), jnp.float32)},
        }

    def build(self, theta: Any, num_steps: Any, **kwargs: Any) -> optax.GradientTransformationExtraArgs:
        """Gradient descent."""
        del num_steps, kwargs
        learning_rate = jnp.exp(theta["rule"]["log_learning_rate"])
        return optax.with_extra_args_support(
            optax.stateless(lambda g, _: jax.tree.map(lambda x: -learning_rate * x, g))
        )


@dataclasses.dataclass(frozen=True)
class Clock(FamilyDefaults):
    """Parameters ``(clock, distance)`` and a loss, the distance, linear in theta under `LearnedWalk`; a `celo_core.TaskFamily`.

    Attributes:
      held_out_offset: added to the loss on held-out batches.
    """

    held_out_offset: float = 0.0
    name = "clock"
    has_held_out = True

    def load(self) -> dict[str, Array]:
        """No data."""
        return {}

    def sample(self, key: Array) -> Array:
        """A number that identifies the task, float32 ()."""
        return jax.random.uniform(key, dtype=jnp.float32)

    def init(self, key: Array, config: Array) -> tuple[Array, None]:
        """Zeros (2,)."""
        del key, config
        return jnp.zeros((2,), jnp.float32), None

    def batch(self, key: Array, config: Array, data: Any) -> Array:
        """Zero, float32 ()."""
        del key, config, data
        return jnp.zeros((), jnp.float32)

    def held_out_batch(self, key: Array, config: Array, data: Any) -> Array:
        """The offset, float32 ()."""
        del key, config, data
        return jnp.asarray(self.held_out_offset, jnp.float32)

    def loss(self, params: Array, model_state: None, key: Array, config: Array, batch: Array) -> tuple[Array, None]:
        """The distance plus the batch's offset."""
        del key, config
        return params[1] + batch, model_state

    def normalizer(self, loss: Array) -> Array:
        """The loss as it is."""
        return loss


@dataclasses.dataclass(frozen=True)
class LearnedWalk(LearnedOptimizer):
    """Adds ``(1, pace)`` to the parameters of a `Clock` at each step; a `celo_core.LearnedOptimizer`.

    theta: ``{"pace": ()}``. After t steps the parameters are ``(t, t * pace)``.
    """

    name = "learned_walk"
    config = None

    def init(self, key: Array) -> dict[str, Any]:
        """A pace of 1; the key is not used."""
        del key
        return {"pace": jnp.ones((), jnp.float32)}

    def build(self, theta: Any, num_steps: Any, **kwargs: Any) -> optax.GradientTransformationExtraArgs:
        """The walk."""
        del num_steps, kwargs
        return optax.with_extra_args_support(
            optax.stateless(lambda g, _: jnp.stack([jnp.ones((), jnp.float32), theta["pace"]]))
        )
