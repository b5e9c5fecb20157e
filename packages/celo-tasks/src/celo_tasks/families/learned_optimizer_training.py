"""The training of a learned optimizer, as a training problem: meta-learning by gradients through a short training.

Source: the task LOpt_AdafacMLPLOpt_FashionMnist_20 of the public task library (arXiv 2211.09760, section 4): the
meta-loss is the mean training loss of a small network over all steps of its training, 20 there.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from celo_core import FamilyDefaults, LearnedOptimizer
from celo_core.meta_training.unroll import InnerProblem
from celo_tasks.families.adafac_mlp import AdafacMLP
from celo_tasks.families.image_classifier import ImageClassifier

Array = jax.Array

NUM_HELD_OUT = 8
"""Number of trainings on held-out images in the evaluation of an optimizer."""


@dataclasses.dataclass(frozen=True)
class LearnedOptimizerTraining(FamilyDefaults):
    """A `celo_core.TaskFamily` of one task: the parameters are a learned optimizer's theta.

    The loss is the mean, over the steps of a training of the inner network from its initialisation, of the inner family's
    normalised losses, which are finite for every theta; its gradient is that through the whole training. The gradient
    is zero where all losses are at the normalizer's bounds.

    Attributes:
      name: name in results.
      inner: the family whose networks are trained.
      num_steps: length of an inner training.
      optimizer: the learned optimizer. Compiling the gradient of a large one takes minutes.
      num_unrolls: inner trainings whose mean is a loss.
    """

    name: str
    inner: ImageClassifier
    num_steps: int = 20
    optimizer: LearnedOptimizer = AdafacMLP()
    num_unrolls: int = 1

    def load(self) -> Any:
        """The inner family's data."""
        return self.inner.load()

    def load_held_out(self) -> dict[str, Any]:
        """A fixed batch of eight trainings on the inner family's held-out images, for `metrics`."""
        images, labels = self.inner.load_held_out()
        shape = (NUM_HELD_OUT, self.num_steps, self.inner.batch_size)
        rows = np.random.default_rng(0).integers(0, len(labels), shape)
        return {"key": jax.random.split(jax.random.key(0), NUM_HELD_OUT), "batches": (images[rows], labels[rows])}

    def sample(self, key: Array) -> Any:
        """The inner family's config."""
        return self.inner.sample(key)

    def init(self, key: Array, config: Any) -> tuple[Any, None]:
        """Random meta-parameters; there is no model state."""
        del config
        return self.optimizer.init(key), None

    def batch(self, key: Array, config: Any, data: Any) -> dict[str, Any]:
        """``{"key": keys of the trainings (num_unrolls,), "batches": inner batches (num_unrolls, num_steps, ...)}``."""
        key_unrolls, key_batches = jax.random.split(key)
        keys = jax.random.split(key_batches, (self.num_unrolls, self.num_steps))
        batches = jax.vmap(jax.vmap(lambda k: self.inner.batch(k, config, data)))(keys)
        return {"key": jax.random.split(key_unrolls, self.num_unrolls), "batches": batches}

    def loss(self, params: Any, model_state: None, key: Array, config: Any, batch: Any) -> tuple[Array, None]:
        """Mean normalised inner loss over all steps of all trainings."""
        del key
        return self.metrics(params, model_state, config, batch)["loss"], model_state

    def metrics(self, params: Any, model_state: None, config: Any, batch: Any) -> dict[str, Array]:
        """``{"loss": mean inner loss over all steps, "last_loss": that of the last step alone}``, float32 ()."""
        del model_state
        losses = jax.vmap(lambda key, batches: self._unroll(params, key, config, batches))(
            batch["key"], batch["batches"]
        )
        return {"loss": jnp.mean(losses), "last_loss": jnp.mean(losses[:, -1])}

    def normalizer(self, loss: Array) -> Array:
        """The inner family's normalizer, since a meta-loss is a mean of its losses."""
        return self.inner.normalizer(loss)

    def _unroll(self, theta: Any, key: Array, config: Any, batches: Any) -> Array:
        """The normalised losses (num_steps,) of one training."""
        problem = InnerProblem(self.optimizer, self.inner)
        key_init, key_steps = jax.random.split(key)
        trainee = problem.init(theta, key_init, config, self.num_steps)

        # Steps are recomputed in the backward pass: otherwise each would keep all intermediate values of the optimizer.
        @jax.checkpoint
        def body(trainee: Any, step: tuple[Array, Any]) -> tuple[Any, Array]:
            key_step, inner_batch = step
            trainee, loss = problem.step(theta, trainee, key_step, config, inner_batch, self.num_steps)
            return trainee, self.inner.normalizer(loss)

        return jax.lax.scan(body, trainee, (jax.random.split(key_steps, self.num_steps), batches))[1]
