r"""Celo: a per-parameter MLP update rule and a learned scheduler.

For every tensor, with features :math:`x` (see `celo_core.features`), parameters :math:`p` and the scheduler's
multiplier :math:`\eta` (one scalar per step; 1 without a scheduler)::

    d, s = MLP(x)
    step = eta * (d * exp(1e-3 s) + a + o) * sqrt(mean p^2 + floor^2 + 1e-9) * 1e-3
    p <- p - step

The floor, a and o are 0 in the paper; see `CeloConfig.zero_init_scale`, `CeloConfig.adam` and `CeloConfig.orthogonal`.

Reference: Moudgil et al., "Celo: Training Versatile Learned Optimizers on a Compute Diet", arXiv 2501.12670, section 3.
The third output of the published MLP is unused, so this one has two outputs.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from celo_core import accumulators, checks, kernels
from celo_core import features as features_lib
from celo_core.architectures import _common
from celo_core.directions import orthogonal
from celo_core.kernels import interface
from celo_core.networks import PerParameterMLP
from celo_core.schedulers import LSTMScheduler, LSTMSchedulerConfig
from celo_core.schedulers.embedding import check_task_embedding

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class CeloConfig:
    """All that is needed, beside theta, to rebuild a Celo optimizer.

    Attributes:
      features: feature groups in the order of the first layer's kernel rows.
      hidden_sizes: widths of the MLP's hidden layers.
      momentum_decays: decays of the momenta.
      second_moment_decay: decay of the second moment.
      factored_decays: decays of the factored second moments; as many as momentum decays.
      gradient_clip: gradients are clipped elementwise to plus or minus this.
      step_scale: factor on every step.
      magnitude_scale: factor on the log-magnitude output.
      scheduler: the scheduler, or ``None`` for a multiplier of 1 (as in the first phase of meta-training).
      zero_init_scale: what a tensor that is all zeros at initialisation has for a scale: this times the smallest root mean
        square of the other tensors, added in quadrature to its own. Where all are zeros it is this times ``1 / sqrt(n)``, n
        the longest side of any of them as a vector or matrix: the smallest root mean square that they would have if each
        had been drawn with a variance of 1 over its inputs. 0, as published, leaves it next to none, so that biases, and
        output layers that begin at zero, need hundreds of steps to grow.
      adam: whether Adam's direction is added to the network's: ``a = sum_k 10 w_k m_k / sqrt(v)``, bias-corrected, with
        one more meta-parameter for each momentum. Every feature is divided by its root mean square over the tensor, so that
        the network alone cannot take smaller steps where the gradient is mostly noise.
      orthogonal: whether matrices have an orthogonalised momentum added (see `celo_core.directions.orthogonal`):
        ``o = 10 (u_0 + u_1 r) sqrt(max(m, n)) orthogonalize(c_0 g + sum_k c_k m_k)``, with bias-corrected momenta and r
        the root mean square of ``m_0 / sqrt(v)``: how sure the gradient's signs are. All of u and c are meta-parameters.
    """

    features: tuple[str, ...] = features_lib.CELO_FEATURES
    hidden_sizes: tuple[int, ...] = (4, 4)
    momentum_decays: tuple[float, ...] = (0.9, 0.99, 0.999)
    second_moment_decay: float = 0.999
    factored_decays: tuple[float, ...] = (0.9, 0.99, 0.999)
    gradient_clip: float = 1000.0
    step_scale: float = 1e-3
    magnitude_scale: float = 1e-3
    scheduler: LSTMSchedulerConfig | None = LSTMSchedulerConfig()
    zero_init_scale: float = 0.0
    adam: bool = False
    orthogonal: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.zero_init_scale < math.inf:
            raise ValueError(f"zero_init_scale must be at least 0, not {self.zero_init_scale}.")
        if unknown := sorted(set(self.features) - set(features_lib.FEATURES)):
            raise ValueError(f"unknown features {unknown}: choose from {', '.join(features_lib.FEATURES)}.")
        if len(self.momentum_decays) != len(self.factored_decays):
            raise ValueError(
                "momentum_decays and factored_decays must have the same length: they are combined pairwise."
            )

    @property
    def num_features(self) -> int:
        """Number of inputs of the MLP."""
        return features_lib.num_features(self.features, len(self.momentum_decays))

    @property
    def rule(self) -> kernels.UpdateRule:
        """The part of it that the fused update needs."""
        names = [field.name for field in dataclasses.fields(kernels.UpdateRule)]
        return kernels.UpdateRule(**{name: getattr(self, name) for name in names})


class ScaleByCeloState(NamedTuple):
    """State of `scale_by_celo`.

    Attributes:
      count: steps taken, int32 ().
      momentum: per decay a tree like the parameters, accumulator_dtype.
      second_moment: a tree like the parameters, accumulator_dtype.
      factored: a `celo_core.accumulators.FactoredMoment` whose ``row`` and ``column`` are, per decay, a tree like the
        parameters, accumulator_dtype.
      scheduler: state of the scheduler, or ``None`` without one.
      scale_floor: what is added in quadrature to each tensor's root mean square, float32 (number of tensors,), in the tree's
        order, each of a stack counted, from the parameters that ``init`` got; ``None`` where the config's
        ``zero_init_scale`` is 0, or there are no tensors.
    """

    count: Any
    momentum: Any
    second_moment: Any
    factored: Any
    scheduler: Any
    scale_floor: Any = None


@dataclasses.dataclass(frozen=True)
class Celo:
    """The `celo_core.protocols.LearnedOptimizer` of Celo.

    theta: ``{"update_rule": {"hidden_0", "hidden_1", "output"}, "scheduler": ...}``, without ``"scheduler"`` where the
    config has none, and with ``"adam"`` and ``"orthogonal"`` in the update rule where the config says so.
    """

    config: CeloConfig = CeloConfig()
    name = "celo"
    config_class = CeloConfig

    def init(self, key: Array) -> dict[str, Any]:
        """Random meta-parameters, float32."""
        key_rule, key_scheduler = jax.random.split(key)
        variables = _mlp(self.config).init(key_rule, jnp.zeros((self.config.num_features,)))
        theta: dict[str, Any] = {"update_rule": dict(variables["params"])}
        if self.config.adam:
            # Adam, with steps of some 3 % of the parameters, which the network's are small beside at first.
            first = [[3.0], *[[0.0]] * (len(self.config.momentum_decays) - 1)]
            theta["update_rule"]["adam"] = {"kernel": jnp.array(first, jnp.float32)}
        if self.config.orthogonal:
            # Nesterov's momentum of the first decay, and steps of 1 to 3 % of the parameters.
            momentum = [0.1, 0.9, *[0.0] * (len(self.config.momentum_decays) - 1)]
            theta["update_rule"]["orthogonal"] = {
                "momentum": jnp.array(momentum, jnp.float32),
                "length": jnp.array([1.0, 2.0], jnp.float32),
            }
        if self.config.scheduler is not None:
            theta["scheduler"] = LSTMScheduler(self.config.scheduler).init(key_scheduler)
        return theta

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
        """The whole optimizer; see `celo`."""
        return celo(
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


def _mlp(config: CeloConfig) -> PerParameterMLP:
    return PerParameterMLP(hidden_sizes=config.hidden_sizes, num_outputs=2)


DIRECTION_SCALE = 10.0
"""Factor on the weights of the directions beside the network's, so that a perturbation that suits the network's suits them."""


def _correction(decay: float, count: Array) -> Array:
    """What a running mean that began at 0 is to be divided by, after ``count`` steps and one more."""
    steps = count.astype(jnp.float32) + 1.0
    return -jnp.expm1(steps * math.log(decay)) if decay > 0 else jnp.ones_like(steps)


def _weights(config: CeloConfig, weights: Any, count: Array) -> Any:
    """What the fused update needs of the meta-parameters; Adam's directions with their factor and the bias corrections."""
    weights = {name: part for name, part in weights.items() if name != "orthogonal"}
    if not config.adam:
        return weights
    root = jnp.sqrt(_correction(config.second_moment_decay, count))
    factors = jnp.stack([DIRECTION_SCALE * root / _correction(decay, count) for decay in config.momentum_decays])
    return {**weights, "adam": {"kernel": weights["adam"]["kernel"] * factors[:, None]}}


def _addition(config: CeloConfig, weights: Any, multiplier: Array | None, count: Array) -> orthogonal.Addition:
    """What is added to steps along orthogonalised momenta; see `CeloConfig.orthogonal`."""
    corrections = [_correction(decay, count) for decay in config.momentum_decays]
    return orthogonal.Addition(
        shares=weights["momentum"] / jnp.stack([jnp.ones_like(corrections[0]), *corrections]),
        root=jnp.sqrt(_correction(config.second_moment_decay, count)) / corrections[0],
        length=DIRECTION_SCALE * config.step_scale * (1.0 if multiplier is None else multiplier) * weights["length"],
    )


@functools.partial(jax.jit, static_argnums=(1, 2))
def _scale_floor(params: Any, stacks: tuple[tuple[int, ...] | None, ...], factor: float) -> Array | None:
    """`ScaleByCeloState.scale_floor`: 0 for tensors that are not all zeros. Compiled: operation by operation takes longer."""
    scales, sides = [], [1]
    for p, stack in zip(jax.tree.leaves(params), stacks, strict=True):
        own = p.shape[len(stack or ()) :]
        sides.append(max(orthogonal.matrix_shape(own) or (math.prod(own),)))
        # Of no elements the mean would be NaN.
        axes, count = tuple(range(len(stack or ()), p.ndim)), max(math.prod(own), 1)
        sums = jnp.sum(jnp.square(interface.finite_parameter(p)), axis=axes)
        scales.append(jnp.sqrt(sums / count).reshape(-1))
    if not scales or sum(x.size for x in scales) == 0:
        return None
    scale = jnp.nan_to_num(jnp.concatenate(scales), posinf=LARGEST, neginf=0.0)
    zero = scale == 0
    smallest = jnp.min(jnp.where(zero, LARGEST, scale))
    smallest = jnp.where(jnp.all(zero), np.float32(1.0 / math.sqrt(max(sides))), smallest)
    return jnp.where(zero, factor * smallest, np.float32(0.0))


LARGEST = np.finfo(np.float32).max
"""Takes the place of an infinity, which some programs have JAX refuse."""


@functools.cache
def _theta_shapes(config: CeloConfig) -> Any:
    return jax.eval_shape(Celo(config).init, jax.random.key(0))


def scale_by_celo(
    theta: Any,
    num_steps: Any,
    *,
    config: CeloConfig = CeloConfig(),
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
      config: the architecture's configuration.
      accumulator_dtype: dtype in which moments are kept; arithmetic is in float32. bfloat16 halves the state and is rounded
        to stochastically (see `celo_core.accumulators.store`); float16 underflows.
      task_embedding: what `celo_core.task_embedding` returned, for a config whose scheduler reads it; others ignore it.
      num_stacked_axes: how many leading axes of each leaf are a stack of tensors, as those that a scan over layers makes:
        ``None`` for none, a number for all leaves, a tree of numbers like the parameters or a prefix of one, or a function
        from the parameters to such a tree. Each tensor of a stack gets the step that it would get as a leaf of its own.
      implementation: ``"xla"``, which runs everywhere; ``"pallas"``, kernels for CUDA GPUs, which falls back to XLA with a
        warning that says why; or ``"auto"``: Pallas where it is the faster one.

    Returns:
      An `optax.GradientTransformationExtraArgs` whose ``update`` needs ``params`` and the keyword ``value``, the loss, a real
      scalar. Where theta and config do not read the loss (no scheduler, or one that is linear and whose weights of the loss
      are all 0) ``value`` may be left out, and is ignored.

    Raises:
      ValueError: theta does not fit the config, num_steps is less than 1, a task embedding is missing or misshapen, or an
        implementation is unknown.
    """
    arrays = checks.check_theta(theta, _theta_shapes(config), "celo")
    scheduler = None if config.scheduler is None else LSTMScheduler(config.scheduler)
    reads_loss = scheduler is not None and scheduler.reads_loss(theta["scheduler"])
    theta = arrays  # inside a trace they are traced, and whether the loss is read could not be told of them
    checks.check_choice("implementation", implementation, kernels.IMPLEMENTATIONS)
    checks.check_num_steps(num_steps)
    embedding = check_task_embedding(task_embedding, config.scheduler is not None and config.scheduler.task_embedding)

    def init(params: Any, stacks: Sequence[tuple[int, ...] | None]) -> ScaleByCeloState:
        return ScaleByCeloState(
            count=jnp.zeros((), jnp.int32),
            momentum=tuple(_common.zeros_like(params, accumulator_dtype) for _ in config.momentum_decays),
            second_moment=_common.zeros_like(params, accumulator_dtype),
            factored=accumulators.init_factored_trees(params, len(config.factored_decays), accumulator_dtype, stacks),
            scheduler=None if scheduler is None else scheduler.init_state(theta["scheduler"]),
            scale_floor=_scale_floor(params, tuple(stacks), config.zero_init_scale) if config.zero_init_scale else None,
        )

    def update(
        updates: Any, state: ScaleByCeloState, params: Any, value: Any, layout: _common.Layout
    ) -> tuple[Any, ScaleByCeloState]:
        if scheduler is None:
            multiplier, scheduler_state = None, None
        else:
            multiplier, scheduler_state = scheduler.step(
                theta["scheduler"], state.scheduler, state.count, value, num_steps, embedding
            )
        old = kernels.Accumulators(state.momentum, state.second_moment, *state.factored)
        finish, extra = None, None
        if config.orthogonal:
            finish = orthogonal.FINISH
            extra = _addition(config, theta["update_rule"]["orthogonal"], multiplier, state.count)
        steps, new = kernels.update_tree(
            config.rule,
            _weights(config, theta["update_rule"], state.count),
            multiplier,
            updates,
            params,
            old,
            state.count,
            implementation,
            state.scale_floor,
            layout.stacks,
            layout.shardings,
            finish,
            extra,
        )
        count = optax.safe_increment(state.count)
        factored = accumulators.FactoredMoment(new.rows, new.columns)
        return steps, ScaleByCeloState(
            count, new.momenta, new.second_moment, factored, scheduler_state, state.scale_floor
        )

    return _common.direction("celo", init, update, reads_loss=reads_loss, num_stacked_axes=num_stacked_axes)


def celo(
    theta: Any,
    num_steps: Any,
    *,
    weight_decay: Any = 0.0,
    mask: Any | Callable[[Any], Any] | None = None,
    step_multiplier: Any = 1.0,
    config: CeloConfig = CeloConfig(),
    accumulator_dtype: Any = "float32",
    task_embedding: Any = None,
    num_stacked_axes: Any = None,
    implementation: str = "auto",
) -> optax.GradientTransformationExtraArgs:
    """The Celo optimizer: no learning rate, only the planned number of steps.

    With the weights in celo-zoo steps decay to 0 at ``num_steps``, and after that nothing moves. To go on, build the optimizer
    anew with a larger ``num_steps`` and keep the state; with other weights steps after ``num_steps`` are what the scheduler
    says, which has seen little of that in meta-training.

    Args:
      theta: meta-parameters, e.g. the first of ``theta, config = celo_zoo.load("celo")``.
      num_steps: planned number of updates, at least 1; may be traced. Inside `optax.MultiSteps` that is the number of
        updates, not of gradients.
      weight_decay: fraction of each parameter that is subtracted per step (what AdamW calls learning rate times weight
        decay) at the height of the schedule; it falls with the decay that the scheduler's config has, and ends with it.
      mask: which leaves decay: a tree of booleans or a function of the parameters, as in `optax.adamw`.
      step_multiplier: what each step, weight decay included, is multiplied by: a number, or a function of the steps taken, such
        as Optax's schedules. 1 is what was learned; smaller numbers are for trainings that go unstable and for networks
        that are trained already.
      config: the architecture's configuration: what theta came with.
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
      >>> theta = Celo().init(jax.random.key(0))  # or theta, config = celo_zoo.load("celo"), and pass config=config below
      >>> tx = celo(theta, num_steps=100)
      >>> params = {"w": jnp.ones((3, 2))}
      >>> state = tx.init(params)
      >>> loss, grads = jax.value_and_grad(lambda p: jnp.sum(p["w"] ** 2))(params)
      >>> updates, state = tx.update(grads, state, params, value=loss)
      >>> params = optax.apply_updates(params, updates)
    """
    direction = scale_by_celo(
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
