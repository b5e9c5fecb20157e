"""Momentum SGD whose learning rate and momentum are learned: the smallest architecture there is, to begin another one from.

::

    m <- b m + (1 - b) g;    p <- p - exp(log_learning_rate) m,    b = sigmoid(momentum_logit)

Source: Polyak, "Some methods of speeding up the convergence of iteration methods", 1964; as a learned optimizer Maclaurin,
Duvenaud, Adams, arXiv 1502.03492.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from celo_core import checks
from celo_core.architectures import _common
from celo_core.kernels import interface
from celo_core.protocols import LearnedOptimizer

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class MomentumSGDConfig:
    """Where theta begins, and what gradients are clipped to: elementwise, to plus or minus ``gradient_clip``."""

    learning_rate: float = 0.1
    momentum: float = 0.9
    gradient_clip: float = 1000.0


class MomentumSGDState(NamedTuple):
    """State: steps taken, int32 (), and momentum, a tree like the parameters."""

    count: Any
    momentum: Any


@dataclasses.dataclass(frozen=True)
class MomentumSGD(LearnedOptimizer):
    """The `celo_core.protocols.LearnedOptimizer`; theta: ``{"rule": {"log_learning_rate": (), "momentum_logit": ()}}``."""

    config: MomentumSGDConfig = MomentumSGDConfig()
    name = "momentum_sgd"
    config_class = MomentumSGDConfig

    def init(self, key: Array) -> dict[str, Any]:
        """The config's values, float32; the key is not used."""
        logit = jnp.log(self.config.momentum / (1.0 - self.config.momentum))
        rule = {"log_learning_rate": jnp.log(self.config.learning_rate), "momentum_logit": logit}
        return {"rule": {name: jnp.asarray(value, jnp.float32) for name, value in rule.items()}}

    @property
    def build(self) -> Callable[..., optax.GradientTransformationExtraArgs]:
        """`momentum_sgd` with this config."""
        return functools.partial(momentum_sgd, config=self.config)


def momentum_sgd(
    theta: Any,
    num_steps: Any,
    *,
    config: MomentumSGDConfig = MomentumSGDConfig(),
    accumulator_dtype: Any = "float32",
    num_stacked_axes: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """The optimizer; arguments and errors as for `celo_core.celo`. The loss may be left out."""
    checks.check_num_steps(num_steps)
    shapes = jax.eval_shape(MomentumSGD(config).init, jax.random.key(0))
    rule = checks.check_theta(theta, shapes, "momentum_sgd")["rule"]
    rate, decay = jnp.exp(rule["log_learning_rate"]), jax.nn.sigmoid(rule["momentum_logit"])

    def init(params: Any, stacks: Any) -> MomentumSGDState:
        return MomentumSGDState(jnp.zeros((), jnp.int32), _common.zeros_like(params, accumulator_dtype))

    def update(updates: Any, state: Any, params: Any, value: Any, layout: Any) -> tuple[Any, Any]:
        def one(gradient: Array, parameter: Array, momentum: tuple[Array]) -> Any:
            g = interface.finite_gradient(gradient, config.gradient_clip)
            new = decay * momentum[0].astype(jnp.float32) + (1.0 - decay) * g
            return interface.cast_finite(rate * new, gradient.dtype), (new.astype(momentum[0].dtype),)

        steps, (momentum,) = _common.map_tensors(one, updates, params, (state.momentum,))
        return steps, MomentumSGDState(optax.safe_increment(state.count), momentum)

    steps = _common.direction("momentum_sgd", init, update, reads_loss=False, num_stacked_axes=num_stacked_axes)
    return _common.descend(steps, lambda _: jnp.ones(()), weight_decay=0.0, mask=None, step_multiplier=1.0)
