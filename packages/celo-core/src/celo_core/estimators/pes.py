"""Persistent evolution strategies (PES) and truncated evolution strategies, with antithetic pairs.

The unroll of an inner problem is cut into windows. In window w a pair of unrolls continues with ``theta +- e_w``,
``e_w ~ N(0, sigma^2)``. With L+- the mean loss over the window, the contribution of a pair to the gradient is ::

    PES:  (L+ - L-) / (2 sigma^2) * (e_1 + ... + e_w)        truncated ES:  (L+ - L-) / (2 sigma^2) * e_w

Bias and variance: PES is unbiased for the sum over windows of the gradients of the (smoothed) window losses with
respect to a theta that is shared by all windows; its variance grows with the number of windows. Truncated ES ignores
how earlier windows led to this one: lower variance, but biased towards short horizons.

Source: Vicol, Metz, Sohl-Dickstein, "Unbiased Gradient Estimation in Unrolled Computation Graphs with Persistent
Evolution Strategies", arXiv 2112.13835.
"""

import dataclasses
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from celo_core.protocols import LearnedOptimizer, TaskFamily, Theta
from celo_core.schedulers.embedding import EMBEDDING_SIZE
from celo_core.truncation import LengthSchedule, LogUniformLength
from celo_core.unroll import InnerProblem, Trainee

Array = jax.Array


class PairState(NamedTuple):
    """An antithetic pair of unrolls; every leaf has a leading axis over pairs.

    Attributes:
      index: number of the pair, int32 (it makes the pair's random numbers its own, on however many devices).
      config: task config of the pair's problem.
      trainee: the networks, with a second axis (+, -).
      step: inner steps taken, int32.
      length: inner steps until the problem ends, int32.
      accumulator: sum of the perturbations since the problem began, like theta.
      task_embedding: of the pair's problem, float32, made in its first window; ``None`` where the architecture does not
        read it.
    """

    index: Any
    config: Any
    trainee: Trainee
    step: Any
    length: Any
    accumulator: Any
    task_embedding: Any = None


def pair_gradient(
    loss_difference: Array, mask: Array, restarted: Array, accumulator: Theta, perturbation: Theta, sigma: float
) -> tuple[Theta, Theta]:
    """A pair's PES gradient over one window.

    Args:
      loss_difference: positive minus negative loss, (steps,).
      mask: steps that count, (steps,), bool.
      restarted: steps that belong to a new problem which began within this window, (steps,), bool: for them only
        this window's perturbation counts.
      accumulator: sum of the perturbations of earlier windows of the problem.
      perturbation: this window's perturbation.
      sigma: its standard deviation.

    Returns:
      ``(gradient, accumulator)``: trees like theta. The new accumulator holds this window's perturbation alone if a
      new problem began within the window.

    Raises:
      AssertionError: the steps, or the trees, differ in shape.
    """
    chex.assert_rank(loss_difference, 1)
    chex.assert_equal_shape([loss_difference, mask, restarted])
    chex.assert_trees_all_equal_shapes(accumulator, perturbation)
    weight = mask / jnp.maximum(jnp.sum(mask), 1) / (2 * sigma**2)
    continued = jnp.sum(loss_difference * weight * ~restarted)
    anew = jnp.sum(loss_difference * weight * restarted)
    total = jax.tree.map(jnp.add, accumulator, perturbation)
    gradient = jax.tree.map(lambda t, e: continued * t + anew * e, total, perturbation)
    return gradient, jax.tree.map(lambda t, e: jnp.where(restarted[-1], e, t), total, perturbation)


@dataclasses.dataclass(frozen=True)
class TruncatedPES:
    """PES over truncated unrolls of sampled problems; a `celo_core.protocols.GradientEstimator`.

    A problem that ends within a window is masked for the rest of it, and a new one begins with the next window.
    Problems begin out of phase. Both members of a pair see the same problem, initialisation, batches and keys.

    Attributes:
      architecture: the learned optimizer; its theta is what the gradient is for.
      family: the problems.
      num_pairs: antithetic pairs, each a problem of its own.
      sigma: standard deviation of the perturbations.
      truncation: inner steps per window.
      lengths: lengths of the problems.
      persistent: PES if true, truncated ES if false.
    """

    architecture: LearnedOptimizer
    family: TaskFamily
    num_pairs: int = 32
    sigma: float = 0.01
    truncation: int = 50
    lengths: LengthSchedule = LogUniformLength()
    persistent: bool = True

    def __post_init__(self) -> None:
        if self.num_pairs < 1 or self.truncation < 1 or not self.sigma > 0:
            raise ValueError(
                "PES needs num_pairs >= 1, truncation >= 1 and sigma > 0, "
                f"not {self.num_pairs}, {self.truncation} and {self.sigma}."
            )

    @property
    def inner_steps(self) -> int:
        """Inner training steps per estimate, both members of every pair counted."""
        return 2 * self.num_pairs * self.truncation

    def init(self, key: Array, theta: Theta) -> PairState:
        """Problems at random points of their lives (networks are new, but the count of steps is not zero)."""

        def one(index: Array) -> PairState:
            key_fresh, key_phase = jax.random.split(jax.random.fold_in(key, index))
            state = self._fresh(key_fresh, index, jax.tree.map(lambda x: jnp.stack([x, x]), theta), theta)
            remaining = jax.random.uniform(key_phase) * state.length
            # A shortened first life, so that later resets are spread evenly over time.
            return state._replace(length=jnp.maximum(1, remaining.astype(jnp.int32)))

        return jax.vmap(one)(jnp.arange(self.num_pairs, dtype=jnp.int32))

    def estimate(
        self, key: Array, theta: Theta, state: PairState, data: Any
    ) -> tuple[tuple[Theta, Array, dict[str, Array]], PairState]:
        """One window of every pair.

        Args:
          key: PRNG key of this estimate.
          theta: meta-parameters.
          state: the pairs.
          data: what the family's ``load`` returned.

        Returns:
          ``((gradient, meta_loss, info), state)``: the gradient's mean over pairs, the mean normalised loss, and in
          ``info`` float32 scalars: ``non_finite`` (fraction of inner losses that were not finite), ``step_size``
          (median over networks
          of the distance moved per step relative to the parameters' norm), ``step_size_max``, ``resets``.
        """
        gradients, losses, info, state = jax.vmap(lambda s: self._window(key, theta, s, data))(state)
        mean = lambda tree: jax.tree.map(lambda x: jnp.mean(x, axis=0), tree)
        summary = {
            "non_finite": jnp.mean(info["non_finite"]),
            "step_size": jnp.nanmedian(info["step_size"]),
            "step_size_max": jnp.nanmax(info["step_size"]),
            "resets": jnp.sum(info["reset"]),
        }
        return (mean(gradients), jnp.mean(losses), summary), state

    def _fresh(self, key: Array, index: Array, thetas: Theta, theta: Theta) -> PairState:
        """A new problem for one pair; ``thetas`` has a leading axis (+, -)."""
        key_config, key_length, key_init = jax.random.split(key, 3)
        config = self.family.sample(key_config)
        length = self.lengths.sample(key_length)
        problem = InnerProblem(self.architecture, self.family)
        trainee = jax.vmap(lambda t: problem.init(t, key_init, config, length))(thetas)
        zeros = jax.tree.map(jnp.zeros_like, theta)
        embedding = jnp.zeros((EMBEDDING_SIZE,), jnp.float32) if problem.needs_embedding else None
        return PairState(index, config, trainee, jnp.zeros((), jnp.int32), length, zeros, embedding)

    def _embedded(self, problem: InnerProblem, key: Array, state: PairState, data: Any) -> PairState:
        """The pair's state with its task embedding, which is made where the problem has not begun yet."""
        start = jax.tree.map(lambda x: x[0], state.trainee)  # both networks are the same before the first step
        embedding = problem.embed(key, start, state.config, data, state.length)
        return state._replace(task_embedding=jnp.where(state.step == 0, embedding, state.task_embedding))

    def _window(
        self, key: Array, theta: Theta, state: PairState, data: Any
    ) -> tuple[Theta, Array, dict[str, Array], PairState]:
        key_fresh, key_perturb, key_steps = jax.random.split(jax.random.fold_in(key, state.index), 3)
        perturbation = _normal_like(key_perturb, theta, self.sigma)
        thetas = jax.tree.map(lambda t, e: jnp.stack([t + e, t - e]), theta, perturbation)
        reset = state.step >= state.length
        fresh = self._fresh(key_fresh, state.index, thetas, theta)
        state = jax.tree.map(lambda new, old: jnp.where(reset, new, old), fresh, state)

        problem = InnerProblem(self.architecture, self.family)
        if problem.needs_embedding:
            # The keys of the window's steps are those of smaller numbers.
            key_embed = jax.random.fold_in(key_steps, self.truncation)
            state = self._embedded(problem, key_embed, state, data)

        def body(trainee: Trainee, inputs: tuple[Array, Array]) -> tuple[Trainee, tuple[Array, Array]]:
            key_step, active = inputs
            key_batch, key_loss = jax.random.split(key_step)
            batch = self.family.batch(key_batch, state.config, data)
            step = lambda t, x: problem.step(t, x, key_loss, state.config, batch, state.length, state.task_embedding)
            trainee, loss = jax.vmap(step)(thetas, trainee)
            return trainee, (self.family.normalizer(loss), active & ~jnp.isfinite(loss))

        steps = jnp.arange(self.truncation, dtype=jnp.int32)
        mask = state.step + steps < state.length
        keys = jax.random.split(key_steps, self.truncation)
        before = state.trainee.params
        trainee, (losses, non_finite) = jax.lax.scan(body, state.trainee, (keys, mask))

        accumulator = state.accumulator if self.persistent else jax.tree.map(jnp.zeros_like, state.accumulator)
        gradient, accumulator = pair_gradient(
            losses[:, 0] - losses[:, 1], mask, jnp.zeros_like(mask), accumulator, perturbation, self.sigma
        )
        info = {
            "non_finite": jnp.mean(non_finite.astype(jnp.float32)),
            "step_size": jax.vmap(_relative_distance)(before, trainee.params) / self.truncation,
            "reset": reset.astype(jnp.float32),
        }
        loss = jnp.sum(jnp.mean(losses, axis=1) * mask) / jnp.maximum(jnp.sum(mask), 1)
        step = state.step + self.truncation
        return gradient, loss, info, state._replace(trainee=trainee, step=step, accumulator=accumulator)


def _normal_like(key: Array, tree: Any, scale: float) -> Any:
    """Independent normal numbers of standard deviation ``scale`` in the shape of a tree."""
    treedef: Any
    leaves, treedef = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    return treedef.unflatten(
        [scale * jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
    )


def _relative_distance(before: Any, after: Any) -> Array:
    squares = lambda tree: sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree))
    moved = squares(jax.tree.map(jnp.subtract, after, before))
    return jnp.sqrt(moved / jnp.maximum(squares(before), 1e-30))
