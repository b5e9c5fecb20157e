"""Celo: directions whose steps add up, relative to each tensor, times a scheduler's multiplier.

For every tensor, with directions d_i (see `celo_core.directions`), parameters p and the scheduler's multiplier eta (one scalar
per step; 1 without a scheduler)::

    step = eta * sum_i d_i * sqrt(mean p^2 + floor^2 + 1e-9) * 1e-3
    p <- p - step

In the paper the one direction is that of a network, ``d = MLP(x)[0] * exp(1e-3 MLP(x)[1])`` of features x (see
`celo_core.features`), and the floor is 0. `ORTHOGONAL` and `ADAPTIVE` are other configs of the same parts.

Reference: Moudgil et al., "Celo: Training Versatile Learned Optimizers on a Compute Diet", arXiv 2501.12670, section 3.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from celo_core import accumulators, checks, kernels
from celo_core.accumulators import Moments
from celo_core.architectures import _common
from celo_core.directions import MLP, Adam, Direction, Orthogonal
from celo_core.directions.orthogonal import matrix_shape
from celo_core.kernels import interface
from celo_core.schedulers import (
    Cosine,
    GainRatio,
    Horizon,
    LinearIntegral,
    LossTrend,
    MomentumAlignment,
    RelativeStep,
    Scheduler,
    SchedulerConfig,
    Time,
)
from celo_core.schedulers.statistics import Averages

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class ParameterScale:
    """Steps are relative to each tensor's root mean square.

    Attributes:
      zero_init: sets the scale of a tensor that is all zeros at initialisation: this times the smallest root mean square of
        the other tensors, added in quadrature to its own. If all tensors are zeros, it is this times ``1 / sqrt(n)``, n the
        longest side of any of them as a vector or matrix: the smallest root mean square that they would have if each had been
        drawn with a variance of 1 over its inputs. With 0, as published, such a tensor has almost no scale, so that biases, and
        output layers that begin at zero, need hundreds of steps to grow.
    """

    zero_init: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.zero_init < math.inf:
            raise ValueError(f"zero_init must be at least 0, not {self.zero_init}.")


@dataclasses.dataclass(frozen=True)
class CeloConfig:
    """All that is needed besides theta to rebuild a Celo optimizer; the defaults are the paper's.

    Attributes:
      moments: running moments of the gradients.
      directions: whose steps are added up, each type once.
      scale: what steps are relative to; ``None`` for absolute steps.
      step_scale: factor on every step.
      scheduler: the scheduler, or ``None`` for a multiplier of 1 (as in the first phase of meta-training).

    Raises:
      ValueError: no direction, or two of a type.
    """

    moments: Moments = Moments()
    directions: tuple[Direction, ...] = (MLP(),)
    scale: ParameterScale | None = ParameterScale()
    step_scale: float = 1e-3
    scheduler: SchedulerConfig | None = SchedulerConfig()

    def __post_init__(self) -> None:
        kinds = [one.type for one in self.directions]
        if not kinds or len(set(kinds)) < len(kinds):
            raise ValueError(f"there must be directions, each type once, not {', '.join(kinds) or 'none'}.")

    @property
    def rule(self) -> kernels.UpdateRule:
        """The part of the config that the fused update needs."""
        split = lambda is_elementwise: tuple(d for d in self.directions if d.is_elementwise == is_elementwise)
        return kernels.UpdateRule(self.moments, split(True), split(False), self.scale is not None, self.step_scale)  # type: ignore[arg-type]


ORTHOGONAL = CeloConfig(
    directions=(MLP(), Adam(), Orthogonal()),
    scale=ParameterScale(zero_init=1.0),
    scheduler=SchedulerConfig(inputs=(), network=None, prior=Cosine(peak=1.0, exponent=0.7, shortest=500.0)),
)
"""The network's direction, Adam's and an orthogonalised momentum, under a cosine decay."""

ADAPTIVE = dataclasses.replace(
    ORTHOGONAL,
    scheduler=SchedulerConfig(
        inputs=(Time(), Horizon(), GainRatio(noise=0.05), LossTrend(), RelativeStep(), MomentumAlignment()),
        network=LinearIntegral(rate=5.0, limit=0.75),
        prior=Cosine(peak=1.0, exponent=0.7, shortest=500.0),
        bounds=(1 / 16, 2.0),
        noise=0.04,
    ),
)
"""`ORTHOGONAL` with a cosine decay that a linear network adapts to the task: the config of "celo" in celo-zoo."""

CONFIGS: Mapping[str, CeloConfig] = MappingProxyType(
    {"the paper's": CeloConfig(), "ORTHOGONAL": ORTHOGONAL, "ADAPTIVE": ADAPTIVE}
)
"""The configs that `celo` recognises by the shapes of theta."""


class ScaleByCeloState(NamedTuple):
    """State of `scale_by_celo`.

    Attributes:
      count: steps taken, int32 ().
      momentum: per decay a tree like the parameters, accumulator_dtype.
      second_moment: a tree like the parameters, accumulator_dtype.
      factored: a `celo_core.accumulators.FactoredMoment` whose ``row`` and ``column`` are, per decay, a tree like the
        parameters, accumulator_dtype.
      scheduler: state of the scheduler, or ``None`` without one.
      scale_floor: added in quadrature to each tensor's root mean square, float32 (number of tensors,), in the tree's order,
        with one entry for each tensor of a stack, from the parameters that ``init`` got; ``None`` where ``zero_init`` is 0.
      directions: for each direction per tensor its state, a tree like the parameters with ``None`` or a tree of arrays like the
        parameter in place of each parameter.
    """

    count: Any
    momentum: Any
    second_moment: Any
    factored: Any
    scheduler: Any
    scale_floor: Any = None
    directions: Any = ()


@dataclasses.dataclass(frozen=True)
class Celo:
    """The `celo_core.protocols.LearnedOptimizer` of Celo.

    theta: ``{"update_rule": {"mlp": ..., ...}, "scheduler": ...}``: of each direction by its type, and of the scheduler if
    it has meta-parameters.
    """

    config: CeloConfig = CeloConfig()
    name = "celo"
    config_class = CeloConfig

    @property
    def reads_task_embedding(self) -> bool:
        """Whether ``build`` needs a task embedding."""
        return self.config.scheduler is not None and self.config.scheduler.reads_task_embedding

    def init(self, key: Array) -> dict[str, Any]:
        """Random meta-parameters, float32."""
        key_rule, key_scheduler = jax.random.split(key)
        # The first direction gets the key itself, so that its initial values do not depend on directions added after it.
        keys = [key_rule, *(jax.random.fold_in(key_rule, n) for n in range(1, len(self.config.directions)))]
        rule = {d.type: d.init(k, self.config.moments) for d, k in zip(self.config.directions, keys, strict=True)}
        theta: dict[str, Any] = {"update_rule": rule}
        if self.config.scheduler is not None and (scheduler := Scheduler(self.config.scheduler).init(key_scheduler)):
            theta["scheduler"] = scheduler
        return theta

    @property
    def build(self) -> Callable[..., optax.GradientTransformationExtraArgs]:
        """`celo` with this config."""
        return functools.partial(celo, config=self.config)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _scale_floor(params: Any, stacks: tuple[tuple[int, ...] | None, ...], factor: float) -> Array:
    """`ScaleByCeloState.scale_floor`: 0 for tensors that are not all zeros. Compiled: operation by operation takes longer."""
    scales, sides = [], [1]
    for p, stack in zip(jax.tree.leaves(params), stacks, strict=True):
        own = p.shape[len(stack or ()) :]
        sides.append(max(matrix_shape(own) or (math.prod(own),)))
        # The mean of no elements would be NaN.
        axes, count = tuple(range(len(stack or ()), p.ndim)), max(math.prod(own), 1)
        sums = jnp.sum(jnp.square(interface.finite_parameter(p)), axis=axes)
        scales.append(jnp.sqrt(sums / count).reshape(-1))
    if not scales or sum(x.size for x in scales) == 0:
        # An array even without parameters, since Optax finds the leaves that are like the parameters by a state of none, and
        # not an empty array, which some writers of checkpoints refuse.
        return jnp.zeros((1,), jnp.float32)
    scale = jnp.nan_to_num(jnp.concatenate(scales), posinf=LARGEST, neginf=0.0)
    zero = scale == 0
    smallest = jnp.min(jnp.where(zero, LARGEST, scale))
    smallest = jnp.where(jnp.all(zero), np.float32(1.0 / math.sqrt(max(sides))), smallest)
    return jnp.where(zero, factor * smallest, np.float32(0.0))


LARGEST = np.finfo(np.float32).max
"""Used in place of infinity, for which JAX raises an error under ``jax_debug_infs``."""


@functools.cache
def _theta_shapes(config: CeloConfig) -> Any:
    return jax.eval_shape(Celo(config).init, jax.random.key(0))


def config_of(theta: Any) -> CeloConfig:
    """The one of `CONFIGS` whose theta has these names and shapes; raises ValueError if there is none."""
    return _common.config_that_fits(CONFIGS, theta, _theta_shapes, "celo")


def scale_by_celo(
    theta: Any,
    num_steps: Any,
    *,
    config: CeloConfig | None = None,
    accumulator_dtype: Any = "float32",
    task_embedding: Any = None,
    num_stacked_axes: Any = None,
    implementation: str = "auto",
) -> optax.GradientTransformationExtraArgs:
    """Rescales gradients to Celo's step (to be subtracted from the parameters).

    A NaN in a gradient counts as zero and an infinity as the clipping bound; a non-finite loss is limited as
    `celo_core.schedulers.loss_features.update_loss_buffer` says: the state stays finite. A gradient of ``None`` leaves its
    tensor and that tensor's moments as they are.

    Arithmetic is in float32, whatever the dtypes of parameters and gradients (float64 among them) and whether or not
    ``jax_enable_x64`` is set; a step has the dtype of its gradient.

    Args:
      theta: meta-parameters, a nested dict of float arrays (see `Celo`). It may be traced, so that it can be vmapped or
        differentiated.
      num_steps: planned number of updates, at least 1; may be traced. Inside `optax.MultiSteps` that is the number of
        updates, not of gradients.
      config: the config that theta belongs to. ``None`` for the one of `CONFIGS` that theta fits.
      accumulator_dtype: dtype in which moments are kept; arithmetic is in float32. bfloat16 halves the state and is rounded
        to stochastically (see `celo_core.accumulators.store`); float16 underflows.
      task_embedding: what `celo_core.task_embedding` returned, for a config whose scheduler reads it; others ignore it.
      num_stacked_axes: how many leading axes of each leaf are a stack of tensors, such as the layers of a scan over layers:
        ``None`` for none, a number for all leaves, a tree of numbers like the parameters or a prefix of one, or a function
        from the parameters to such a tree. Each tensor of a stack gets the step that it would get as a leaf of its own.
      implementation: ``"xla"``, which runs everywhere; ``"pallas"``, kernels for CUDA GPUs, which falls back to XLA with a
        warning that says why; or ``"auto"``: Pallas where it is faster.

    Returns:
      An `optax.GradientTransformationExtraArgs` whose ``update`` needs ``params`` and the keyword ``value``, the loss, a real
      scalar. If theta and config do not read the loss (no network in the scheduler, or a linear one whose weights of the loss
      are all 0), ``value`` may be left out, and is ignored.

    Raises:
      ValueError: theta does not fit the config, or any of `CONFIGS`; num_steps is less than 1, a task embedding is missing or
        has another shape, or an implementation is unknown.
    """
    config = config_of(theta) if config is None else config
    arrays = checks.check_theta(theta, _theta_shapes(config), "celo")
    checks.check_choice("implementation", implementation, kernels.IMPLEMENTATIONS)
    scheduling = _scheduling(config, theta, arrays, num_steps, task_embedding)
    rule, weights = config.rule, arrays["update_rule"]

    def init(params: Any, stacks: Sequence[tuple[int, ...] | None]) -> ScaleByCeloState:
        zeros = lambda: _common.zeros_like(params, accumulator_dtype)
        factor = 0.0 if config.scale is None else config.scale.zero_init
        return ScaleByCeloState(
            count=jnp.zeros((), jnp.int32),
            momentum=tuple(zeros() for _ in config.moments.momentum_decays),
            second_moment=zeros(),
            factored=accumulators.init_factored_trees(
                params, len(config.moments.factored_decays), accumulator_dtype, stacks
            ),
            scheduler=scheduling.init(),
            scale_floor=_scale_floor(params, tuple(stacks), factor) if factor else None,
            directions=tuple(_init_states(one, params, stacks, accumulator_dtype) for one in rule.per_tensor),
        )

    def update(
        updates: Any, state: ScaleByCeloState, params: Any, value: Any, layout: _common.Layout
    ) -> tuple[Any, ScaleByCeloState]:
        seen = lambda: _common.observed(updates, params, averages_of(config, state), config.moments.gradient_clip)
        controls, scheduler_state = scheduling.step(state.scheduler, state.count, value, seen)
        multiplier, own = _split(controls, state.scale_floor)
        prepared = lambda parts: tuple(d.prepare(weights[d.type], config.moments, state.count) for d in parts)
        steps, new, states = kernels.update_tree(
            rule,
            kernels.Weights(prepared(rule.elementwise), prepared(rule.per_tensor)),
            multiplier,
            updates,
            params,
            kernels.Accumulators(state.momentum, state.second_moment, *state.factored),
            state.count,
            implementation,
            states=state.directions,
            own=own,
            stacks=layout.stacks,
            shardings=layout.shardings,
        )
        clip = config.moments.gradient_clip
        scheduler_state = scheduling.observe(
            scheduler_state, updates, params, state.momentum[0], steps, clip, layout.stacks
        )
        count = optax.safe_increment(state.count)
        factored = accumulators.FactoredMoment(new.rows, new.columns)
        kept = (scheduler_state, state.scale_floor, states)
        return steps, ScaleByCeloState(count, new.momenta, new.second_moment, factored, *kept)

    loss = {"reads_loss": scheduling.reads_loss, "has_prior": scheduling.has_prior}
    return _common.direction("celo", init, update, **loss, num_stacked_axes=num_stacked_axes)


def averages_of(config: CeloConfig, state: ScaleByCeloState) -> Averages:
    """The moments of a state, as statistics read them."""
    moments = config.moments
    decays = moments.momentum_decays, moments.second_moment_decay
    return Averages(state.momentum, state.second_moment, *decays, state.count)


def _scheduling(config: CeloConfig, theta: Any, arrays: Any, num_steps: Any, task_embedding: Any) -> _common.Scheduling:
    part = lambda tree: tree.get("scheduler", {})
    return _common.Scheduling(config.scheduler, part(theta), part(arrays), num_steps, task_embedding)


def _split(controls: Any, scale_floor: Array | None) -> tuple[Array | None, dict[str, Any]]:
    """The multiplier that all tensors share, if there is one, and the per-tensor values."""
    own: dict[str, Any] = {} if scale_floor is None else {"scale_floor": scale_floor}
    if controls is None:
        return None, own
    own |= controls.directions
    if jnp.ndim(controls.multiplier) == 0:
        return controls.multiplier, own
    return None, own | {"multiplier": controls.multiplier}


def _init_states(one: Any, params: Any, stacks: Sequence[tuple[int, ...] | None], dtype: Any) -> Any:
    """State of a direction per tensor: a tree like the parameters, ``None`` where it does not apply."""
    leaves, treedef = jax.tree.flatten(params)
    applies = lambda p, stack: one.applies(p.shape[len(stack or ()) :])
    made = [one.init_state(p, dtype) if applies(p, s) else None for p, s in zip(leaves, stacks, strict=True)]
    return jax.tree.unflatten(treedef, made)


def celo(
    theta: Any,
    num_steps: Any,
    *,
    weight_decay: Any = 0.0,
    mask: Any | Callable[[Any], Any] | None = None,
    step_multiplier: Any = 1.0,
    config: CeloConfig | None = None,
    accumulator_dtype: Any = "float32",
    task_embedding: Any = None,
    num_stacked_axes: Any = None,
    implementation: str = "auto",
) -> optax.GradientTransformationExtraArgs:
    """The Celo optimizer: no learning rate, only the planned number of steps.

    With the weights of celo-zoo, steps decay to 0 at ``num_steps``, and the parameters do not change after that. To continue,
    build the optimizer anew with a larger ``num_steps`` and keep the state. With other weights, steps after ``num_steps`` are
    those of the scheduler, which was hardly trained on them.

    Args:
      theta: meta-parameters, e.g. the first of ``theta, config = celo_zoo.load("celo")``.
      num_steps: planned number of updates, at least 1; may be traced. Inside `optax.MultiSteps` that is the number of
        updates, not of gradients.
      weight_decay: fraction of each parameter that is subtracted per step (what AdamW calls learning rate times weight
        decay) at the start of the schedule; it follows the decay of the scheduler's prior, and ends with it.
      mask: which leaves decay: a tree of booleans or a function of the parameters, as in `optax.adamw`.
      step_multiplier: factor on each step, weight decay included: a number, or a function of the steps taken, such as Optax's
        schedules. 1 is the learned step size; smaller numbers are for unstable trainings and for fine-tuning.
      config: the config that theta belongs to. ``None`` for the one of `CONFIGS` that theta fits, which is right for theta of
        celo-zoo; pass that of your own theta, since constants other than the defaults cannot be inferred from its shapes.
      accumulator_dtype: dtype in which moments are kept.
      task_embedding: what `celo_core.task_embedding` returned, for a config whose scheduler reads it; others ignore it.
      num_stacked_axes: see `scale_by_celo`.
      implementation: see `scale_by_celo`.

    Returns:
      An optimizer whose ``update(grads, state, params, value=loss)`` returns updates for `optax.apply_updates`.

    Raises:
      ValueError: as `scale_by_celo`, or step_multiplier is negative.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from celo_core import Celo, celo
      >>> theta = Celo().init(jax.random.key(0))  # random; for trained weights see below
      >>> tx = celo(theta, num_steps=100)
      >>> params = {"w": jnp.ones((3, 2))}
      >>> state = tx.init(params)
      >>> loss, grads = jax.value_and_grad(lambda p: jnp.sum(p["w"] ** 2))(params)
      >>> updates, state = tx.update(grads, state, params, value=loss)
      >>> params = optax.apply_updates(params, updates)

      With the weights of celo-zoo::

        theta, config = celo_zoo.load("celo")
        tx = celo_core.celo(theta, num_steps=100)
    """
    config = config_of(theta) if config is None else config
    direction = scale_by_celo(
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
