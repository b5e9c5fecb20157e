"""Whole trainings as compiled loops: one network, or several learning rates and seeds at once."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from celo_core import TaskFamily
from celo_core.meta_training.unroll import Trainee, training_step
from celo_tasks.baselines.tuning import Setting, learning_rate_schedule

Array = jax.Array

HELD_OUT_LIMIT = 2000
"""Held-out examples that a trained network is judged on, at most."""

_HELD_OUT_BATCH = 250


def split_seed(key: Array) -> tuple[Array, Array, Array]:
    """Keys of a training's config, of its initialisation and of its steps: the same for every optimizer."""
    key_config, key_init, key_steps = jax.random.split(key, 3)
    return key_config, key_init, key_steps


def initial(family: TaskFamily, key: Array) -> tuple[Any, Any]:
    """Parameters and model state with which every optimizer starts from the seed of ``key``."""
    key_config, key_init, _ = split_seed(key)
    return family.init(key_init, family.sample(key_config))


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


Build = Callable[[optax.Schedule, int], optax.GradientTransformationExtraArgs]
"""``(schedule, num_steps)`` -> optimizer; the schedule maps the step to the learning rate, 0 for a setting without one."""


class Members(NamedTuple):
    """What the networks of a program differ in; every leaf has a leading axis of networks.

    Attributes:
      learning_rate: the highest in the schedule, float32 (networks,); 0 without one.
      schedule: index into `celo_tasks.baselines.SCHEDULES`, int32 (networks,).
      key: of the seed, keys (networks,).
    """

    learning_rate: Array
    schedule: Array
    key: Array


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

    def start(self, settings: Sequence[Setting], seeds: Sequence[int]) -> tuple[Progress, Members]:
        """Networks before their first step, one per setting and seed, and what `advance` needs to know of them."""
        keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))
        rates = jnp.asarray([one.learning_rate or 0.0 for one in settings], jnp.float32)
        members = Members(rates, jnp.asarray([one.schedule_index for one in settings], jnp.int32), keys)
        return self._init(members), members

    def compile(self, progress: Progress, members: Members, data: Any) -> None:
        """Compiles `advance`, so that what follows can be timed; no step is done."""
        zero = jnp.int32(0)
        if self._compiled is None:
            self._compiled = self._advance.lower(progress, members, data, zero, zero).compile()

    def advance(self, progress: Progress, members: Members, data: Any, begin: int, end: int) -> Progress:
        """Does the steps from ``begin`` up to ``end``; ``progress`` is used up."""
        advance = self._compiled or self._advance
        return advance(progress, members, data, jnp.int32(begin), jnp.int32(end))

    def held_out(self, progress: Progress, members: Members, batch: Any) -> list[dict[str, float]]:
        """The family's ``metrics`` of every network on held-out data, each the mean over equal parts of it.

        Args:
          progress: the trained networks.
          members: as `start` returned them.
          batch: what the family's ``load_held_out`` returned: a tree of arrays with examples along their first axes.
        """
        count = min(HELD_OUT_LIMIT, len(jax.tree.leaves(batch)[0]))
        size = min(_HELD_OUT_BATCH, count)
        parts = jax.tree.map(lambda x: x[: count // size * size].reshape(-1, size, *x.shape[1:]), batch)
        values = jax.device_get(self._metrics(progress.trainee, members.key, parts))
        return [{name: float(value[i]) for name, value in values.items()} for i in range(len(members.key))]

    def _many(self, function: Callable[..., Any], count: int) -> Callable[..., Any]:
        """``function`` for every network: vmapped for several."""
        if count > 1:
            return jax.vmap(function)
        return lambda *arguments: jax.tree.map(lambda x: x[None], function(*jax.tree.map(lambda x: x[0], arguments)))

    def _optimizer(self, member: Members) -> optax.GradientTransformationExtraArgs:
        schedule = learning_rate_schedule(member.learning_rate, member.schedule, self.num_steps)
        return self._build(schedule, self.num_steps)

    def _init_many(self, members: Members) -> Progress:
        def one(member: Members) -> Progress:
            params, model_state = initial(self._family, member.key)
            opt_state = self._optimizer(member).init(params)
            trainee = jax.tree.map(jnp.asarray, Trainee(params, model_state, opt_state))
            return Progress(trainee, jnp.zeros(self.num_steps, jnp.float32), jnp.bool_(True))

        return self._many(one, len(members.key))(members)

    def _advance_many(self, progress: Progress, members: Members, data: Any, begin: Array, end: Array) -> Progress:
        def one(progress: Progress, member: Members) -> Progress:
            key_config, _, key_steps = split_seed(member.key)
            config = self._family.sample(key_config)
            optimizer = self._optimizer(member)

            def body(step: Array, carry: Progress) -> Progress:
                # The batch depends on the seed and the step alone, so that every optimizer sees the same ones.
                key_batch, key_loss = jax.random.split(jax.random.fold_in(key_steps, step))
                batch = self._family.batch(key_batch, config, data)
                trainee, loss = training_step(self._family, optimizer, carry.trainee, key_loss, config, batch)
                normalized = self._family.normalizer(loss).astype(jnp.float32)
                return Progress(trainee, carry.losses.at[step].set(normalized), carry.finite & jnp.isfinite(loss))

            return jax.lax.fori_loop(begin, end, body, progress)

        return self._many(one, len(members.key))(progress, members)

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
