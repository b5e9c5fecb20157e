"""Inner problems that are unrolled in windows of steps: what the estimators on truncated unrolls share."""

import abc
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp

from celo_core import checks
from celo_core.estimators._base import Estimator, unbound
from celo_core.estimators.resume import ResumeBuffer
from celo_core.meta_training.lengths import LengthSchedule, LogUniformLength
from celo_core.meta_training.unroll import InnerProblem, Trainee
from celo_core.protocols import LearnedOptimizer, TaskFamily, Theta
from celo_core.schedulers.embedding import EMBEDDING_SIZE

Array = jax.Array

META_LOSSES = ("training", "held_out")


class ProblemState(NamedTuple):
    """Problems in progress; every leaf has a leading axis over problems.

    Attributes:
      index: the problem's number, int32 (it seeds the problem's random numbers, independently of the number of devices).
      estimates: estimates that it has taken part in, int32.
      config: task config.
      trainee: the networks, with a second axis over members: (+, -) for an antithetic pair whose members continue with
        perturbations of their own, else one.
      step: inner steps taken, int32.
      length: inner steps until the problem ends, int32.
      memory: what the estimator keeps from window to window, like theta; ``None`` if nothing.
      task_embedding: of the problem, float32, computed in its first window; ``None`` if the architecture does not read it.
      snapshots: of a `ResumeBuffer`; ``None`` without one.
    """

    index: Any
    estimates: Any
    config: Any
    trainee: Trainee
    step: Any
    length: Any
    memory: Any = None
    task_embedding: Any = None
    snapshots: Any = None


class Window(NamedTuple):
    """Results of a window of one problem's steps.

    Attributes:
      losses: normalised meta-losses, weighted, float32 (steps, members).
      mask: steps before the problem's end, bool (steps,).
      non_finite: fraction of the inner losses that were not finite, float32 ().
      step_size: distance moved per step relative to the parameters' norm at the start, float32 (members,).
    """

    losses: Array
    mask: Array
    non_finite: Array
    step_size: Array

    def mean_losses(self) -> Array:
        """Means over the steps that count, float32 (members,)."""
        return jnp.sum(self.losses * self.mask[:, None], axis=0) / jnp.maximum(jnp.sum(self.mask), 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problems:
    """Problems under a learned optimizer: how they begin, go through a window of steps, and end.

    A problem that ends within a window is masked for the rest of it, and a new one begins with the next window.
    All members of a problem share the initialisation, batches and keys.
    """

    architecture: LearnedOptimizer
    family: TaskFamily
    lengths: LengthSchedule = LogUniformLength()
    meta_loss: str = "training"
    resume: ResumeBuffer | None = None
    late_weight: float = 0.0

    @property
    def inner(self) -> InnerProblem:
        """The family under the learned optimizer."""
        return InnerProblem(self.architecture, self.family)

    def begin(self, key: Array, index: Any, estimates: Any, thetas: Theta, memory: Any = None) -> ProblemState:
        """A new problem for one slot; ``thetas`` has a leading axis over members."""
        key_config, key_length, key_init = jax.random.split(key, 3)
        config = self.family.sample(key_config)
        length = self.lengths.sample(key_length, estimates)
        trainee = jax.vmap(lambda t: self.inner.init(t, key_init, config, length))(thetas)
        embedding = jnp.zeros((EMBEDDING_SIZE,), jnp.float32) if self.inner.needs_embedding else None
        step = jnp.zeros((), jnp.int32)
        state = ProblemState(index, estimates, config, trainee, step, length, memory, embedding)
        return state if self.resume is None else state._replace(snapshots=self.resume.empty(state))

    def renew(self, key: Array, thetas: Theta, state: ProblemState, memory: Any, data: Any) -> ProblemState:
        """A new problem, with new memory, in place of one that has ended; prepared for its next window."""
        key_fresh, key_resume, key_embed = (jax.random.fold_in(key, number) for number in range(3))
        ended = state.step >= state.length
        fresh = self.begin(key_fresh, state.index, state.estimates, thetas, memory)
        if self.resume is not None:
            fresh = self.resume.restore(key_resume, fresh, state.snapshots)
        state = jax.tree.map(lambda new, old: jnp.where(ended, new, old), fresh, state)
        if self.inner.needs_embedding:
            start = jax.tree.map(lambda x: x[0], state.trainee)  # members are alike before the first step
            embedding = self.inner.embed(key_embed, start, state.config, data, state.length)
            state = state._replace(task_embedding=jnp.where(state.step == 0, embedding, state.task_embedding))
        return state

    def run(
        self,
        key: Array,
        thetas: Theta,
        state: ProblemState,
        steps: int,
        data: Any,
        *,
        differentiated: bool = False,
        until: Array | None = None,
    ) -> tuple[Window, ProblemState]:
        """Steps of every member; ``thetas`` and the trainee have a leading axis over members.

        With ``differentiated``, backpropagation keeps the networks between the steps and recomputes what is within a step.
        With ``until``, int32 (), no more than so many of the steps are done, in a loop that cannot be backpropagated through;
        losses of the others are 0.
        """
        key_steps, key_store = jax.random.split(key)

        def body(trainee: Trainee, inputs: tuple[Array, Array]) -> tuple[Trainee, tuple[Array, Array]]:
            key_step, active = inputs
            key_batch, key_loss = jax.random.split(key_step)
            batch = self.family.batch(key_batch, state.config, data)
            step = lambda t, x: self.inner.step(t, x, key_loss, state.config, batch, state.length, state.task_embedding)
            new, loss = jax.vmap(step)(thetas, trainee)
            judged = loss if self.meta_loss == "training" else self._held_out(key_step, trainee, state.config, data)
            return new, (self.family.normalizer(judged).astype(jnp.float32), active & ~jnp.isfinite(loss))

        if differentiated:
            body = jax.checkpoint(body, prevent_cse=False)  # a scan's body cannot be merged with its recomputation
        mask = state.step + jnp.arange(steps, dtype=jnp.int32) < state.length
        before = state.trainee.params
        loop = jax.lax.scan if until is None else functools.partial(_scan_until, until)
        trainee, (losses, non_finite) = loop(body, state.trainee, (jax.random.split(key_steps, steps), mask))
        if self.late_weight:
            # At the middle of each step, so that the weights of a whole trajectory are 1 in the mean.
            life = (state.step + jnp.arange(steps, dtype=jnp.float32) + 0.5) / state.length
            losses = losses * ((1 + self.late_weight) * life**self.late_weight)[:, None]
        moved = jax.vmap(_relative_distance)(before, trainee.params) / (steps if until is None else until)
        state = state._replace(trainee=trainee, step=state.step + steps)
        if self.resume is not None:
            state = state._replace(snapshots=self.resume.store(key_store, state, steps))
        return Window(losses, mask, jnp.mean(non_finite.astype(jnp.float32)), moved), state

    def _held_out(self, key: Array, trainee: Trainee, config: Any, data: Any) -> Array:
        """Losses of all members on one held-out batch, before the step."""
        key_batch, key_loss = jax.random.split(jax.random.fold_in(key, 0))
        batch = self.family.held_out_batch(key_batch, config, data)
        one = lambda x: self.family.loss(x.params, x.model_state, key_loss, config, batch)[0]
        return jax.vmap(one)(trainee)


@dataclasses.dataclass(frozen=True)
class TruncatedEstimator(Estimator, abc.ABC):
    """What estimators on truncated unrolls have in common; each of them defines the gradient of a window.

    Problems begin out of phase. Fields after the family are keywords.

    Attributes:
      architecture: the learned optimizer; its theta is what the gradient is for.
      family: the problems.
      truncation: inner steps per window.
      lengths: lengths of the problems.
      meta_loss: ``"training"``, the loss that a step descends, or ``"held_out"``, that of a batch of held-out data at the
        same parameters, for families that have it.
      late_weight: exponent k of the weight ``(1 + k) x^k`` of the loss at the fraction x of a problem's trajectory, 1 in the
        mean: 0, as published, minimises the mean loss of a training; a larger k puts more weight on the losses at its end.
      resume: lets some problems begin in the middle of an earlier trajectory; by default none does.
      clip_problem: largest norm of one problem's gradient before the mean over problems; by default there is none. It
        bounds the effect of a few chaotic problems on the mean, at the cost of a bias.
    """

    architecture: LearnedOptimizer = unbound("architecture")
    family: TaskFamily = unbound("family")
    _: dataclasses.KW_ONLY
    truncation: int = 50
    lengths: LengthSchedule = LogUniformLength()
    meta_loss: str = "training"
    late_weight: float = 0.0
    resume: ResumeBuffer | None = None
    clip_problem: float | None = None

    members = 1
    """Networks per problem whose states are carried from window to window."""

    def __post_init__(self) -> None:
        if self.truncation < 1 or self.num_problems < 1:
            raise ValueError(
                f"an estimator needs truncation >= 1 and {self._count} >= 1, not {self.truncation} and "
                f"{self.num_problems}."
            )
        if self.truncation > self.lengths.longest:
            raise ValueError(
                f"a truncation of {self.truncation} steps is longer than any problem, of {self.lengths.longest} steps at "
                "most: lower the truncation, or lengthen the problems."
            )
        if not 0 <= self.late_weight < math.inf:
            raise ValueError(f"late_weight must be at least 0, not {self.late_weight}.")
        check_settings(self.family, self.meta_loss, self.clip_problem)

    _count = "num_problems"

    @property
    @abc.abstractmethod
    def num_problems(self) -> int:
        """Problems at once; the number of devices must divide it."""

    @property
    @abc.abstractmethod
    def inner_steps(self) -> int:
        """Inner training steps per estimate, all networks counted."""

    @abc.abstractmethod
    def _window(self, key: Array, theta: Theta, state: ProblemState, data: Any) -> tuple[Theta, Window, ProblemState]:
        """One window of one problem: its gradient, its results, and the problem after it."""

    @property
    def problems(self) -> Problems:
        """How its problems begin, advance and end."""
        names = ("architecture", "family", "lengths", "meta_loss", "late_weight", "resume")
        return Problems(**{name: getattr(self, name) for name in names})

    def with_truncation(self, steps: int) -> Self:
        """The same estimator with windows of ``steps`` steps."""
        return dataclasses.replace(self, truncation=steps)

    def check(self, data: Any) -> None:
        """Raises ValueError if the family's loss on ``data`` is not a finite scalar at initialisation."""
        checks.check_family(self.family, data)

    def init(self, key: Array, theta: Theta) -> ProblemState:
        """Problems at random points of their trajectories (networks are new, but the count of steps is not zero)."""
        thetas = jax.tree.map(lambda x: jnp.stack([x] * self.members), theta)

        def one(index: Array) -> ProblemState:
            key_fresh, key_phase, key_memory = jax.random.split(jax.random.fold_in(key, index), 3)
            estimates = jnp.zeros((), jnp.int32)
            state = self.problems.begin(key_fresh, index, estimates, thetas, self._initial_memory(key_memory, theta))
            remaining = jax.random.uniform(key_phase, dtype=jnp.float32) * state.length
            # A shortened first trajectory, so that later resets are spread evenly over time.
            return state._replace(length=jnp.maximum(1, remaining.astype(jnp.int32)))

        return jax.vmap(one)(jnp.arange(self.num_problems, dtype=jnp.int32))

    def _initial_memory(self, key: Array, theta: Theta) -> Any:
        del key, theta

    def estimate(
        self, key: Array, theta: Theta, state: ProblemState, data: Any
    ) -> tuple[tuple[Theta, Array, dict[str, Array]], ProblemState]:
        """One window of every problem.

        Args:
          key: PRNG key of this estimate.
          theta: meta-parameters.
          state: the problems.
          data: what the family's ``load`` returned.

        Returns:
          ``((gradient, meta_loss, info), state)``: the gradient's mean over problems, the mean normalised loss, and in
          ``info`` float32 scalars: ``non_finite`` (fraction of inner losses that were not finite), ``step_size`` (median
          over networks of the distance moved per step relative to the parameters' norm), ``step_size_max``, ``resets``.
        """

        def one(state: ProblemState) -> tuple[Theta, Array, dict[str, Array], ProblemState]:
            ended = state.step >= state.length
            gradient, window, state = self._window(jax.random.fold_in(key, state.index), theta, state, data)
            info = {"non_finite": window.non_finite, "step_size": window.step_size, "reset": ended.astype(jnp.float32)}
            loss = jnp.mean(window.mean_losses())
            return clipped(gradient, self.clip_problem), loss, info, state._replace(estimates=state.estimates + 1)

        gradients, losses, info, state = jax.vmap(one)(state)
        return (mean_over_problems(gradients), jnp.mean(losses), summarize(info)), state


def check_settings(family: TaskFamily | None, meta_loss: str, clip_problem: float | None) -> None:
    """Raises ValueError for settings that no estimator supports."""
    checks.check_choice("meta_loss", meta_loss, META_LOSSES)
    if family is not None and meta_loss == "held_out" and not family.has_held_out:
        raise ValueError(
            f"the family {family.name} has no held-out data, which a held-out meta-loss needs: load it, or use "
            'meta_loss="training".'
        )
    if clip_problem is not None and not clip_problem > 0:
        raise ValueError(f"clip_problem must be positive, or None for no clipping, not {clip_problem}.")


def clipped(tree: Any, largest: float | None) -> Any:
    """A tree scaled down to a global norm of at most ``largest``."""
    if largest is None:
        return tree
    norm = jnp.sqrt(sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree)))
    return jax.tree.map(lambda x: x * jnp.minimum(1.0, largest / jnp.maximum(norm, 1e-30)), tree)


def mean_over_problems(tree: Any) -> Any:
    """Means over the leading axis."""
    return jax.tree.map(lambda x: jnp.mean(x, axis=0), tree)


def summarize(info: dict[str, Array]) -> dict[str, Array]:
    """Scalars over all problems, see `TruncatedEstimator.estimate`."""
    return {
        "non_finite": jnp.mean(info["non_finite"]),
        "step_size": jnp.nanmedian(info["step_size"]),
        "step_size_max": jnp.nanmax(info["step_size"]),
        "resets": jnp.sum(info["reset"]),
    }


def _scan_until(until: Array, body: Callable[..., tuple[Any, Any]], carry: Any, inputs: Any) -> tuple[Any, Any]:
    """As `jax.lax.scan`, of the first ``until`` inputs; the outputs of the others are 0."""
    at = lambda index: jax.tree.map(lambda x: x[index], inputs)
    number = len(jax.tree.leaves(inputs)[0])
    _, shapes = jax.eval_shape(body, carry, at(0))
    empty = jax.tree.map(lambda x: jnp.zeros((number, *x.shape), x.dtype), shapes)

    def step(index: Array, both: tuple[Any, Any]) -> tuple[Any, Any]:
        carry, outputs = both
        carry, new = body(carry, at(index))
        put = lambda whole, one: jax.lax.dynamic_update_index_in_dim(whole, one, index, 0)
        return carry, jax.tree.map(put, outputs, new)

    return jax.lax.fori_loop(0, until, step, (carry, empty))


def _relative_distance(before: Any, after: Any) -> Array:
    squares = lambda tree: sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree))
    moved = squares(jax.tree.map(jnp.subtract, after, before))
    return jnp.sqrt(moved / jnp.maximum(squares(before), 1e-30))
