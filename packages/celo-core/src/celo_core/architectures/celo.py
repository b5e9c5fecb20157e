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
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from celo_core import accumulators, checks, kernels, orthogonal
from celo_core import features as features_lib
from celo_core.architectures import _common
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
        square of the other tensors, added in quadrature to its own. 0, as published, leaves it next to none, so that
        biases, and output layers that begin at zero, need hundreds of steps to grow.
      adam: whether Adam's direction is added to the network's: ``a = sum_k 10 w_k m_k / sqrt(v)``, bias-corrected, with
        one more meta-parameter for each momentum. Every feature is divided by its root mean square over the tensor, so that
        the network alone cannot take smaller steps where the gradient is mostly noise.
      orthogonal: whether matrices have an orthogonalised momentum added (see `celo_core.orthogonal`):
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
        order, from the parameters that ``init`` got; ``None`` where the config's ``zero_init_scale`` is 0.
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
            first = jnp.zeros((len(self.config.momentum_decays), 1), jnp.float32).at[0].set(3.0)
            theta["update_rule"]["adam"] = {"kernel": first}
        if self.config.orthogonal:
            # Nesterov's momentum of the first decay, and steps of 1 to 3 % of the parameters.
            momentum = jnp.zeros((1 + len(self.config.momentum_decays),), jnp.float32).at[:2].set(jnp.array([0.1, 0.9]))
            theta["update_rule"]["orthogonal"] = {"momentum": momentum, "length": jnp.array([1.0, 2.0], jnp.float32)}
        if self.config.scheduler is not None:
            theta["scheduler"] = LSTMScheduler(self.config.scheduler).init(key_scheduler)
        return theta

    def build(self, theta: Any, num_steps: Any, **kwargs: Any) -> optax.GradientTransformationExtraArgs:
        """The whole optimizer; see `celo`."""
        return celo(theta, num_steps, config=self.config, **kwargs)


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


def _with_orthogonal(
    config: CeloConfig,
    weights: Any,
    multiplier: Array | None,
    steps: Any,
    gradients: Any,
    params: Any,
    new: kernels.Accumulators,
    state: "ScaleByCeloState",
) -> Any:
    """The steps with those along orthogonalised momenta added; see `CeloConfig.orthogonal`."""
    treedef: Any
    flat, treedef = jax.tree.flatten(steps)
    selected = [i for i, x in enumerate(flat) if orthogonal.matrix_shape(x.shape) is not None]
    trees = [gradients, params, new.second_moment, *new.momenta]
    columns = [treedef.flatten_up_to(tree) for tree in trees]
    matrices = [[column[i] for column in columns] for i in selected]
    corrections = [_correction(decay, state.count) for decay in config.momentum_decays]
    shares = [weights["momentum"][0], *(weights["momentum"][1:] / jnp.stack(corrections))]
    blends = []
    for gradient, _, _, *momenta in matrices:
        parts = [interface.finite_gradient(gradient, config.gradient_clip), *(m.astype(jnp.float32) for m in momenta)]
        blends.append(sum(share * part for share, part in zip(shares, parts, strict=True)))
    root = jnp.sqrt(_correction(config.second_moment_decay, state.count)) / corrections[0]
    factor = DIRECTION_SCALE * config.step_scale * (1.0 if multiplier is None else multiplier)
    for i, matrix, direction in zip(selected, matrices, orthogonal.directions(blends), strict=True):
        _, parameter, second, first, *_ = matrix
        first, second = first.astype(jnp.float32), second.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(first) / (second + interface.ADAM_EPSILON))
        sureness = root * jnp.sqrt(mean_square + 1e-12)
        parameter_square = jnp.mean(jnp.square(interface.finite_parameter(parameter)))
        floor = 0.0 if state.scale_floor is None else state.scale_floor[i]
        scale = features_lib.parameter_scale(parameter_square + floor**2)
        length = factor * scale * (weights["length"][0] + weights["length"][1] * sureness)
        flat[i] = interface.cast_finite(flat[i].astype(jnp.float32) + length * direction, flat[i].dtype)
    return treedef.unflatten(flat)


def _scale_floor(params: Any, factor: float) -> Array:
    """`ScaleByCeloState.scale_floor`: 0 for tensors that are not all zeros."""
    mean_squares = [jnp.mean(jnp.square(interface.finite_parameter(p))) for p in jax.tree.leaves(params)]
    if not mean_squares:
        return jnp.zeros((0,), jnp.float32)
    scales = jnp.sqrt(jnp.nan_to_num(jnp.stack(mean_squares)))
    zero = scales == 0
    smallest = jnp.min(jnp.where(zero, jnp.inf, scales))
    # Of nothing but zeros there is no scale to be had.
    return jnp.where(zero & jnp.isfinite(smallest), factor * smallest, 0.0)


@functools.cache
def _theta_shapes(config: CeloConfig) -> Any:
    return jax.eval_shape(Celo(config).init, jax.random.key(0))


def scale_by_celo(
    theta: Any,
    num_steps: Any,
    *,
    config: CeloConfig = CeloConfig(),
    accumulator_dtype: Any = jnp.float32,
    task_embedding: Any = None,
    implementation: str = "auto",
) -> optax.GradientTransformationExtraArgs:
    """Rescales gradients to Celo's step (to be subtracted from the parameters).

    A NaN in a gradient counts as zero and an infinity as the clipping bound; a non-finite loss is limited as
    `celo_core.schedulers.loss_features.update_loss_buffer` says: the state stays finite.

    Args:
      theta: meta-parameters, a nested dict of float arrays (see `Celo`). It may be traced, so that it can be vmapped or
        differentiated.
      num_steps: planned number of training steps, at least 1; may be traced.
      config: the architecture's configuration.
      accumulator_dtype: dtype in which moments are kept; arithmetic is in float32. bfloat16 halves the state and is rounded
        to stochastically (see `celo_core.accumulators.store`); float16 underflows.
      task_embedding: what `celo_core.task_embedding` returned, for a config whose scheduler reads it; others ignore it.
      implementation: ``"xla"``, which runs everywhere; ``"pallas"``, kernels for CUDA GPUs, which falls back to XLA with a
        warning that says why; or ``"auto"``: Pallas where it is the faster one.

    Returns:
      An `optax.GradientTransformationExtraArgs` whose ``update`` needs ``params`` and the keyword ``value``, the loss.

    Raises:
      ValueError: theta does not fit the config, num_steps is less than 1, a task embedding is missing or misshapen, or an
        implementation is unknown.
    """
    theta = checks.check_theta(theta, _theta_shapes(config), "celo")
    checks.check_choice("implementation", implementation, kernels.IMPLEMENTATIONS)
    checks.check_num_steps(num_steps)
    embedding = check_task_embedding(task_embedding, config.scheduler is not None and config.scheduler.task_embedding)
    scheduler = None if config.scheduler is None else LSTMScheduler(config.scheduler)

    def init(params: Any) -> ScaleByCeloState:
        checks.check_params(params)
        return ScaleByCeloState(
            count=jnp.zeros((), jnp.int32),
            momentum=tuple(_common.zeros_like(params, accumulator_dtype) for _ in config.momentum_decays),
            second_moment=_common.zeros_like(params, accumulator_dtype),
            factored=accumulators.init_factored_trees(params, len(config.factored_decays), accumulator_dtype),
            scheduler=None if scheduler is None else scheduler.init_state(theta["scheduler"]),
            scale_floor=_scale_floor(params, config.zero_init_scale) if config.zero_init_scale else None,
        )

    def update(
        updates: Any, state: ScaleByCeloState, params: Any = None, *, value: Any = None, **extra_args: Any
    ) -> tuple[Any, ScaleByCeloState]:
        del extra_args
        checks.check_update_arguments(params, value, "celo")
        if scheduler is None:
            multiplier, scheduler_state = None, None
        else:
            multiplier, scheduler_state = scheduler.step(
                theta["scheduler"], state.scheduler, state.count, value, num_steps, embedding
            )
        old = kernels.Accumulators(state.momentum, state.second_moment, *state.factored)
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
        )
        if config.orthogonal:
            extra = theta["update_rule"]["orthogonal"]
            steps = _with_orthogonal(config, extra, multiplier, steps, updates, params, new, state)
        count = optax.safe_increment(state.count)
        factored = accumulators.FactoredMoment(new.rows, new.columns)
        return steps, ScaleByCeloState(
            count, new.momenta, new.second_moment, factored, scheduler_state, state.scale_floor
        )

    return optax.GradientTransformationExtraArgs(init, update)


def celo(
    theta: Any,
    num_steps: Any,
    *,
    weight_decay: float = 0.0,
    mask: Any | Callable[[Any], Any] | None = None,
    config: CeloConfig = CeloConfig(),
    accumulator_dtype: Any = jnp.float32,
    task_embedding: Any = None,
    implementation: str = "auto",
) -> optax.GradientTransformationExtraArgs:
    """The Celo optimizer: no learning rate, only the planned number of steps.

    Args:
      theta: meta-parameters, e.g. from ``celo_zoo.load("celo")``.
      num_steps: planned number of training steps, at least 1; may be traced.
      weight_decay: fraction of each parameter that is subtracted per step, independent of the learned step (what AdamW calls
        learning rate times weight decay).
      mask: which leaves decay: a tree of booleans or a function of the parameters, as in `optax.adamw`.
      config: the architecture's configuration.
      accumulator_dtype: dtype in which moments are kept.
      task_embedding: what `celo_core.task_embedding` returned, for a config whose scheduler reads it; others ignore it.
      implementation: see `scale_by_celo`.

    Returns:
      An optimizer whose ``update(grads, state, params, value=loss)`` returns updates for `optax.apply_updates`.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from celo_core import Celo, celo
      >>> theta = Celo().init(jax.random.key(0))  # or: theta, config = celo_zoo.load("celo")
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
        implementation=implementation,
    )
    return _common.descend(direction, weight_decay, mask)
