"""Networks other than plain MLPs on several image sets, of which a task draws one: small families for meta-training."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from celo_tasks.families.image_classifier import cross_entropy, init_network
from celo_tasks.families.image_mlp import MLP, ImageMLP, clip_loss

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class ImageNetworks(ImageMLP):
    """A `celo_core.TaskFamily`: classification of one of several image sets by any flax network.

    As `ImageMLP`, whose fields it has (``hidden_sizes`` is not used), with

    Attributes:
      network: maps float32 images (batch, *input_shape) to logits (batch, num_classes). One with batch normalisation keeps
        its running averages in flax's collection "batch_stats", and normalises by the batch if its keyword ``train`` is true.
      input_shape: shape of an image as input of the network.
      label: name of the kind of network.
    """

    network: nn.Module = dataclasses.field(default_factory=lambda: MLP((32,), 10))
    input_shape: tuple[int, ...] = (8, 8, 1)
    label: str = "network"

    @property
    def name(self) -> str:
        """E.g. ``"vit_mnist_8x8"``."""
        return "_".join([self.label, *self.datasets])

    def init(self, key: Array, config: Any) -> tuple[Any, Any]:
        """Parameters of the network, and its "batch_stats" as model state: ``None`` where it has none."""
        del config
        return init_network(self.network, key, self.input_shape)

    def loss(self, params: Any, model_state: Any, key: Array, config: Any, batch: Any) -> tuple[Array, Any]:
        """Mean cross entropy in nats, and the new running averages."""
        del key, config
        images, labels = batch
        return cross_entropy(self.network, params, model_state, images.reshape(-1, *self.input_shape), labels)


@dataclasses.dataclass(frozen=True)
class ImageAutoencoders(ImageMLP):
    """A `celo_core.TaskFamily`: an MLP with ``hidden_sizes`` that reconstructs images of one of several sets.

    The loss is the squared error per pixel after a sigmoid, as in `ImageAutoencoder`.
    """

    @property
    def name(self) -> str:
        """E.g. ``"autoencoder_16_4_16_mnist_8x8"``."""
        return "_".join(["autoencoder", *map(str, self.hidden_sizes), *self.datasets])

    def loss(self, params: Any, model_state: None, key: Array, config: Any, batch: Any) -> tuple[Array, None]:
        """Mean squared error per pixel."""
        del key, config
        images, _ = batch
        outputs: Any = self._network().apply({"params": params}, images)
        return jnp.mean(jnp.square(jax.nn.sigmoid(outputs) - images)), model_state

    def _labels_below(self) -> None:
        return None

    def normalizer(self, loss: Array) -> Array:
        """Loss clipped to [0, 1]; non-finite counts as the upper end."""
        return clip_loss(loss, 1.0)

    def _network(self) -> MLP:
        return MLP(self.hidden_sizes, math.prod(self.image_shape))
