"""Celo-Adam: Adam's direction under Celo's learned scheduler.

::

    step = eta * 1e-3 * mhat / (1e-8 + sqrt(vhat + 1e-10))

with bias-corrected moments of decays 0.9 and 0.999 and the scheduler's multiplier eta.

Reference: Celo, arXiv 2501.12670, section 5 (ablation of the update rule).
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from celo_core import accumulators, checks, kernels
from celo_core.architectures import _common
from celo_core.kernels import interface
from celo_core.schedulers import LSTMScheduler, LSTMSchedulerConfig
from celo_core.schedulers.embedding import check_task_embedding

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class CeloAdamConfig:
    """All that is needed, beside theta, to rebuild a Celo-Adam optimizer.

    Attributes:
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added to the root of the second moment.
      eps_root: added to the second moment under the root.
      gradient_clip: gradients are clipped elementwise to plus or minus this.
      step_scale: factor on every step.
      scheduler: the scheduler.
    """

    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    eps_root: float = 1e-10
    gradient_clip: float = 1000.0
    step_scale: float = 1e-3
    scheduler: LSTMSchedulerConfig = LSTMSchedulerConfig()


class ScaleByCeloAdamState(NamedTuple):
    """State of `scale_by_celo_adam`.

    Attributes:
      count: steps taken, int32 ().
      momentum: a tree like the parameters, accumulator_dtype.
      second_moment: a tree like the parameters, accumulator_dtype.
      scheduler: state of the scheduler.
    """

    count: Any
    momentum: Any
    second_moment: Any
    scheduler: Any


@dataclasses.dataclass(frozen=True)
class CeloAdam:
    """The `celo_core.protocols.LearnedOptimizer` of Celo-Adam; theta: ``{"scheduler": ...}``."""

    config: CeloAdamConfig = CeloAdamConfig()
    name = "celo_adam"
    config_class = CeloAdamConfig

    def init(self, key: Array) -> dict[str, Any]:
        """Random meta-parameters, float32."""
        return {"scheduler": LSTMScheduler(self.config.scheduler).init(key)}

    def build(
        self,
        theta: Any,
        num_steps: Any,
        *,
        weight_decay: Any = 0.0,
        mask: Any = None,
        step_multiplier: Any = 1.0,
        accumulator_dtype: Any = "float32",
        task_embedding: Any = None,
        num_stacked_axes: Any = None,
        implementation: str = "auto",
    ) -> optax.GradientTransformationExtraArgs:
        """The whole optimizer; see `celo_adam`."""
        return celo_adam(
            theta,
            num_steps,
            config=self.config,
            weight_decay=weight_decay,
            mask=mask,
            step_multiplier=step_multiplier,
            accumulator_dtype=accumulator_dtype,
            task_embedding=task_embedding,
            num_stacked_axes=num_stacked_axes,
            implementation=implementation,
        )


@functools.cache
def _theta_shapes(config: CeloAdamConfig) -> Any:
    return jax.eval_shape(CeloAdam(config).init, jax.random.key(0))


def scale_by_celo_adam(
    theta: Any,
    num_steps: Any,
    *,
    config: CeloAdamConfig = CeloAdamConfig(),
    accumulator_dtype: Any = "float32",
    task_embedding: Any = None,
    num_stacked_axes: Any = None,
    implementation: str = "auto",
) -> optax.GradientTransformationExtraArgs:
    """Rescales gradients to Celo-Adam's step (to be subtracted from the parameters).

    Arguments, treatment of non-finite numbers and errors are those of `celo_core.scale_by_celo`. Steps are elementwise, so that
    ``num_stacked_axes`` changes nothing, and there is one ``implementation``.
    """
    arrays = checks.check_theta(theta, _theta_shapes(config), "celo_adam")
    scheduler = LSTMScheduler(config.scheduler)
    reads_loss = scheduler.reads_loss(theta["scheduler"])
    theta = arrays  # inside a trace they are traced, and whether the loss is read could not be told of them
    checks.check_choice("implementation", implementation, kernels.IMPLEMENTATIONS)
    checks.check_num_steps(num_steps)
    embedding = check_task_embedding(task_embedding, config.scheduler.task_embedding)

    def init(params: Any, stacks: Any) -> ScaleByCeloAdamState:
        del stacks
        return ScaleByCeloAdamState(
            count=jnp.zeros((), jnp.int32),
            momentum=_common.zeros_like(params, accumulator_dtype),
            second_moment=_common.zeros_like(params, accumulator_dtype),
            scheduler=scheduler.init_state(theta["scheduler"]),
        )

    def update(
        updates: Any, state: ScaleByCeloAdamState, params: Any, value: Any, layout: Any
    ) -> tuple[Any, ScaleByCeloAdamState]:
        del layout
        multiplier, scheduler_state = scheduler.step(
            theta["scheduler"], state.scheduler, state.count, value, num_steps, embedding
        )
        count = optax.safe_increment(state.count)
        k = count.astype(jnp.float32)
        # 1 - b^k without the cancellation at small k.
        correction1, correction2 = (-jnp.expm1(k * jnp.log(jnp.float32(b))) for b in (config.b1, config.b2))

        numbers = itertools.count()

        def one(g: Array, p: Array, momentum: tuple[Array], second_moment: tuple[Array]) -> Any:
            del p  # the step does not depend on it; `params` is asked for so that all architectures are called alike
            (m,), (v,) = momentum, second_moment
            gradient = interface.finite_gradient(g, config.gradient_clip)
            new_m = accumulators.decay_average(m, gradient, config.b1)
            new_v = accumulators.decay_average(v, jnp.square(gradient), config.b2)
            direction = (new_m / correction1) / (config.eps + jnp.sqrt(new_v / correction2 + config.eps_root))
            step = multiplier * config.step_scale * direction
            first, second = (kernels.step_seed(state.count, next(numbers)) for _ in range(2))
            kept = accumulators.store(new_m, m.dtype, first), accumulators.store(new_v, v.dtype, second)
            return interface.cast_finite(step, g.dtype), kept[:1], kept[1:]

        steps, (momentum,), (second_moment,) = _common.map_tensors(
            one, updates, params, (state.momentum,), (state.second_moment,)
        )
        return steps, ScaleByCeloAdamState(count, momentum, second_moment, scheduler_state)

    return _common.direction("celo_adam", init, update, reads_loss=reads_loss, num_stacked_axes=num_stacked_axes)


def celo_adam(
    theta: Any,
    num_steps: Any,
    *,
    weight_decay: Any = 0.0,
    mask: Any | Callable[[Any], Any] | None = None,
    step_multiplier: Any = 1.0,
    config: CeloAdamConfig = CeloAdamConfig(),
    accumulator_dtype: Any = "float32",
    task_embedding: Any = None,
    num_stacked_axes: Any = None,
    implementation: str = "auto",
) -> optax.GradientTransformationExtraArgs:
    """The Celo-Adam optimizer; arguments as for `celo_core.celo`."""
    direction = scale_by_celo_adam(
        theta,
        num_steps,
        config=config,
        accumulator_dtype=accumulator_dtype,
        task_embedding=task_embedding,
        num_stacked_axes=num_stacked_axes,
        implementation=implementation,
    )
    decay = _common.decay_of(config.scheduler, num_steps)
    return _common.descend(direction, decay, weight_decay=weight_decay, mask=mask, step_multiplier=step_multiplier)
