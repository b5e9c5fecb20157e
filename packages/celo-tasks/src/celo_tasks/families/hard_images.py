"""Families of several image sets whose losses explode or whose gradients are noise, for meta-training."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from celo_tasks.families.es_wrapped import ESWrapped
from celo_tasks.families.image_autoencoder import VAE, ImageVAE
from celo_tasks.families.image_mlp import ImageMLP
from celo_tasks.families.image_sets import ImageAutoencoders
from celo_tasks.families.wrapping import WrappedFamily

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class ImageVAEs(ImageAutoencoders):
    """A `celo_core.TaskFamily`: variational autoencoders of images of one of several sets, with the loss of `ImageVAE`.

    Too long a step makes the loss many times as large, from which a training does not recover. As `ImageMLP`, whose fields it has
    (``hidden_sizes`` are those of encoder and decoder each), with

    Attributes:
      latents: size of a code.
    """

    latents: int = 4

    def __post_init__(self) -> None:
        if self.latents < 1:
            raise ValueError(f"a code has at least 1 number, not {self.latents}.")

    @property
    def name(self) -> str:
        """E.g. ``"vae_24_4_mnist_8x8"``."""
        return "_".join(["vae", *map(str, self.hidden_sizes), str(self.latents), *self.datasets])

    def _vae(self) -> ImageVAE:
        pixels = self.image_shape[0] * self.image_shape[1]
        sizes = self.hidden_sizes
        return ImageVAE(self.name, self.datasets[0], pixels, self.batch_size, None, sizes, self.latents, sizes)

    def init(self, key: Array, config: Any) -> tuple[Any, None]:
        """Parameters of the network, a `VAE`; there is no model state."""
        del config
        vae = self._vae()
        network = VAE(vae.encoder_sizes, vae.num_latents, vae.decoder_sizes)
        return network.init(key, jnp.zeros((1, vae.num_pixels)), jnp.zeros((1, vae.num_latents)))["params"], None

    def loss(self, params: Any, model_state: None, key: Array, config: Any, batch: Any) -> tuple[Array, None]:
        """Mean negative evidence lower bound of the images in nats per pixel, float32 (); of ``batch`` the last part is read."""
        return self._vae().loss(params, model_state, key, config, batch[-1])

    def normalizer(self, loss: Array) -> Array:
        """That of `ImageVAE`."""
        return self._vae().normalizer(loss)

    def _batch(self, key: Array, config: Any, data: Any, prefix: str) -> tuple[Array, Array]:
        images, _ = super()._batch(key, config, data, prefix)
        return images, images


@dataclasses.dataclass(frozen=True)
class EstimatedImageMLP(ImageMLP):
    """A `celo_core.TaskFamily`: `ImageMLP`, whose fields it has, with gradients by evolution strategies, see `ESWrapped`.

    Attributes:
      num_pairs: pairs of perturbations per gradient.
      sigma: standard deviation of the perturbations.
    """

    num_pairs: int = 1
    sigma: float = 0.02

    def __post_init__(self) -> None:
        self._estimated()  # which checks pairs and sigma

    def _estimated(self) -> ESWrapped:
        plain = ImageMLP(**{field.name: getattr(self, field.name) for field in dataclasses.fields(ImageMLP)})
        return ESWrapped(plain, self.num_pairs, self.sigma)

    @property
    def name(self) -> str:
        """E.g. ``"es_1pair_mlp_32_mnist_8x8"``."""
        return f"es_{self.num_pairs}pair_{super().name}"

    def loss(self, params: Any, model_state: None, key: Array, config: Any, batch: Any) -> tuple[Array, Any]:
        """The mean loss of the pairs, whose gradient is the estimate."""
        return self._estimated().loss(params, model_state, key, config, batch)


@dataclasses.dataclass(frozen=True)
class SameBatch(WrappedFamily):
    """A `celo_core.TaskFamily`: another one whose trainings see one batch in every step, so that gradients have no noise.

    Which one it is depends on the config alone: the same key draws it.
    """

    @property
    def name(self) -> str:
        """The family's with a prefix."""
        return f"same_batch_{self.family.name}"

    def batch(self, key: Array, config: Any, data: Any) -> Any:
        """The family's, whatever the key."""
        del key
        return self.family.batch(jax.random.key(0), config, data)

    def loss(self, params: Any, model_state: Any, key: Array, config: Any, batch: Any) -> tuple[Array, Any]:
        """The family's."""
        return self.family.loss(params, model_state, key, config, batch)
