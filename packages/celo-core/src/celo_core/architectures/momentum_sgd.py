"""Momentum SGD whose learning rate and momentum are learned: the smallest architecture, to begin one of your own from.

::

    m <- b m + (1 - b) g;    p <- p - exp(log_learning_rate) m,    b = sigmoid(momentum_logit)

Source: Maclaurin, Duvenaud, Adams, "Gradient-based Hyperparameter Optimization through Reversible Learning", arXiv 1502.03492.
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


@dataclasses.dataclass(frozen=True)
class MomentumSGDConfig:
    """Where theta begins, and what gradients are clipped to: elementwise, to plus or minus ``gradient_clip``."""

    learning_rate: float = 0.1
    momentum: float = 0.9
    gradient_clip: float = 1000.0


class MomentumSGDState(NamedTuple):
    """Steps taken, int32 (), and the momentum, a tree like the parameters."""

    count: Any
    momentum: Any


@dataclasses.dataclass(frozen=True)
class MomentumSGD(LearnedOptimizer):
    """The `celo_core.protocols.LearnedOptimizer`; theta: ``{"rule": {"log_learning_rate": (), "momentum_logit": ()}}``."""

    config: MomentumSGDConfig = MomentumSGDConfig()
    name = "momentum_sgd"
    config_class = MomentumSGDConfig

    def init(self, key: jax.Array) -> dict[str, Any]:
        """The config's values, float32; the key is not used."""
        rate, b = jnp.float32(self.config.learning_rate), jnp.float32(self.config.momentum)
        return {"rule": {"log_learning_rate": jnp.log(rate), "momentum_logit": jnp.log(b / (1.0 - b))}}

    @property
    def build(self) -> Callable[..., optax.GradientTransformationExtraArgs]:
        """`momentum_sgd` with this config."""
        return functools.partial(momentum_sgd, config=self.config)


def momentum_sgd(
    theta: Any, num_steps: Any, *, config: MomentumSGDConfig = MomentumSGDConfig(), num_stacked_axes: Any = None
) -> optax.GradientTransformationExtraArgs:
    """The optimizer; arguments and errors as for `celo_core.celo`. The loss is not read."""
    checks.check_num_steps(num_steps)
    rule = checks.check_theta(theta, jax.eval_shape(MomentumSGD().init, jax.random.key(0)), "momentum_sgd")["rule"]

    def init(params: Any, stacks: Any) -> MomentumSGDState:
        return MomentumSGDState(jnp.zeros((), jnp.int32), _common.zeros_like(params, jnp.float32))

    def update(updates: Any, state: Any, params: Any, value: Any, layout: Any) -> tuple[Any, Any]:
        rate, b = jnp.exp(rule["log_learning_rate"]), jax.nn.sigmoid(rule["momentum_logit"])

        def one(g: jax.Array, p: jax.Array, momentum: tuple[jax.Array]) -> Any:
            m = b * momentum[0] + (1.0 - b) * interface.finite_gradient(g, config.gradient_clip)
            return interface.cast_finite(-rate * m, g.dtype), (m,)

        steps, (momentum,) = _common.map_tensors(one, updates, params, (state.momentum,))
        return steps, MomentumSGDState(optax.safe_increment(state.count), momentum)

    return _common.direction("momentum_sgd", init, update, reads_loss=False, num_stacked_axes=num_stacked_axes)
