"""Trains the tasks of one shape at all heights of a learned optimizer's steps, with programs that are compiled once."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import schedule_tasks
from numpy.typing import NDArray
from schedule_signals import Step

import celo_zoo
from celo_core.meta_training.unroll import InnerProblem

Array = jax.Array
Floats = NDArray[np.floating]

CHUNK = 50
"""Steps of the compiled program, and batches on which the trained networks are judged."""


class Trainings(NamedTuple):
    """Trainings at all heights: every leaf has a first axis of them."""

    params: Any
    model_state: Any
    opt_state: Any
    last_update: Any


def _dot(a: Any, b: Any) -> Array:
    return sum((jnp.sum(x * y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)), jnp.float32(0))


def _celo_state(opt_state: Any) -> Any:
    """The part of an optimizer's state that has momenta and factored second moments, ``None`` if there is none."""
    if hasattr(opt_state, "momentum") and hasattr(opt_state, "factored"):
        return opt_state
    parts = [_celo_state(part) for part in opt_state] if isinstance(opt_state, tuple) else []
    return next((part for part in parts if part is not None), None)


def _coherence(opt_state: Any, params: Any) -> Array:
    """`Step.coherence`."""
    state = _celo_state(opt_state)
    sizes = [np.size(p) for p in jax.tree.leaves(params)]
    rows = []
    for momentum, row in zip(state.momentum, state.factored.row, strict=True):
        squares = jnp.stack([jnp.sum(jnp.square(m)) for m in jax.tree.leaves(momentum)])
        # A row is a mean over an axis.
        sums = [jnp.sum(r) * (size / r.size) for r, size in zip(jax.tree.leaves(row), sizes, strict=True)]
        total = jnp.stack(sums)
        used = total > 1e-20  # those of no gradient at all have no direction
        ratio = squares / jnp.maximum(total, 1e-20)
        mean = jnp.sum(jnp.where(used, ratio, 0.0)) / jnp.maximum(jnp.sum(used), 1)
        rows.append([mean, jnp.min(jnp.where(used, ratio, jnp.inf)), jnp.max(jnp.where(used, ratio, -jnp.inf))])
    return jnp.stack([jnp.stack(row) for row in rows])


class Grid:
    """Trains the tasks of one shape at all heights, with programs that are compiled once.

    Args:
      weights: the learned optimizer.
      family: of the tasks.
      heights: factors on its updates.
    """

    def __init__(self, weights: celo_zoo.Pretrained, family: schedule_tasks.Numbered, heights: Sequence[float]) -> None:
        self.family, self.heights = family, np.asarray(heights, np.float32)
        self.problem = InnerProblem(weights.architecture, family)
        self.theta = jax.tree.map(jnp.asarray, dict(weights.theta))
        self.data = jax.tree.map(jnp.asarray, family.load())
        self.decays = weights.config.moments.momentum_decays
        # LLVM's first level compiles in half the time, and what it makes of such small networks is as fast.
        options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else {}
        self._begin = jax.jit(self._begin_all, compiler_options=options)
        self._run = jax.jit(self._run_chunk, compiler_options=options, donate_argnums=0)

    def _begin_all(self, key: Array, key_embed: Array, config: Any, data: Any, num_steps: Any) -> tuple[Any, Array]:
        trainee = self.problem.init(self.theta, key, config, num_steps)
        embedding = self.problem.embed(key_embed, trainee, config, data, num_steps)
        start = Trainings(*trainee, jax.tree.map(jnp.zeros_like, trainee.params))
        repeat = lambda x: jnp.broadcast_to(x, (len(self.heights), *jnp.shape(x)))
        return jax.tree.map(repeat, start), embedding

    def _run_chunk(
        self, state: Trainings, heights: Array, keys: Array, config: Any, data: Any, num_steps: Any, embedding: Any
    ) -> tuple[Trainings, Step]:
        extra = {"task_embedding": embedding} if self.problem.needs_embedding else {}
        optimizer = self.problem.architecture.build(self.theta, num_steps, **extra)

        def step(state: Trainings, height: Array, key: Array, batch: Any) -> tuple[Trainings, Step]:
            loss_function = lambda p: self.family.loss(p, state.model_state, key, config, batch)
            (loss, model_state), gradients = jax.value_and_grad(loss_function, has_aux=True)(state.params)
            updates, opt_state = optimizer.update(gradients, state.opt_state, state.params, value=loss)
            updates = jax.tree.map(lambda u: height * u, updates)
            seen = Step(
                loss,
                -_dot(gradients, updates),
                _dot(gradients, state.last_update),
                optax.tree.norm(gradients),
                optax.tree.norm(updates),
                optax.tree.norm(state.params),
                _coherence(opt_state, state.params),
            )
            return Trainings(optax.apply_updates(state.params, updates), model_state, opt_state, updates), seen

        def body(state: Trainings, key: Array) -> tuple[Trainings, Step]:
            key_batch, key_loss = jax.random.split(key)
            batch = self.family.batch(key_batch, config, data)
            return jax.vmap(step, in_axes=(0, 0, None, None))(state, heights, key_loss, batch)

        return jax.lax.scan(body, state, keys)

    def train(self, draw: schedule_tasks.Draw, num_steps: int, repeat: int = 0) -> tuple[Step, Floats, Floats]:
        """Trains a task at all heights, with the keys of `celo_core.meta_training.unroll.train`.

        A ``repeat`` other than 0 has another initialisation and other batches of the same task.

        Returns:
          The steps, each leaf (steps, heights, ...); the trained networks' losses on `CHUNK` further batches, (CHUNK,
          heights); and the task's embedding.
        """
        config = self.family.config(draw)
        key = jax.random.key(draw.seed)
        key_init, key_steps = jax.random.split(jax.random.fold_in(key, 2**30 + repeat) if repeat else key)
        key_embed = jax.random.fold_in(key_steps, num_steps)
        steps = jnp.int32(num_steps)
        state, embedding = self._begin(key_init, key_embed, config, self.data, steps)
        keys = jax.random.split(key_steps, num_steps)
        missing = -num_steps % CHUNK
        keys = jnp.concatenate([keys, jax.random.split(jax.random.fold_in(key_steps, 2**31 - 1), missing + CHUNK)])
        seen = []
        for first in range(0, len(keys), CHUNK):
            heights = self.heights
            if first >= num_steps:
                # Trained at height 0, that is not at all; in large batches, but where these are normalised by their own.
                heights = np.zeros_like(heights)
                if state.model_state is None:
                    config["knobs"]["batch_size"] = np.int32(self.family.batch_size)
            arguments = (heights, keys[first : first + CHUNK], config, self.data, steps, embedding)
            state, part = self._run(state, *arguments)
            seen.append(jax.device_get(part))
        whole = jax.tree.map(lambda *parts: np.concatenate(parts), *seen)
        return jax.tree.map(lambda x: x[:num_steps], whole), whole.loss[-CHUNK:], np.asarray(embedding)
