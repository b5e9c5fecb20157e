"""Inner problems: a network in training under a learned optimizer, as a pure function of theta."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from celo_core.protocols import LearnedOptimizer, TaskFamily, Theta
from celo_core.schedulers.embedding import EMBEDDING_SIZE, embed_initialization

Array = jax.Array


class Trainee(NamedTuple):
    """A network in training.

    Attributes:
      params: its parameters.
      model_state: state of its layers such as batch statistics, or ``None``.
      opt_state: state of the optimizer.
    """

    params: Any
    model_state: Any
    opt_state: Any


def training_step(
    family: TaskFamily,
    optimizer: optax.GradientTransformationExtraArgs,
    trainee: Trainee,
    key: Array,
    config: Any,
    batch: Any,
) -> tuple[Trainee, Array]:
    """One training step: loss and gradient, the optimizer's update, and its application.

    Meta-training, validation and evaluation all take their steps here; each draws its keys and batches in its own way.

    Args:
      family: whose loss is descended.
      optimizer: its update is given the loss as ``value``.
      trainee: the network before the step.
      key: PRNG key of the loss.
      config: task config from ``family.sample``.
      batch: from ``family.batch``.

    Returns:
      The network after the step, and the loss before it, as the family gives it: a scalar.
    """
    gradient = jax.value_and_grad(family.loss, has_aux=True)
    (loss, model_state), gradients = gradient(trainee.params, trainee.model_state, key, config, batch)
    updates, opt_state = optimizer.update(gradients, trainee.opt_state, trainee.params, value=loss)
    return Trainee(optax.apply_updates(trainee.params, updates), model_state, opt_state), loss


@dataclasses.dataclass(frozen=True)
class InnerProblem:
    """A task family under a learned optimizer.

    Where the architecture's scheduler reads the task embedding (``needs_embedding``), it is made by ``embed`` from the
    freshly initialised network and given to every step.
    """

    architecture: LearnedOptimizer
    family: TaskFamily

    @property
    def needs_embedding(self) -> bool:
        """Whether the architecture, by its config, reads the task embedding."""
        return self.architecture.reads_task_embedding

    def init(self, theta: Theta, key: Array, config: Any, num_steps: Any) -> Trainee:
        """A freshly initialised network for a training of ``num_steps`` steps."""
        params, model_state = self.family.init(key, config)
        # The optimizer's initial state does not depend on the embedding, which is made from the network.
        embedding = jnp.zeros((EMBEDDING_SIZE,), jnp.float32) if self.needs_embedding else None
        return Trainee(params, model_state, self._optimizer(theta, num_steps, embedding).init(params))

    def embed(self, key: Array, trainee: Trainee, config: Any, data: Any, num_steps: Any) -> Array:
        """The task embedding of a freshly initialised network, from a batch drawn by ``key``."""
        return embed_initialization(self.family, key, trainee.params, trainee.model_state, config, data, num_steps)

    def step(
        self,
        theta: Theta,
        trainee: Trainee,
        key: Array,
        config: Any,
        batch: Any,
        num_steps: Any,
        task_embedding: Array | None = None,
    ) -> tuple[Trainee, Array]:
        """`training_step` under the architecture's optimizer."""
        optimizer = self._optimizer(theta, num_steps, task_embedding)
        return training_step(self.family, optimizer, trainee, key, config, batch)

    def _optimizer(
        self, theta: Theta, num_steps: Any, task_embedding: Array | None
    ) -> optax.GradientTransformationExtraArgs:
        if task_embedding is None:
            return self.architecture.build(theta, num_steps)
        return self.architecture.build(theta, num_steps, task_embedding=task_embedding)


def train(
    problem: InnerProblem, theta: Theta, key: Array, config: Any, data: Any, num_steps: int
) -> tuple[Trainee, Array]:
    """Trains one network from its initialisation.

    Args:
      problem: the task family and the architecture.
      theta: meta-parameters.
      key: PRNG key for the initialisation and the batches.
      config: task config from ``family.sample``.
      data: what ``family.load`` returned.
      num_steps: number of steps, static.

    Returns:
      The trained network and its normalised training losses, float32 (num_steps,).
    """
    key_init, key_steps = jax.random.split(key)
    trainee = problem.init(theta, key_init, config, num_steps)
    embedding = None
    if problem.needs_embedding:
        embedding = problem.embed(jax.random.fold_in(key_steps, num_steps), trainee, config, data, num_steps)

    def body(carry: Trainee, key_step: Array) -> tuple[Trainee, Array]:
        key_batch, key_loss = jax.random.split(key_step)
        batch = problem.family.batch(key_batch, config, data)
        new, loss = problem.step(theta, carry, key_loss, config, batch, num_steps, embedding)
        return new, problem.family.normalizer(loss).astype(jnp.float32)

    return jax.lax.scan(body, trainee, jax.random.split(key_steps, num_steps))
