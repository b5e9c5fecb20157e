"""Gradient descent with momentum whose learning rate and momentum are learned: the smallest example of an architecture.

``m <- b m + g``, ``p <- p - a m`` with ``a = exp(log_learning_rate)`` and ``b = sigmoid(momentum)``; constant in training.
"""

import dataclasses
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from celo_core import accumulators, checks, kernels
from celo_core.architectures import _common
from celo_core.protocols import LearnedOptimizer

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class MomentumSGDConfig:
    """Initial values of theta, and the elementwise bound on gradients."""

    learning_rate: float = 0.01
    momentum: float = 0.9
    gradient_clip: float = 1000.0


class MomentumSGDState(NamedTuple):
    """Steps taken, int32 (), and a tree like the parameters."""

    count: Any
    momentum: Any


@dataclasses.dataclass(frozen=True)
class MomentumSGD(LearnedOptimizer):
    """The architecture; theta: ``{"update_rule": {"log_learning_rate": (), "momentum": ()}}``."""

    config: MomentumSGDConfig = MomentumSGDConfig()
    name = "momentum_sgd"

    def init(self, key: Array) -> dict[str, Any]:
        """The config's values with normal noise of standard deviation 0.1, in theta's units."""
        noise = 0.1 * jax.random.normal(key, (2,), jnp.float32)
        rate, logit = math.log(self.config.learning_rate), math.log(1 / (1 / self.config.momentum - 1))
        return {"update_rule": {"log_learning_rate": rate + noise[0], "momentum": logit + noise[1]}}

    @_common.whole
    def build(
        self, theta: Any, num_steps: Any, *, accumulator_dtype: Any = "float32", num_stacked_axes: Any = None
    ) -> optax.GradientTransformationExtraArgs:
        """The whole optimizer; the options are those of `celo_core.celo`. ``num_steps`` has no effect on the steps."""
        checks.check_num_steps(num_steps)
        rule = checks.check_theta(theta, jax.eval_shape(self.init, jax.random.key(0)), self.name)["update_rule"]

        def init(params: Any, stacks: Any) -> MomentumSGDState:
            return MomentumSGDState(jnp.zeros((), jnp.int32), _common.zeros_like(params, accumulator_dtype))

        def update(updates: Any, state: MomentumSGDState, params: Any, value: Any, layout: Any) -> Any:
            rate, decay = jnp.exp(rule["log_learning_rate"]), jax.nn.sigmoid(rule["momentum"])
            seeds = (kernels.step_seed(state.count, number) for number in itertools.count())

            def one(gradient: Array, parameter: Array, momentum: tuple[Array]) -> Any:
                new = decay * momentum[0] + kernels.interface.finite_gradient(gradient, self.config.gradient_clip)
                kept = accumulators.store(new, momentum[0].dtype, next(seeds))
                return kernels.interface.cast_finite(rate * new, gradient.dtype), (kept,)

            steps, (momentum,) = _common.map_tensors(one, updates, params, (state.momentum,))
            return steps, MomentumSGDState(optax.safe_increment(state.count), momentum)

        return _common.direction(self.name, init, update, reads_loss=False, num_stacked_axes=num_stacked_axes)
