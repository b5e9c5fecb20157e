"""Learned optimizers that meta-training is compared with or looked at through: Adam, gradient descent, and a recorder of steps."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from celo_core import LearnedOptimizer
from celo_core.meta_training.wrapping import WrappedOptimizer

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Adam(LearnedOptimizer):
    """Adam as a `celo_core.LearnedOptimizer`; theta: ``{"learning_rate": ()}``."""

    name = "adam"
    config = None

    def init(self, key: Array) -> dict[str, Any]:
        """The usual learning rate, 1e-3."""
        del key
        return {"learning_rate": jnp.float32(1e-3)}

    def build(self, theta: Any, num_steps: Any, **kwargs: Any) -> optax.GradientTransformationExtraArgs:
        """`optax.adam` at the learning rate of theta."""
        del num_steps, kwargs
        return optax.with_extra_args_support(optax.adam(theta["learning_rate"]))


class RecordedState(NamedTuple):
    """State of an optimizer of `Recorded`.

    Attributes:
      inner: of the optimizer itself.
      taken: steps so far, int32 ().
      sizes: norm of each update over the norm of the parameters, float32 (steps,), 0 where a step is yet to be done.
    """

    inner: Any
    taken: Array
    sizes: Array


@dataclasses.dataclass(frozen=True)
class Recorded(WrappedOptimizer):
    """A learned optimizer that keeps the sizes of its steps in its state.

    Attributes:
      architecture: the learned optimizer.
      steps: those to be kept.
    """

    steps: int

    def init(self, key: Array) -> dict[str, Any]:
        """Of the learned optimizer."""
        return self.architecture.init(key)

    def build(self, theta: Any, num_steps: Any, **kwargs: Any) -> optax.GradientTransformationExtraArgs:
        """The learned optimizer, with a `RecordedState`."""
        inner = self.architecture.build(theta, num_steps, **kwargs)

        def init(params: Any) -> RecordedState:
            return RecordedState(inner.init(params), jnp.zeros((), jnp.int32), jnp.zeros(self.steps, jnp.float32))

        def update(updates: Any, state: RecordedState, params: Any = None, **extra: Any) -> tuple[Any, RecordedState]:
            updates, new = inner.update(updates, state.inner, params, **extra)
            size = optax.tree.norm(updates) / optax.tree.norm(params)
            return updates, RecordedState(new, state.taken + 1, state.sizes.at[state.taken].set(size))

        return optax.GradientTransformationExtraArgs(init, update)


@dataclasses.dataclass(frozen=True)
class GradientDescent(LearnedOptimizer):
    """Gradient descent whose learning rate is learned: the least that an update rule can cost."""

    name = "gradient_descent"
    config = None

    def init(self, key: Array) -> dict[str, Any]:
        """A learning rate of 0.007."""
        del key
        return {"log_learning_rate": jnp.float32(-5.0)}

    def build(self, theta: Any, num_steps: Any, **kwargs: Any) -> optax.GradientTransformationExtraArgs:
        """`optax.sgd` at the learning rate of theta."""
        del num_steps, kwargs
        return optax.with_extra_args_support(optax.sgd(jnp.exp(theta["log_learning_rate"])))
