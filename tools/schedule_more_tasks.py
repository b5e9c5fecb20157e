"""More tasks for learning a scheduler, of kinds that have no labels: noise-dominated gradients and losses that explode.

Variational autoencoders, gradients by evolution strategies, the training of a small learned optimizer, deep networks without
normalisation, batches from a single example, and networks trained on all of their data in every step. None is a task of a
suite or of `celo_tasks.meta_training.validation`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import schedule_tasks

from celo_core import TaskFamily
from celo_tasks.families import MLP, ImageClassifier, ImageMLP, LearnedOptimizerTraining
from celo_tasks.families.adafac_mlp import AdafacMLP, AdafacMLPConfig
from celo_tasks.families.es_wrapped import ESWrapped
from celo_tasks.families.image_autoencoder import VAE, ImageVAE
from celo_tasks.families.image_sets import ImageAutoencoders

Array = jax.Array

FIRST = 10_000
"""Their numbers begin here: below are those of schedule_tasks.py."""


@dataclasses.dataclass(frozen=True)
class _VAEs(ImageAutoencoders):
    """Variational autoencoders of one of several image sets, with the loss of `ImageVAE`."""

    latents: int = 4

    def _vae(self) -> ImageVAE:
        return ImageVAE(
            "vae", self.datasets[0], 64, self.batch_size, None, self.hidden_sizes, self.latents, self.hidden_sizes
        )

    def init(self, key: Array, config: Any) -> tuple[Any, None]:
        """Parameters of the network; there is no model state."""
        del config
        network = VAE(self.hidden_sizes, self.latents, self.hidden_sizes)
        return network.init(key, jnp.zeros((1, 64)), jnp.zeros((1, self.latents)))["params"], None

    def loss(self, params: Any, model_state: None, key: Array, config: Any, batch: Any) -> tuple[Array, None]:
        """Mean negative evidence lower bound in nats per pixel."""
        _, images = batch
        return self._vae().loss(params, model_state, key, config, images)

    def normalizer(self, loss: Array) -> Array:
        """That of `ImageVAE`."""
        return self._vae().normalizer(loss)


@dataclasses.dataclass(frozen=True)
class _Estimated(ImageMLP):
    """Image classification whose gradient is estimated by evolution strategies."""

    num_pairs: int = 1

    def loss(self, params: Any, model_state: None, key: Array, config: Any, batch: Any) -> tuple[Array, Any]:
        """That of `ESWrapped`."""
        plain = ImageMLP(self.datasets, self.hidden_sizes, self.batch_size, self.num_classes, self.image_shape)
        return ESWrapped(plain, self.num_pairs, 0.02).loss(params, model_state, key, config, batch)


@dataclasses.dataclass(frozen=True)
class _WholeData(schedule_tasks.Varied):
    """The same batch in every step."""

    def batch(self, key: Array, config: Any, data: Any) -> Any:
        """As `Varied`, whatever the key."""
        del key
        return super().batch(jax.random.key(7), config, data)


@dataclasses.dataclass(frozen=True)
class _Plain:
    """A family without anything to vary, for where a `schedule_tasks.Varied` is wanted."""

    inner: Any
    num_pixels = 0
    has_labels = False
    batch_size = schedule_tasks.SMALLEST_BATCH

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def config(self, draw: schedule_tasks.Draw) -> Any:
        """The config of a drawn task."""
        return self.inner.sample(jax.random.key(draw.seed))

    def limit(self, draw: schedule_tasks.Draw) -> tuple[float, float]:
        """As of `schedule_tasks.Varied`."""
        del draw
        return 1.0, float(self.inner.normalizer(jnp.float32(jnp.inf)))


@dataclasses.dataclass(frozen=True)
class Shape(schedule_tasks.Shape):
    """See `schedule_tasks.Shape`.

    Attributes:
      wrap: of the family made: what varies it.
    """

    wrap: Callable[[Any], Any] = schedule_tasks.Varied

    def build(self, datasets: tuple[str, ...], data_dir: str | None) -> Any:
        """The family of all its tasks."""
        return self.wrap(super().build(datasets, data_dir).inner)


def _vaes(family: Any, **changes: Any) -> TaskFamily:
    return schedule_tasks._fields(family, _VAEs, **changes)


def _estimated(family: Any, **changes: Any) -> TaskFamily:
    return schedule_tasks._fields(family, _Estimated, **changes)


def _learned_optimizer(family: Any, **changes: Any) -> TaskFamily:
    inner = ImageClassifier("mlp_5", MLP((5,), 10), family.datasets[0], (64,), batch_size=changes["batch_size"])
    optimizer = AdafacMLP(AdafacMLPConfig((6,)))
    return LearnedOptimizerTraining("learned_optimizer", inner, changes["num_steps"], optimizer)


SHAPES = (
    Shape("autoencoder", "vae_24_4", 1, {"hidden_sizes": (24,), "batch_size": 32}, _vaes),
    Shape("mlp", "es_16_1", 1, {"hidden_sizes": (16,), "batch_size": 32, "num_pairs": 1}, _estimated),
    Shape("mlp", "learned_optimizer_5_8", 1, {"batch_size": 8, "num_steps": 8}, _learned_optimizer, _Plain),
    Shape("autoencoder", "vae_40_28_6", 1, {"hidden_sizes": (40, 28), "batch_size": 16, "latents": 6}, _vaes),
    Shape("mlp", "mlp_16x8", 1, {"hidden_sizes": (16,) * 8, "batch_size": 16}),
    Shape("mlp", "es_24_16_6", 1, {"hidden_sizes": (24, 16), "batch_size": 16, "num_pairs": 6}, _estimated),
    Shape(
        "mlp",
        "whole_regression_24_24",
        1,
        {"hidden_sizes": (24, 24), "batch_size": 64},
        schedule_tasks._regression,
        _WholeData,
    ),
)
