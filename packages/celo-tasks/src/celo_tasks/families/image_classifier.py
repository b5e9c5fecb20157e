"""Classification of one image set by any flax network: the image tasks on which optimizers are evaluated.

The pixels are in [0, 1], the loss is the cross entropy and batches are drawn with replacement, as in the public task
library whose tasks the papers use (arXiv 2211.09760, section 4).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from celo_core import FamilyDefaults
from celo_tasks import datasets
from celo_tasks.families.image_mlp import clip_cross_entropy

Array = jax.Array

LARGEST_BATCH = 500
"""Images per pass through a network in its evaluation: activations for thousands of images need not fit in memory."""


@dataclasses.dataclass(frozen=True)
class ImageClassifier(FamilyDefaults):
    """A `celo_core.TaskFamily` of one task, with held-out images.

    Attributes:
      name: name in results.
      network: maps float32 images (batch, *input_shape) to logits (batch, num_classes). One with batch normalisation
        keeps its running averages in flax's collection "batch_stats", and has a keyword ``train`` (false by default): if
        true, it normalises by the current batch and updates them.
      dataset: a name for `celo_tasks.datasets.load_images`.
      input_shape: shape of an image as input of the network, e.g. (784,) or (28, 28, 1).
      batch_size: images per batch.
      num_classes: logits.
      data_dir: folder with prepared arrays, or ``None``.
      gain: pixels are multiplied by this: 255 leaves them between 0 and 255.
      smallest_batch: if given, each batch has a random number of different images from this one to ``batch_size``, each as
        often as the others or once more.
    """

    name: str
    network: nn.Module
    dataset: str
    input_shape: tuple[int, ...]
    batch_size: int = 128
    num_classes: int = 10
    data_dir: str | None = None
    gain: float = 1.0
    smallest_batch: int | None = None

    def _images(self) -> datasets.ImageData:
        pixels = math.prod(self.input_shape)
        return datasets.load_images(
            self.dataset, data_dir=self.data_dir, num_classes=self.num_classes, num_pixels=pixels
        )

    def load(self) -> dict[str, np.ndarray]:
        """Training images uint8 (N, *input_shape) and labels uint8 (N,).

        Raises:
          FileNotFoundError: there is no such set.
          ValueError: images or labels do not fit the network.
        """
        data = self._images()
        return {"images": data.x_train.reshape(-1, *self.input_shape), "labels": data.y_train}

    def load_held_out(self) -> tuple[np.ndarray, np.ndarray]:
        """All test images, float32 (N, *input_shape) in [0, 1], and their labels int32 (N,), for `metrics`."""
        data = self._images()
        images = data.x_test.reshape(-1, *self.input_shape).astype(np.float32) / 255.0
        return images if self.gain == 1 else np.float32(self.gain) * images, data.y_test.astype(np.int32)

    def sample(self, key: Array) -> dict[str, Array]:
        """Empty: all tasks are alike."""
        del key
        return {}

    def init(self, key: Array, config: Any) -> tuple[Any, Any]:
        """Parameters of the network, and its "batch_stats" as model state: ``None`` where it has none."""
        del config
        return init_network(self.network, key, self.input_shape)

    def batch(self, key: Array, config: Any, data: Any) -> tuple[Array, Array]:
        """Images float32 (batch, *input_shape) in [0, 1] and labels int32 (batch,)."""
        del config
        index = jax.random.randint(key, (self.batch_size,), 0, data["labels"].shape[0])
        if self.smallest_batch is not None:
            different = jax.random.randint(jax.random.fold_in(key, 1), (), self.smallest_batch, self.batch_size + 1)
            index = index[jnp.arange(self.batch_size) % different]
        images = data["images"][index].astype(jnp.float32) / 255.0
        return images if self.gain == 1 else self.gain * images, data["labels"][index].astype(jnp.int32)

    def loss(self, params: Any, model_state: Any, key: Array, config: Any, batch: Any) -> tuple[Array, Any]:
        """Mean cross entropy in nats, normalised by the batch's own statistics, and the new running averages."""
        del key, config
        images, labels = batch
        return cross_entropy(self.network, params, model_state, images, labels)

    def metrics(self, params: Any, model_state: Any, config: Any, batch: tuple[Array, Array]) -> dict[str, Array]:
        """Evaluates a network, with its running averages if it has any.

        Args:
          params: parameters of the network.
          model_state: its model state.
          config: not used.
          batch: images float32 (N, *input_shape) and labels int32 (N,), of any number N.

        Returns:
          ``{"loss": mean cross entropy in nats, "accuracy": fraction of images classified correctly}``, float32 ().
        """
        del config
        images, labels = batch
        variables = {"params": params} if model_state is None else {"params": params, "batch_stats": model_state}
        logits = _in_parts(lambda part: self.network.apply(variables, part), images)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return {"loss": jnp.mean(losses), "accuracy": jnp.mean(jnp.argmax(logits, -1) == labels)}

    def normalizer(self, loss: Array) -> Array:
        """Loss clipped to [0, 1.5 log classes]; non-finite counts as the upper end (as in the public task library)."""
        return clip_cross_entropy(loss, self.num_classes)


def init_network(network: nn.Module, key: Array, input_shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Parameters of a network, and its "batch_stats" as model state: ``None`` where it has none."""
    variables = network.init(key, jnp.zeros((1, *input_shape)))
    return variables["params"], variables.get("batch_stats")


def cross_entropy(network: nn.Module, params: Any, model_state: Any, images: Array, labels: Array) -> tuple[Array, Any]:
    """Mean cross entropy in nats, normalised by the batch's own statistics, and the new running averages."""
    logits: Any
    if model_state is None:
        logits = network.apply({"params": params}, images)
    else:
        variables = {"params": params, "batch_stats": model_state}
        logits, updated = network.apply(variables, images, train=True, mutable=["batch_stats"])
        model_state = updated["batch_stats"]
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels)), model_state


def _in_parts(function: Callable[[Array], Any], images: Array) -> Any:
    """The result of a function that treats each image separately, computed for `LARGEST_BATCH` images at a time."""
    count = len(images) // LARGEST_BATCH
    if len(images) <= LARGEST_BATCH:
        return function(images)
    parts = jax.lax.map(function, images[: count * LARGEST_BATCH].reshape(count, LARGEST_BATCH, *images.shape[1:]))
    whole = parts.reshape(-1, *parts.shape[2:])
    rest = images[count * LARGEST_BATCH :]
    return jnp.concatenate([whole, function(rest)]) if len(rest) else whole
