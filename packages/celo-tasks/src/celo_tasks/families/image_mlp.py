"""Classification of small grey images by a multilayer perceptron: the tasks on which Celo is meta-trained.

Source: Celo (arXiv 2501.12670, section 4): one hidden layer of 32 ReLU units on 8x8 images, batch 64, cross entropy,
truncated-normal initialisation with standard deviation 1/sqrt(fan_in), zero biases, pixels in [0, 1].
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from einops import rearrange

from celo_core import FamilyDefaults
from celo_tasks import datasets

Array = jax.Array

ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = MappingProxyType({"relu": nn.relu, "tanh": jnp.tanh})
"""Nonlinearities between the layers of an `MLP`, by name."""


def fan_in_normal(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    """Normal numbers, truncated at 2 and scaled by 1/sqrt(fan_in); fan_in is all axes but the last."""
    scale = 1.0 / math.sqrt(math.prod(shape[:-1]))
    return scale * jax.random.truncated_normal(key, -2.0, 2.0, tuple(shape), dtype)


def clip_cross_entropy(loss: Array, num_classes: int) -> Array:
    """A cross entropy clipped to [0, 1.5 log num_classes]; a non-finite one counts as the upper end."""
    return clip_loss(loss, 1.5 * math.log(num_classes))


def clip_loss(loss: Array, limit: float) -> Array:
    """A loss clipped to [0, limit]; a non-finite one counts as the upper end."""
    return jnp.clip(jnp.nan_to_num(loss, nan=limit, posinf=limit, neginf=limit), 0.0, limit)


class MLP(nn.Module):
    """Dense layers with a nonlinearity between them, on flat inputs (batch, inputs).

    Attributes:
      hidden_sizes: widths of the hidden layers.
      num_outputs: width of the last layer, which is linear.
      activation: a name in `ACTIVATIONS`.
    """

    hidden_sizes: Sequence[int]
    num_outputs: int
    activation: str = "relu"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns logits (batch, num_outputs).

        Raises:
          ValueError: there is no such activation.
        """
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"there is no activation {self.activation!r}: use one of {', '.join(ACTIVATIONS)}.")
        for size in self.hidden_sizes:
            x = ACTIVATIONS[self.activation](nn.Dense(size, kernel_init=fan_in_normal)(x))
        return nn.Dense(self.num_outputs, kernel_init=fan_in_normal)(x)


@dataclasses.dataclass(frozen=True)
class ImageMLP(FamilyDefaults):
    """A `celo_core.TaskFamily`: a task is one of several image sets of the same shape, drawn uniformly.

    Attributes:
      datasets: names for `celo_tasks.datasets.load_images`.
      hidden_sizes: widths of the hidden layers.
      batch_size: images per batch.
      num_classes: logits.
      image_shape: shape of an image.
      data_dir: folder with prepared arrays, or ``None``.
      held_out: whether test images are loaded as well, for a meta-loss on held-out batches.
      num_images: number of images of each set, the first ones, for training; ``None`` for all. A network memorises a small
        set, so that the loss continues to fall as it does for large networks.
    """

    datasets: tuple[str, ...]
    hidden_sizes: tuple[int, ...] = (32,)
    batch_size: int = 64
    num_classes: int = 10
    image_shape: tuple[int, ...] = (8, 8)
    data_dir: str | None = None
    held_out: bool = False
    num_images: int | None = None

    @property
    def name(self) -> str:
        """E.g. ``"mlp_32_mnist_8x8"``, or ``"mlp_32_of_512_mnist_8x8"`` of 512 images."""
        few = [] if self.num_images is None else ["of", str(self.num_images)]
        return "_".join(["mlp", *map(str, self.hidden_sizes), *few, *self.datasets])

    def load(self) -> dict[str, np.ndarray]:
        """Training images uint8 (N, pixels) of all sets, concatenated, labels, and each set's begin and size.

        With ``held_out``, the same of test images, under names that begin with ``held_out_``.

        Raises:
          FileNotFoundError: there is no such set.
          ValueError: images or labels do not fit the network.
        """
        pixels = math.prod(self.image_shape)
        sets = [
            datasets.load_images(name, data_dir=self.data_dir, num_classes=self._labels_below(), num_pixels=pixels)
            for name in self.datasets
        ]
        arrays = _concatenated([(one.x_train[: self.num_images], one.y_train[: self.num_images]) for one in sets])
        if self.held_out:
            test = _concatenated([(one.x_test, one.y_test) for one in sets])
            arrays |= {f"{_HELD_OUT}{name}": array for name, array in test.items()}
        return arrays

    def _labels_below(self) -> int | None:
        """Exclusive upper bound of the labels; ``None`` where they are not used."""
        return self.num_classes

    def sample(self, key: Array) -> dict[str, Array]:
        """``{"dataset": int32 ()}``, uniform."""
        return {"dataset": jax.random.randint(key, (), 0, len(self.datasets), jnp.int32)}

    def init(self, key: Array, config: Any) -> tuple[Any, None]:
        """Parameters of the network; there is no model state."""
        del config
        return self._network().init(key, jnp.zeros((1, math.prod(self.image_shape))))["params"], None

    def batch(self, key: Array, config: Any, data: Any) -> tuple[Array, Array]:
        """Images float32 (batch, pixels) in [0, 1] and labels int32 (batch,)."""
        return self._batch(key, config, data, "")

    @property
    def has_held_out(self) -> bool:
        """Whether test images are loaded."""
        return self.held_out

    def held_out_batch(self, key: Array, config: Any, data: Any) -> tuple[Array, Array]:
        """As `batch`, of test images; raises ValueError unless they are loaded."""
        if not self.held_out:
            raise ValueError("test images are loaded with held_out=True only.")
        return self._batch(key, config, data, _HELD_OUT)

    def _batch(self, key: Array, config: Any, data: Any, prefix: str) -> tuple[Array, Array]:
        index = jax.random.randint(key, (self.batch_size,), 0, data[f"{prefix}size"][config["dataset"]])
        index = index + data[f"{prefix}offset"][config["dataset"]]
        images, labels = data[f"{prefix}images"][index], data[f"{prefix}labels"][index]
        return images.astype(jnp.float32) / 255.0, labels.astype(jnp.int32)

    def loss(
        self, params: Any, model_state: None, key: Array, config: Any, batch: tuple[Array, Array]
    ) -> tuple[Array, None]:
        """Mean cross entropy in nats."""
        del key, config
        images, labels = batch
        logits: Any = self._network().apply({"params": params}, images)
        return jnp.mean(optax.softmax_cross_entropy(logits, jax.nn.one_hot(labels, self.num_classes))), model_state

    def normalizer(self, loss: Array) -> Array:
        """Loss clipped to [0, 1.5 log classes]; non-finite counts as the upper end, as in the public task library."""
        return clip_cross_entropy(loss, self.num_classes)

    def _network(self) -> MLP:
        return MLP(self.hidden_sizes, self.num_classes)


_HELD_OUT = "held_out_"


def _concatenated(sets: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    """Images and labels of several sets, concatenated, and the begin and size of each set."""
    images = [rearrange(x, "n ... -> n (...)") for x, _ in sets]
    sizes = np.asarray([len(x) for x in images], np.int32)
    return {
        "images": np.concatenate(images),
        "labels": np.concatenate([y for _, y in sets]),
        "offset": np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int32),
        "size": sizes,
    }
