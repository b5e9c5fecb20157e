"""Celo-Adam: Adam's direction under Celo's learned scheduler.

::

    step = eta * 1e-3 * mhat / (1e-8 + sqrt(vhat + 1e-10))

with bias-corrected moments of decays 0.9 and 0.999 and the scheduler's multiplier eta.

Reference: Celo, arXiv 2501.12670, section 5 (ablation of the update rule).
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from celo_core import accumulators, checks, kernels
from celo_core.architectures import _common
from celo_core.kernels import interface
from celo_core.schedulers import Cosine, Horizon, Linear, Loss, Scheduler, SchedulerConfig, Time
from celo_core.schedulers.statistics import Averages

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class CeloAdamConfig:
    """All that is needed besides theta to rebuild a Celo-Adam optimizer.

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
    scheduler: SchedulerConfig = SchedulerConfig()


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

    @property
    def reads_task_embedding(self) -> bool:
        """Whether ``build`` needs a task embedding."""
        return self.config.scheduler.reads_task_embedding

    def init(self, key: Array) -> dict[str, Any]:
        """Random meta-parameters, float32."""
        return {"scheduler": Scheduler(self.config.scheduler).init(key)}

    @property
    def build(self) -> Callable[..., optax.GradientTransformationExtraArgs]:
        """`celo_adam` with this config."""
        return functools.partial(celo_adam, config=self.config)


LINEAR = CeloAdamConfig(
    scheduler=SchedulerConfig(inputs=(Time(), Loss(), Horizon()), network=Linear(), prior=Cosine(peak=0.1))
)
"""A linear scheduler on a cosine decay that also reads the length of training: the config of "celo_adam" in celo-zoo."""

CONFIGS: Mapping[str, CeloAdamConfig] = MappingProxyType({"the paper's": CeloAdamConfig(), "LINEAR": LINEAR})
"""The configs that `celo_adam` recognises by the shapes of theta."""


@functools.cache
def _theta_shapes(config: CeloAdamConfig) -> Any:
    return jax.eval_shape(CeloAdam(config).init, jax.random.key(0))


def config_of(theta: Any) -> CeloAdamConfig:
    """The one of `CONFIGS` whose theta has these names and shapes; raises ValueError if there is none."""
    return _common.config_that_fits(CONFIGS, theta, _theta_shapes, "celo_adam")


def scale_by_celo_adam(
    theta: Any,
    num_steps: Any,
    *,
    config: CeloAdamConfig | None = None,
    accumulator_dtype: Any = "float32",
    task_embedding: Any = None,
    num_stacked_axes: Any = None,
    implementation: str = "auto",
) -> optax.GradientTransformationExtraArgs:
    """Rescales gradients to Celo-Adam's step (to be subtracted from the parameters).

    Arguments, treatment of non-finite numbers and errors are those of `celo_core.scale_by_celo`. Steps are elementwise, so
    ``num_stacked_axes`` has no effect, and there is one ``implementation``.
    """
    config = config_of(theta) if config is None else config
    arrays = checks.check_theta(theta, _theta_shapes(config), "celo_adam")
    checks.check_choice("implementation", implementation, kernels.IMPLEMENTATIONS)
    parts = (theta.get("scheduler", {}), arrays["scheduler"])
    scheduling = _common.Scheduling(config.scheduler, *parts, num_steps, task_embedding)

    def init(params: Any, stacks: Any) -> ScaleByCeloAdamState:
        del stacks
        return ScaleByCeloAdamState(
            count=jnp.zeros((), jnp.int32),
            momentum=_common.zeros_like(params, accumulator_dtype),
            second_moment=_common.zeros_like(params, accumulator_dtype),
            scheduler=scheduling.init(),
        )

    def update(
        updates: Any, state: ScaleByCeloAdamState, params: Any, value: Any, layout: Any
    ) -> tuple[Any, ScaleByCeloAdamState]:
        del layout
        averages = Averages((state.momentum,), state.second_moment, (config.b1,), config.b2, state.count)
        seen = lambda: _common.observed(updates, params, averages, config.gradient_clip)
        controls, scheduler_state = scheduling.step(state.scheduler, state.count, value, seen)
        count = optax.safe_increment(state.count)
        k = count.astype(jnp.float32)
        # 1 - b^k without the cancellation at small k.
        correction1, correction2 = (-jnp.expm1(k * jnp.log(jnp.float32(b))) for b in (config.b1, config.b2))

        numbers = itertools.count()

        def one(g: Array, p: Array, momentum: tuple[Array], second_moment: tuple[Array]) -> Any:
            del p  # the step does not depend on it; `params` is required so that all architectures are called alike
            (m,), (v,) = momentum, second_moment
            gradient = interface.finite_gradient(g, config.gradient_clip)
            new_m = accumulators.decay_average(m, gradient, config.b1)
            new_v = accumulators.decay_average(v, jnp.square(gradient), config.b2)
            direction = (new_m / correction1) / (config.eps + jnp.sqrt(new_v / correction2 + config.eps_root))
            step = controls.multiplier * config.step_scale * direction
            first, second = (kernels.step_seed(state.count, next(numbers)) for _ in range(2))
            kept = accumulators.store(new_m, m.dtype, first), accumulators.store(new_v, v.dtype, second)
            return interface.cast_finite(step, g.dtype), kept[:1], kept[1:]

        steps, (momentum,), (second_moment,) = _common.map_tensors(
            one, updates, params, (state.momentum,), (state.second_moment,)
        )
        scheduler_state = scheduling.observe(
            scheduler_state, updates, params, state.momentum, steps, config.gradient_clip
        )
        return steps, ScaleByCeloAdamState(count, momentum, second_moment, scheduler_state)

    loss = {"reads_loss": scheduling.reads_loss, "has_prior": scheduling.has_prior}
    return _common.direction("celo_adam", init, update, **loss, num_stacked_axes=num_stacked_axes)


def celo_adam(
    theta: Any,
    num_steps: Any,
    *,
    weight_decay: Any = 0.0,
    mask: Any | Callable[[Any], Any] | None = None,
    step_multiplier: Any = 1.0,
    config: CeloAdamConfig | None = None,
    accumulator_dtype: Any = "float32",
    task_embedding: Any = None,
    num_stacked_axes: Any = None,
    implementation: str = "auto",
) -> optax.GradientTransformationExtraArgs:
    """The Celo-Adam optimizer; arguments as for `celo_core.celo`."""
    config = config_of(theta) if config is None else config
    direction = scale_by_celo_adam(
        theta,
        num_steps,
        config=config,
        accumulator_dtype=accumulator_dtype,
        task_embedding=task_embedding,
        num_stacked_axes=num_stacked_axes,
        implementation=implementation,
    )
    part = theta.get("scheduler", {})
    decay = _common.Scheduling(config.scheduler, part, part, num_steps, task_embedding).decay
    return _common.descend(direction, decay, weight_decay=weight_decay, mask=mask, step_multiplier=step_multiplier)
