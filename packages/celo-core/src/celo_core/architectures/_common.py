"""Parts that the architectures share: the interface to Optax, around the mathematics of each."""

import functools
import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import optax

from celo_core import checks
from celo_core.kernels import interface, reductions
from celo_core.schedulers import Outcome, Scheduler, SchedulerConfig, Signal
from celo_core.schedulers.embedding import check_task_embedding
from celo_core.schedulers.statistics import STATISTICS, Averages, Observed
from celo_core.sharding import KeepsShardings, explicit_key

Array = jax.Array
Config = TypeVar("Config")

WITHOUT_LOSS = (
    "{} adapts its steps to the loss, and got none: they follow the schedule that it began with. Call update(grads, state, "
    "params, value=loss)."
)


class Layout(NamedTuple):
    """What is known of each parameter besides its array, in the tree's order. Hashable.

    Attributes:
      stacks: lengths of the leading axes that are a stack of tensors, or ``None``; see `celo_core.kernels.Leaf`.
      shardings: keys that tensors must share to be stacked, where known.
    """

    stacks: tuple[tuple[int, ...] | None, ...]
    shardings: tuple[Any, ...]


class Update(Protocol):
    """The update of one architecture, on arrays only."""

    def __call__(self, updates: Any, state: Any, params: Any, value: Any, layout: Layout) -> tuple[Any, Any]:
        """Steps to be subtracted, and the new state.

        Args:
          updates: gradients; ``None`` for a tensor that is left as it is.
          state: the optimizer's state.
          params: parameters.
          value: the loss, float32 (), or ``None`` where it is not read.
          layout: of the parameters.
        """
        ...


def direction(
    name: str,
    init: Callable[[Any, Sequence[tuple[int, ...] | None]], Any],
    update: Update,
    *,
    reads_loss: bool,
    has_prior: bool = False,
    num_stacked_axes: Any,
) -> optax.GradientTransformationExtraArgs:
    """The gradient transformation of an architecture, with checks of its arguments.

    Python numbers and NumPy arrays are converted to JAX arrays, a parameter whose gradient is ``None`` keeps its moments and
    gets a step of zeros, results are sharded as the arguments are, and unsupported arguments raise an error of one sentence.

    Args:
      name: of the architecture, for messages.
      init: function from parameters that are arrays, and their stacks, to the state.
      update: of the architecture.
      reads_loss: whether ``value`` is read; without it there is an error or,
      has_prior: a warning, and steps that do not depend on it.
      num_stacked_axes: see `celo_core.checks.stacks_of`.
    """
    keeps_shardings = KeepsShardings(update)
    as_arrays = functools.partial(jax.tree.map, jnp.asarray)

    def checked_init(params: Any) -> Any:
        checks.check_params(params)
        params = as_arrays(params)
        return init(params, checks.stacks_of(params, num_stacked_axes))

    def checked_update(
        updates: Any, state: Any, params: Any = None, *, value: Any = None, **extra_args: Any
    ) -> tuple[Any, Any]:
        del extra_args
        checks.check_update_arguments(params, value, name, reads_loss and not has_prior)
        checks.check_gradients(updates, params)
        updates, params = as_arrays(updates), as_arrays(params)
        stacks = checks.stacks_of(params, num_stacked_axes)
        shardings = [explicit_key(pair) for pair in zip(*leaves_like(params, updates, params), strict=True)]
        if value is None and reads_loss:
            warnings.warn(WITHOUT_LOSS.format(name), stacklevel=3)
        value = jnp.asarray(value, jnp.float32) if reads_loss and value is not None else None
        steps, new = keeps_shardings(updates, state, params, value, Layout(tuple(stacks), tuple(shardings)))
        # `optax.apply_updates` takes no None.
        return zip_leaves(lambda p, s: jnp.zeros_like(p) if s is None else s, params, steps), new

    return optax.GradientTransformationExtraArgs(checked_init, checked_update)


def config_that_fits(
    known: Mapping[str, Config], theta: Any, shapes: Callable[[Config], Any], architecture: str
) -> Config:
    """The first of some configs whose theta has the names and shapes of ``theta``.

    Args:
      known: by name.
      theta: nested mapping of arrays.
      shapes: those of a config's theta.
      architecture: name for the message.

    Raises:
      ValueError: none fits; the message is about the first of them.
    """
    errors = []
    for config in known.values():
        try:
            checks.check_theta_shapes(theta, shapes(config), architecture)
        except ValueError as error:
            errors.append(error)
        else:
            return config
    raise errors[0]


class Scheduling:
    """The scheduler of an architecture, with its theta and the values that are fixed for a whole training.

    Args:
      config: of the scheduler, ``None`` for a multiplier of 1.
      theta: of the scheduler, as the user passed it: whether the loss is read can be inferred from concrete values only.
      arrays: the same as arrays.
      num_steps: planned number of updates.
      task_embedding: as the user passed it.

    Raises:
      ValueError: num_steps is less than 1, or a task embedding is missing or has another shape.
    """

    def __init__(
        self, config: SchedulerConfig | None, theta: Any, arrays: Any, num_steps: Any, task_embedding: Any
    ) -> None:
        checks.check_num_steps(num_steps)
        self._scheduler = None if config is None else Scheduler(config)
        self._theta, self._num_steps = arrays, num_steps
        self._embedding = check_task_embedding(task_embedding, config is not None and config.reads_task_embedding)
        self._statistics = () if config is None else config.statistics
        self.reads_loss = self._scheduler is not None and self._scheduler.reads_loss(theta)
        self.has_prior = config is not None and config.bounds is not None

    def init(self) -> Any:
        """Its state before the first step, ``None`` without a scheduler."""
        return None if self._scheduler is None else self._scheduler.init_state(self._theta)

    def step(self, state: Any, count: Array, value: Any, observed: Callable[[], Observed]) -> tuple[Any, Any]:
        """Controls of a step, ``None`` without a scheduler, and the new state; ``observed`` is called if it is needed."""
        if self._scheduler is None:
            return None, None
        seen = observed() if self._statistics else None
        statistics = {name: STATISTICS[name](seen) for name in self._statistics if seen is not None}
        signal = Signal(count, value, self._num_steps, self._embedding, statistics)
        return self._scheduler.step(self._theta, state, signal)

    def observe(
        self, state: Any, updates: Any, params: Any, momentum: Any, steps: Any, bound: float, stacks: Any = None
    ) -> Any:
        """The scheduler's state after a step; only if the scheduler reads what came of it there is anything to compute.

        Args:
          state: the scheduler's.
          updates: gradients.
          params: parameters.
          momentum: of the first decay, before the step.
          steps: to be subtracted from the parameters.
          bound: gradients are clipped elementwise to plus or minus this.
          stacks: of each leaf, see `Layout`; ``None`` for none.
        """
        if state is None or state.outcome is None:
            return state
        return state._replace(outcome=outcome(updates, params, momentum, steps, bound, stacks))

    def decay(self, count: Array) -> Array:
        """Fraction of their initial height that steps have after ``count`` steps; weight decay follows it."""
        if self._scheduler is None:
            return jnp.ones((), jnp.float32)
        return self._scheduler.decay(count, self._num_steps)


def observed(updates: Any, params: Any, averages: Averages, bound: float) -> Observed:
    """Inputs of the statistics, from the tensors that have a gradient.

    Args:
      updates: gradients.
      params: parameters.
      averages: with trees like the parameters in place of lists.
      bound: gradients are clipped elementwise to plus or minus this.
    """
    gradients, second, *momenta = leaves_like(params, updates, averages.second_moment, *averages.momenta)
    there = [n for n, gradient in enumerate(gradients) if gradient is not None]
    of = lambda column: [column[n] for n in there]
    lists = averages._replace(momenta=[of(m) for m in momenta], second_moment=of(second))
    return Observed([interface.finite_gradient(g, bound) for g in of(gradients)], lists.momenta[0], lists)


def outcome(updates: Any, params: Any, momentum: Any, steps: Any, bound: float, stacks: Any = None) -> Outcome:
    """What the scheduler's next step may know of this one; arguments as of `Scheduling.observe`."""

    def parts(gradient: Array, momentum: Array, step: Array, parameter: Array) -> tuple[Array, ...]:
        step, parameter = step.astype(jnp.float32), interface.finite_parameter(parameter)
        gradient, momentum = interface.finite_gradient(gradient, bound), momentum.astype(jnp.float32)
        squares = tuple(jnp.square(x) for x in (step, parameter, gradient, momentum))
        return gradient * step, gradient * momentum, *squares

    found = []
    leaves = jax.tree.leaves(params)
    columns = leaves_like(params, updates, momentum, steps)
    for p, g, m, s, stack in zip(leaves, *columns, stacks or [None] * len(leaves), strict=True):
        if g is None or p.size == 0:
            continue
        own = p.shape[len(stack or ()) :] or (1,)
        count = math.prod(stack or ())
        shape = own if count == 1 else (count, *own)
        arrays = tuple(x.reshape(shape) for x in (g, m, s, p))
        found.append(reductions.sums(lambda x: parts(*x), arrays, shape, int(count > 1), 6).reshape(-1, 6))
    if not found:
        return Outcome(*(jnp.zeros((), jnp.float32) for _ in Outcome._fields))
    product, agreement, step, parameter, gradient, memory = jnp.concatenate(found).T
    used = parameter > 1e-24  # a tensor of zeros has no size that a step could be compared with
    share = _mean_ratio(step, parameter, used)
    # Roots first: products of squares leave float32's range.
    norms = jnp.sqrt(gradient) * jnp.sqrt(memory)
    alignment = _mean_ratio(agreement, norms, norms > 0)
    return Outcome(jnp.sum(product), jnp.sqrt(share), jnp.clip(alignment, -1.0, 1.0))


def _mean_ratio(above: Array, below: Array, chosen: Array) -> Array:
    """Mean of ``above / below`` where it is chosen, float32 (); 0 if nowhere."""
    total = jnp.sum(jnp.where(chosen, above / jnp.where(chosen, below, 1.0), 0.0))
    return total / jnp.maximum(jnp.sum(chosen.astype(jnp.float32)), 1.0)


def leaves_like(tree: Any, *others: Any) -> list[list[Any]]:
    """Leaves of ``others`` at the places of the leaves of ``tree``; they may be ``None``."""
    treedef: Any = jax.tree.structure(tree)
    return [treedef.flatten_up_to(other) for other in others]


def zip_leaves(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """A tree of ``function`` of each leaf and what is at its place in the others, possibly ``None``."""
    return jax.tree.unflatten(
        jax.tree.structure(tree),
        [function(*leaves) for leaves in zip(jax.tree.leaves(tree), *leaves_like(tree, *others), strict=True)],
    )


def zeros_like(params: Any, dtype: Any) -> Any:
    """A tree of zeros of ``dtype``, each its own buffer so that all can be donated."""
    return jax.tree.map(lambda p: jnp.zeros_like(p, dtype=dtype), params)


def map_tensors(
    function: Callable[..., tuple[Any, ...]], updates: Any, params: Any, *accumulators: Any
) -> tuple[Any, ...]:
    """Applies ``function(gradient, parameter, *accumulators of this tensor)`` to every tensor that has a gradient.

    Args:
      function: takes, per accumulator, the tuple of this tensor's values, and returns a new tuple likewise.
      updates: tree of gradients.
      params: tree of parameters.
      *accumulators: tuples of trees like ``params``, one tree per decay.

    Returns:
      The tree of updates, then a tuple of trees per accumulator.
    """
    treedef: Any
    flat_params, treedef = jax.tree.flatten(params)
    gradients = treedef.flatten_up_to(updates)

    def by_tensor(trees: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        columns = [treedef.flatten_up_to(tree) for tree in trees]
        return [tuple(column[i] for column in columns) for i in range(len(flat_params))]

    flat = [by_tensor(trees) for trees in accumulators]
    results = [
        (None, *kept) if gradient is None else function(gradient, parameter, *kept)
        for gradient, parameter, *kept in zip(gradients, flat_params, *flat, strict=True)
    ]
    steps = treedef.unflatten([result[0] for result in results])
    new = [
        tuple(treedef.unflatten([result[index][i] for result in results]) for i in range(len(trees)))
        for index, trees in enumerate(accumulators, start=1)
    ]
    return (steps, *new)


def descend(
    direction: optax.GradientTransformationExtraArgs,
    decay: Callable[[Array], Array] = lambda count: jnp.ones((), jnp.float32),
    *,
    weight_decay: Any = 0.0,
    mask: Any = None,
    step_multiplier: Any = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """The whole optimizer: the direction, decoupled weight decay, the user's multiplier, and the minus sign.

    Args:
      direction: its state has a ``count``.
      decay: fraction of their initial height that steps have after ``count`` steps, which weight decay follows; 1 by default.
      weight_decay: fraction of a parameter that is subtracted per step where ``decay`` is 1.
      mask: which leaves decay, a tree of booleans, also a prefix, or a function of the parameters; ``None`` for all.
      step_multiplier: factor on the whole step; a number or a function of the steps taken.

    Raises:
      ValueError: the multiplier is neither a number of at least 0 nor a function.
    """
    checks.check_step_multiplier(step_multiplier)
    decays = not (isinstance(weight_decay, (int, float)) and weight_decay == 0)

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
        steps, new_state = direction.update(updates, state, params, **extra_args)
        count = state.count
        factor = step_multiplier(count) if callable(step_multiplier) else step_multiplier
        as_it_is = isinstance(factor, (int, float)) and factor == 1
        if not as_it_is:
            new_state = _observed_with(new_state, factor)
        if decays:
            share = jnp.asarray(weight_decay, jnp.float32) * decay(count)
            chosen = mask(params) if callable(mask) else mask
            steps = _add_decay(steps, params, updates, share, True if chosen is None else chosen)
        if as_it_is:
            return jax.tree.map(jnp.negative, steps), new_state
        factor = -jnp.asarray(factor, jnp.float32)
        return jax.tree.map(lambda s: (factor * s.astype(jnp.float32)).astype(s.dtype), steps), new_state

    return optax.GradientTransformationExtraArgs(direction.init, update)


def _observed_with(state: Any, factor: Any) -> Any:
    """An architecture's state whose scheduler, if it reads what came of a step, knows that the step is multiplied."""
    scheduler: Any = getattr(state, "scheduler", None)
    if getattr(scheduler, "outcome", None) is None:
        return state
    seen, factor = scheduler.outcome, jnp.asarray(factor, jnp.float32)
    multiplied = seen._replace(
        predicted_decrease=factor * seen.predicted_decrease, relative_step=factor * seen.relative_step
    )
    return state._replace(scheduler=scheduler._replace(outcome=multiplied))


def whole(build: Callable[..., optax.GradientTransformationExtraArgs]) -> Callable[..., Any]:
    """Adds weight decay, its mask and the user's multiplier to a function that builds a direction, as `descend` does."""
    signature = inspect.signature(build)
    options = [one for one in inspect.signature(descend).parameters.values() if one.kind is one.KEYWORD_ONLY]

    @functools.wraps(build)
    def made(*args: Any, **kwargs: Any) -> optax.GradientTransformationExtraArgs:
        given = {one.name: kwargs.pop(one.name) for one in options if one.name in kwargs}
        return descend(build(*args, **kwargs), **given)

    made.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *options])  # type: ignore[attr-defined]
    return made


def _add_decay(steps: Any, params: Any, updates: Any, share: Array, mask: Any) -> Any:
    """Steps with ``share`` of each parameter added where the mask is true and there is a gradient."""

    def one(parameter: Any, step: Array, gradient: Any) -> Array:
        if gradient is None:
            return step
        return (step.astype(jnp.float32) + share * jnp.asarray(parameter, jnp.float32)).astype(step.dtype)

    part = lambda decays, s, p, u: zip_leaves(one, p, s, u) if decays else s
    return jax.tree.map(part, mask, steps, params, updates)
