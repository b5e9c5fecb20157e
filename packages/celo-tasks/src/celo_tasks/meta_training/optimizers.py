"""A meta-optimizer for few meta-parameters; and learned optimizers that meta-training is compared with or looked at through."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from celo_core import LearnedOptimizer
from celo_core.meta_training.wrapping import WrappedOptimizer

Array = jax.Array


class NormalizedState(NamedTuple):
    """State of `normalized_steps`.

    Attributes:
      taken: steps so far, int32 ().
      mean: decaying mean of the gradients, like theta.
      square: decaying mean of the mean square of the gradients' entries, float32 ().
    """

    taken: Array
    mean: Any
    square: Array


def normalized_steps(
    iterations: int, learning_rate: optax.Schedule | float = 0.05, b1: float = 0.9, b2: float = 0.98
) -> optax.GradientTransformation:
    """Steps along the mean gradient over a second moment that all entries of theta share; a meta-optimizer for a recipe.

    ``-learning_rate * m / sqrt(mean(v))``, with Adam's moments m and v, without their bias. Evolution strategies with few pairs
    know the direction of a gradient better than the size of each of its entries, by which Adam divides: an entry that hardly
    matters would move as far as the others, by noise. The size of the losses does not matter.

    Args:
      iterations: of the phase; not used.
      learning_rate: root mean square of a step over theta's entries, where the gradients agree; a number or a schedule.
      b1: decay of the mean.
      b2: decay of the mean square.

    Source: Adam (Kingma and Ba, arXiv 1412.6980); one second moment for many parameters is of Adam-mini (Zhang et al., arXiv
    2406.16793).
    """
    del iterations

    def init(params: Any) -> NormalizedState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return NormalizedState(jnp.zeros((), jnp.int32), zeros, jnp.zeros((), jnp.float32))

    def update(updates: Any, state: NormalizedState, params: Any = None) -> tuple[Any, NormalizedState]:
        del params
        taken = state.taken + 1
        size = sum(x.size for x in jax.tree.leaves(updates))
        square = optax.tree.norm(updates, squared=True) / size
        mean = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mean, updates)
        new = NormalizedState(taken, mean, (b2 * state.square + (1 - b2) * square).astype(jnp.float32))
        rate = learning_rate(state.taken) if callable(learning_rate) else learning_rate
        step = -rate / (1 - b1**taken) / (jnp.sqrt(new.square / (1 - b2**taken)) + 1e-12)
        return jax.tree.map(lambda m: (step * m).astype(m.dtype), mean), new

    return optax.GradientTransformation(init, update)


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
