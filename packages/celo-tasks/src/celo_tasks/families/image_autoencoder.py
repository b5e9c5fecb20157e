"""Autoencoders of one image set by multilayer perceptrons: a plain one and a variational one."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from celo_core import FamilyDefaults
from celo_tasks import datasets
from celo_tasks.families.image_mlp import MLP, clip_loss

Array = jax.Array

PIXEL_STEP = 1.0 / 255.0
"""Distance between two levels of a pixel."""

LOG_STDDEV_LIMIT = 10.0
"""Logarithms of standard deviations (and the decoder's means) are clipped to +- this, so that their squared exponentials
and all gradients stay finite; beyond it the gradient with respect to them is zero."""

VAE_LIMIT = 10.0
"""Upper end of the normalised loss of an `ImageVAE`."""


@dataclasses.dataclass(frozen=True)
class _Images(FamilyDefaults):
    """One set of flat images without labels: what the two families share.

    Attributes:
      name: name in results.
      dataset: a name for `celo_tasks.datasets.load_images`.
      num_pixels: numbers per image: height * width * channels.
      batch_size: images per batch.
      data_dir: folder with prepared arrays, or ``None``.
    """

    name: str
    dataset: str
    num_pixels: int
    batch_size: int = 128
    data_dir: str | None = None

    def load(self) -> dict[str, np.ndarray]:
        """Training images, uint8 (N, num_pixels)."""
        data = datasets.load_images(self.dataset, data_dir=self.data_dir, num_pixels=self.num_pixels)
        return {"images": data.x_train.reshape(-1, self.num_pixels)}

    def load_held_out(self) -> np.ndarray:
        """All test images, float32 (N, num_pixels) in [0, 1], for `metrics`."""
        data = datasets.load_images(self.dataset, data_dir=self.data_dir, num_pixels=self.num_pixels)
        return data.x_test.reshape(-1, self.num_pixels).astype(np.float32) / 255.0

    def sample(self, key: Array) -> dict[str, Array]:
        """Empty: all tasks are alike."""
        del key
        return {}

    def batch(self, key: Array, config: Any, data: Any) -> Array:
        """Images float32 (batch, num_pixels) in [0, 1]."""
        del config
        index = jax.random.randint(key, (self.batch_size,), 0, data["images"].shape[0])
        return data["images"][index].astype(jnp.float32) / 255.0


@dataclasses.dataclass(frozen=True)
class ImageAutoencoder(_Images):
    """A `celo_core.TaskFamily` of one task, with held-out images: an MLP that reconstructs its input.

    ReLU after every hidden layer, a sigmoid at the end, and the squared error per pixel, as in the public task library
    (arXiv 2211.09760, section 4).

    Attributes:
      name: name in results.
      dataset: a name for `celo_tasks.datasets.load_images`.
      num_pixels: numbers per image: height * width * channels.
      batch_size: images per batch.
      data_dir: folder with prepared arrays, or ``None``.
      hidden_sizes: widths of the hidden layers.
    """

    hidden_sizes: tuple[int, ...] = (32, 32, 32)

    def init(self, key: Array, config: Any) -> tuple[Any, None]:
        """Parameters of the network; there is no model state."""
        del config
        return self._network().init(key, jnp.zeros((1, self.num_pixels)))["params"], None

    def loss(self, params: Any, model_state: None, key: Array, config: Any, batch: Array) -> tuple[Array, None]:
        """Mean squared error per pixel."""
        del key
        return self.metrics(params, model_state, config, batch)["loss"], model_state

    def metrics(self, params: Any, model_state: None, config: Any, batch: Array) -> dict[str, Array]:
        """``{"loss": mean squared error per pixel}``, float32 ()."""
        del model_state, config
        logits: Any = self._network().apply({"params": params}, batch)
        return {"loss": jnp.mean(jnp.square(jax.nn.sigmoid(logits) - batch))}

    def normalizer(self, loss: Array) -> Array:
        """Loss clipped to [0, 1]; non-finite counts as the upper end, as in the public task library."""
        return clip_loss(loss, 1.0)

    def _network(self) -> MLP:
        return MLP(self.hidden_sizes, self.num_pixels)


class VAE(nn.Module):
    """An encoder and a decoder, MLPs with ReLU, that each give the mean and the log standard deviation of a normal.

    Attributes:
      encoder_sizes: widths of the encoder's hidden layers.
      num_latents: size of a code.
      decoder_sizes: widths of the decoder's hidden layers.
    """

    encoder_sizes: tuple[int, ...]
    num_latents: int
    decoder_sizes: tuple[int, ...]

    @nn.compact
    def __call__(self, images: Array, noise: Array) -> tuple[Array, Array, Array, Array]:
        """Encodes images, draws codes and decodes them.

        Args:
          images: (batch, pixels).
          noise: standard normal numbers (batch, num_latents), from which the codes are made.

        Returns:
          Mean and log standard deviation of the codes, (batch, num_latents), and those of the pixels, (batch, pixels).
        """
        encoder = MLP(self.encoder_sizes, 2 * self.num_latents, name="encoder")
        mean, log_stddev = jnp.split(encoder(images), 2, axis=-1)
        log_stddev = jnp.clip(log_stddev, -LOG_STDDEV_LIMIT, LOG_STDDEV_LIMIT)
        decoder = MLP(self.decoder_sizes, 2 * images.shape[-1], name="decoder")
        pixels = jnp.clip(decoder(mean + jnp.exp(log_stddev) * noise), -LOG_STDDEV_LIMIT, LOG_STDDEV_LIMIT)
        pixel_mean, pixel_log_stddev = jnp.split(pixels, 2, axis=-1)
        return mean, log_stddev, pixel_mean, pixel_log_stddev


def gaussian_kl(mean: Array, log_stddev: Array) -> Array:
    """KL divergence of N(mean, exp(log_stddev)^2) from N(0, 1), in nats, of the same shape."""
    return 0.5 * (jnp.exp(2 * log_stddev) + jnp.square(mean) - 1) - log_stddev


@dataclasses.dataclass(frozen=True)
class ImageVAE(_Images):
    """A `celo_core.TaskFamily` of one task, with held-out images: a variational autoencoder (arXiv 1312.6114).

    The loss is the negative evidence lower bound in nats per pixel. The prior of the codes is standard normal. A pixel is
    normal, and the loss is about the probability of its level: the pixel is spread uniformly over the width of a level, 1/255,
    and the density is multiplied by that width. The variational autoencoders of the public task library do the same.

    Attributes:
      name: name in results.
      dataset: a name for `celo_tasks.datasets.load_images`.
      num_pixels: numbers per image: height * width * channels.
      batch_size: images per batch.
      data_dir: folder with prepared arrays, or ``None``.
      encoder_sizes, num_latents, decoder_sizes: the network, see `VAE`.
    """

    encoder_sizes: tuple[int, ...] = (32, 32)
    num_latents: int = 32
    decoder_sizes: tuple[int, ...] = (32, 32)

    def init(self, key: Array, config: Any) -> tuple[Any, None]:
        """Parameters of the network; there is no model state."""
        del config
        images, noise = jnp.zeros((1, self.num_pixels)), jnp.zeros((1, self.num_latents))
        return self._network().init(key, images, noise)["params"], None

    def loss(self, params: Any, model_state: None, key: Array, config: Any, batch: Array) -> tuple[Array, None]:
        """Mean negative evidence lower bound in nats per pixel, estimated with one code per image."""
        del config
        key_latent, key_pixel = jax.random.split(key)
        latent_noise = jax.random.normal(key_latent, (len(batch), self.num_latents))
        pixel_noise = jax.random.uniform(key_pixel, batch.shape, minval=-0.5, maxval=0.5) * PIXEL_STEP
        return self.negative_elbo(params, batch, latent_noise, pixel_noise), model_state

    def negative_elbo(self, params: Any, images: Array, latent_noise: Array, pixel_noise: Array) -> Array:
        """The loss for given noise.

        Args:
          params: parameters of the network.
          images: (batch, num_pixels) in [0, 1].
          latent_noise: standard normal numbers (batch, num_latents).
          pixel_noise: (batch, num_pixels), uniform within half a level.

        Returns:
          Float32 (), nats per pixel.
        """
        outputs: Any = self._network().apply({"params": params}, images, latent_noise)
        mean, log_stddev, pixel_mean, pixel_log_stddev = outputs
        error = (images + pixel_noise - pixel_mean) * jnp.exp(-pixel_log_stddev)
        log_density = -0.5 * jnp.square(error) - pixel_log_stddev - 0.5 * math.log(2 * math.pi)
        log_probability = log_density + math.log(PIXEL_STEP)
        per_image = jnp.sum(gaussian_kl(mean, log_stddev), axis=-1) - jnp.sum(log_probability, axis=-1)
        return jnp.mean(per_image) / self.num_pixels

    def metrics(self, params: Any, model_state: None, config: Any, batch: Array) -> dict[str, Array]:
        """``{"loss": negative evidence lower bound in nats per pixel}``, float32 (), always with the same noise."""
        return {"loss": self.loss(params, model_state, jax.random.key(0), config, batch)[0]}

    def normalizer(self, loss: Array) -> Array:
        """Loss clipped to [0, 10] nats per pixel; non-finite counts as the upper end, as in the public task library.

        An untrained network costs about 6.6, and pixels that are uniform over their 256 levels cost 5.5.
        """
        return clip_loss(loss, VAE_LIMIT)

    def _network(self) -> VAE:
        return VAE(self.encoder_sizes, self.num_latents, self.decoder_sizes)
