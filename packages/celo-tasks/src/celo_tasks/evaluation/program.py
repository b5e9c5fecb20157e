"""Whole trainings as compiled loops: one network, or several learning rates and seeds at once."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from celo_core import TaskFamily

Array = jax.Array

HELD_OUT_LIMIT = 2000
"""Held-out examples that a trained network is judged on, at most."""

_HELD_OUT_BATCH = 250


class Trainee(NamedTuple):
    """A network in training.

    Attributes:
      params, model_state: as the family's ``init`` makes them.
      opt_state: state of the optimizer.
    """

    params: Any
    model_state: Any
    opt_state: Any


def split_seed(key: Array) -> tuple[Array, Array, Array]:
    """Keys of a training's config, of its initialisation and of its steps: the same for every optimizer."""
    key_config, key_init, key_steps = jax.random.split(key, 3)
    return key_config, key_init, key_steps


def initial(family: TaskFamily, key: Array) -> tuple[Any, Any]:
    """Parameters and model state with which every optimizer starts from the seed of ``key``."""
    key_config, key_init, _ = split_seed(key)
    return family.init(key_init, family.sample(key_config))


def training_step(
    family: TaskFamily,
    config: Any,
    optimizer: optax.GradientTransformationExtraArgs,
    trainee: Trainee,
    key_steps: Array,
    step: Array,
    data: Any,
) -> tuple[Trainee, Array]:
    """One step; returns the new trainee and the loss before the step, as it is.

    The batch depends on the seed and the step alone, so that every optimizer sees the same ones.
    """
    key_batch, key_loss = jax.random.split(jax.random.fold_in(key_steps, step))
    batch = family.batch(key_batch, config, data)
    gradient = jax.value_and_grad(family.loss, has_aux=True)
    (loss, model_state), grads = gradient(trainee.params, trainee.model_state, key_loss, config, batch)
    updates, opt_state = optimizer.update(grads, trainee.opt_state, trainee.params, value=loss)
    return Trainee(optax.apply_updates(trainee.params, updates), model_state, opt_state), loss


class Progress(NamedTuple):
    """Trainings under way; every leaf has a leading axis of networks.

    Attributes:
      trainee: the networks.
      losses: normalised losses so far, float32 (networks, steps), 0 where a step is yet to be done.
      finite: whether every loss was finite so far, bool (networks,).
    """

    trainee: Trainee
    losses: Array
    finite: Array


Build = Callable[[Array, Array, int], optax.GradientTransformationExtraArgs]
"""``(learning_rate, is_cosine, num_steps)`` -> optimizer; the first two are traced float32 and bool scalars."""


class TrainingProgram:
    """The training of a family's network by an optimizer, compiled once for all settings and seeds.

    Several networks are trained at once by vmap; one alone is trained without it. The loop's bounds are traced: any
    stretch of steps is the same program.
    """

    def __init__(self, family: TaskFamily, build: Build, num_steps: int) -> None:
        self._family, self._build, self.num_steps = family, build, num_steps
        self._init = jax.jit(self._init_many)
        self._advance = jax.jit(self._advance_many, donate_argnums=0)
        self._metrics = jax.jit(self._metrics_many)
        self._compiled: Any = None

    def start(self, rates: Sequence[float], cosine: Sequence[bool], seeds: Sequence[int]) -> tuple[Progress, Any]:
        """Networks before their first step, and what `advance` needs to know of them."""
        keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))
        settings = (jnp.asarray(rates, jnp.float32), jnp.asarray(cosine, bool), keys)
        return self._init(*settings), settings

    def compile(self, progress: Progress, settings: Any, data: Any) -> None:
        """Compiles `advance`, so that what follows can be timed; no step is done."""
        zero = jnp.int32(0)
        if self._compiled is None:
            self._compiled = self._advance.lower(progress, *settings, data, zero, zero).compile()

    def advance(self, progress: Progress, settings: Any, data: Any, begin: int, end: int) -> Progress:
        """Does the steps from ``begin`` up to ``end``; ``progress`` is used up."""
        advance = self._compiled or self._advance
        return advance(progress, *settings, data, jnp.int32(begin), jnp.int32(end))

    def held_out(self, progress: Progress, settings: Any, batch: Any) -> list[dict[str, float]]:
        """The family's ``metrics`` of every network on held-out data, each the mean over equal parts of it.

        Args:
          progress: the trained networks.
          settings: as `start` returned them.
          batch: what the family's ``load_held_out`` returned: a tree of arrays with examples along their first axes.
        """
        count = min(HELD_OUT_LIMIT, len(jax.tree.leaves(batch)[0]))
        size = min(_HELD_OUT_BATCH, count)
        parts = jax.tree.map(lambda x: x[: count // size * size].reshape(-1, size, *x.shape[1:]), batch)
        values = jax.device_get(self._metrics(progress.trainee, settings[2], parts))
        return [{name: float(value[i]) for name, value in values.items()} for i in range(len(settings[2]))]

    def _many(self, function: Callable[..., Any], count: int) -> Callable[..., Any]:
        """``function`` for every network: vmapped for several."""
        if count > 1:
            return jax.vmap(function)
        return lambda *arguments: jax.tree.map(lambda x: x[None], function(*jax.tree.map(lambda x: x[0], arguments)))

    def _init_many(self, rates: Array, cosine: Array, keys: Array) -> Progress:
        def one(rate: Array, is_cosine: Array, key: Array) -> Progress:
            params, model_state = initial(self._family, key)
            opt_state = self._build(rate, is_cosine, self.num_steps).init(params)
            trainee = jax.tree.map(jnp.asarray, Trainee(params, model_state, opt_state))
            return Progress(trainee, jnp.zeros(self.num_steps, jnp.float32), jnp.bool_(True))

        return self._many(one, len(rates))(rates, cosine, keys)

    def _advance_many(
        self, progress: Progress, rates: Array, cosine: Array, keys: Array, data: Any, begin: Array, end: Array
    ) -> Progress:
        def one(progress: Progress, rate: Array, is_cosine: Array, key: Array) -> Progress:
            key_config, _, key_steps = split_seed(key)
            config = self._family.sample(key_config)
            optimizer = self._build(rate, is_cosine, self.num_steps)

            def body(step: Array, carry: Progress) -> Progress:
                trainee, loss = training_step(self._family, config, optimizer, carry.trainee, key_steps, step, data)
                normalized = self._family.normalizer(loss).astype(jnp.float32)
                return Progress(trainee, carry.losses.at[step].set(normalized), carry.finite & jnp.isfinite(loss))

            return jax.lax.fori_loop(begin, end, body, progress)

        return self._many(one, len(rates))(progress, rates, cosine, keys)

    def _metrics_many(self, trainee: Trainee, keys: Array, parts: Any) -> dict[str, Array]:
        def one(trainee: Trainee, key: Array) -> dict[str, Array]:
            config = self._family.sample(split_seed(key)[0])
            metrics: Any = self._family.metrics  # type: ignore[attr-defined]
            values = jax.lax.map(lambda part: metrics(trainee.params, trainee.model_state, config, part), parts)
            return {name: jnp.mean(value) for name, value in values.items()}

        return self._many(one, len(keys))(trainee, keys)


def parameter_count(family: TaskFamily) -> int:
    """Number of trained numbers, from shapes alone."""
    params, _ = jax.eval_shape(lambda key: initial(family, key), jax.random.key(0))
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
