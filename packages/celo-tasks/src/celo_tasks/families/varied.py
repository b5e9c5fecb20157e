"""Families of problems whose best step size differs: scales of inputs and targets, wrong labels, few examples, small batches.

What an optimizer must find out about a problem on the way is what a schedule can be learned from. The first three are what makes
gradients long, short or noisy; few examples can be memorised, so that the loss goes on falling. What differs between two
problems of a family is an argument of the compiled program, not a part of it: one program trains them all.

The distribution of these properties is our own. Sources: VeLO (arXiv 2211.09760, appendix on meta-training tasks), for families
that vary in more than their data; Zhang et al., "Understanding deep learning requires rethinking generalization" (arXiv
1611.03530), for labels that are replaced by random ones.
"""

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from celo_tasks.families.augmentation import Reparametrized
from celo_tasks.families.image_mlp import ImageMLP, clip_loss
from celo_tasks.families.image_sets import ImageAutoencoders

Array = jax.Array

SMALLEST_BATCH = 4
FEW_IMAGES = 512
FEW_BYTES = 8192
"""What a problem of few examples has: images, or bytes of text."""
FEW = 0.2
"""Share of the problems that have few examples."""

INPUTS: Mapping[str, float] = MappingProxyType(
    {"plain": 0.40, "times_255": 0.18, "times_0.01": 0.14, "plus_5": 0.12, "uneven": 0.16}
)
"""What becomes of the pixels, each with its probability. "uneven" multiplies each pixel by a number of its own, log-uniform
in `UNEVEN`."""
UNEVEN = (0.03, 30.0)

LEVELS = ("none", "none", "global", "tensor", "tensor")
"""Levels of augmentation, see `Reparametrized`: one that is listed twice is twice as likely."""

WRONG: Mapping[float, float] = MappingProxyType({0.0: 0.7, 0.1: 0.15, 0.3: 0.15})
"""Share of the labels, or of the bytes to be predicted, that are replaced by random ones, each with its probability."""

TARGETS: Mapping[float, float] = MappingProxyType({1.0: 0.4, 0.01: 0.3, 100.0: 0.3})
"""What a regression's targets are multiplied by, each with its probability."""


@dataclasses.dataclass(frozen=True)
class ImageRegression(ImageMLP):
    """A `celo_core.TaskFamily`: an MLP that is to return the one-hot label of an image, by squared error.

    As `ImageMLP`, whose fields it has, but that a batch has targets, float32 (batch, num_classes), in the place of labels. They may
    have any scale, which is what it is for: a classification has none.
    """

    @property
    def name(self) -> str:
        """E.g. ``"regression_32_mnist_8x8"``."""
        return "regression" + super().name.removeprefix("mlp")

    def loss(self, params: Any, model_state: None, key: Array, config: Any, batch: Any) -> tuple[Array, None]:
        """Mean over images of the sum of squared errors, float32 ()."""
        del key, config
        inputs, targets = batch
        outputs: Any = self._network().apply({"params": params}, inputs)
        return jnp.mean(jnp.sum(jnp.square(outputs - targets), axis=-1)), model_state

    def normalizer(self, loss: Array) -> Array:
        """Loss clipped to [0, 1e9]; non-finite counts as the upper end."""
        return clip_loss(loss, 1e9)

    def _batch(self, key: Array, config: Any, data: Any, prefix: str) -> tuple[Array, Array]:
        images, labels = super()._batch(key, config, data, prefix)
        return images, jax.nn.one_hot(labels, self.num_classes)


@dataclasses.dataclass(frozen=True)
class ImageRestoration(ImageAutoencoders):
    """A `celo_core.TaskFamily`: autoencoders whose inputs need not be what they are to return.

    As `ImageAutoencoders`, but that a batch is ``(inputs, images)``, both float32 (batch, pixels); by itself, the images twice.
    """

    def loss(self, params: Any, model_state: None, key: Array, config: Any, batch: Any) -> tuple[Array, None]:
        """Mean squared error per pixel, float32 ()."""
        del key, config
        inputs, targets = batch
        outputs: Any = self._network().apply({"params": params}, inputs)
        return jnp.mean(jnp.square(jax.nn.sigmoid(outputs) - targets)), model_state

    def _batch(self, key: Array, config: Any, data: Any, prefix: str) -> tuple[Array, Array]:
        images, _ = super()._batch(key, config, data, prefix)
        return images, images


@dataclasses.dataclass(frozen=True)
class Varied(Reparametrized):
    """A `celo_core.TaskFamily`: another one with badly scaled inputs and targets, wrong labels, few examples, smaller batches.

    A config is ``{"task": the family's, "scale": a tree like the parameters, see `Reparametrized`, "knobs"}``, where the last has

    - ``batch_size``: a power of two from `SMALLEST_BATCH` to the family's, each as likely, int32 (). A batch of b examples is one
      of the family's size that has each of them as often, or once more: its mean loss is that of the b where b divides the size;
    - ``gain``, float32 (pixels,), and ``offset``, float32 (): inputs are pixels * gain + offset, by `INPUTS`;
    - ``wrong``: the share of wrong labels, by `WRONG`, float32 (). They are the same in every batch;
    - ``target_scale``: what the targets of an `ImageRegression` are multiplied by, by `TARGETS`, float32 ();
    - ``few``: whether only the first `FEW_IMAGES` of a set, or `FEW_BYTES` of a text, are used, bool ().

    Texts have no pixels, and autoencoders no labels: their knobs are there, and without effect.

    Attributes:
      family: an `ImageMLP` or a subclass, a `SampledImageMLP`, or a language model of bytes.
      levels: of augmentation.
      zeros_follow: see `Reparametrized`.

    Raises:
      ValueError: the family's batches are smaller than `SMALLEST_BATCH`, or a level of augmentation is unknown.
    """

    levels: tuple[str, ...] = LEVELS
    zeros_follow: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.batch_sizes:
            raise ValueError(f"a varied family has batches of {SMALLEST_BATCH} or more, not of {self.batch_size}.")

    @property
    def name(self) -> str:
        """E.g. ``"varied_mlp_32_mnist_8x8"``."""
        return f"varied_{self.family.name}"

    @property
    def has_held_out(self) -> bool:
        """No."""
        return False

    def held_out_batch(self, key: Array, config: Any, data: Any) -> Any:
        """Raises ValueError: there is no held-out data."""
        raise ValueError(f"{type(self).__name__} has no held-out data.")

    @property
    def is_text(self) -> bool:
        """Whether its examples are pieces of text."""
        return hasattr(self.family, "text")

    @property
    def has_labels(self) -> bool:
        """Whether there are labels that may be wrong."""
        return not isinstance(self.family, ImageAutoencoders)

    @property
    def batch_size(self) -> int:
        """The largest batch."""
        family: Any = self.family
        return int(getattr(family, "max_batch_size", None) or family.batch_size)

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Those that are drawn."""
        return tuple(2**i for i in range(10) if SMALLEST_BATCH <= 2**i <= self.batch_size)

    @property
    def num_pixels(self) -> int:
        """Inputs that can be scaled: none of a text."""
        family: Any = self.family
        return 0 if self.is_text else math.prod(family.image_shape)

    def load(self) -> dict[str, np.ndarray]:
        """The family's data, and for each label a level of noise in percent below which it is replaced, and by what, uint8 (N,)."""
        family: Any = self.family
        data = dict(family.load())
        labels = data["text"] if self.is_text else data["labels"]
        rng = np.random.default_rng(0)
        classes = family.vocabulary if self.is_text else family.num_classes
        data["level"] = rng.integers(0, 100, len(labels)).astype(np.uint8)
        data["other"] = rng.integers(0, classes, len(labels)).astype(np.uint8)
        return data

    def sample(self, key: Array) -> dict[str, Any]:
        """The config of one problem, see the class."""
        key_scaled, key_batch, key_inputs, key_pixels, key_wrong, key_target, key_few = jax.random.split(key, 7)
        config = self.whole_batches(super().sample(key_scaled))
        inputs = jax.random.choice(key_inputs, len(INPUTS), p=jnp.asarray(list(INPUTS.values())))
        low, high = (math.log(bound) for bound in UNEVEN)
        uneven = jnp.exp(jax.random.uniform(key_pixels, (self.num_pixels,), jnp.float32, low, high))
        pick = lambda k, choices: jax.random.choice(
            k, jnp.asarray(list(choices), jnp.float32), p=jnp.asarray(list(choices.values()))
        )
        is_ = lambda name: inputs == list(INPUTS).index(name)
        gain = jnp.where(is_("times_255"), 255.0, jnp.where(is_("times_0.01"), 0.01, 1.0))
        regression = isinstance(self.family, ImageRegression)
        config["knobs"] = {
            "batch_size": jax.random.choice(key_batch, jnp.asarray(self.batch_sizes, jnp.int32)),
            "gain": jnp.where(is_("uneven"), uneven, gain).astype(jnp.float32),
            "offset": jnp.where(is_("plus_5"), 5.0, 0.0).astype(jnp.float32),
            "wrong": pick(key_wrong, WRONG) if self.has_labels else jnp.float32(0.0),
            "target_scale": pick(key_target, TARGETS) if regression else jnp.float32(1.0),
            "few": jax.random.bernoulli(key_few, FEW),
        }
        return config

    def whole_batches(self, config: dict[str, Any]) -> dict[str, Any]:
        """A config of `Reparametrized` in which the family draws no batch size of its own."""
        if isinstance(config["task"], Mapping) and "batch_size" in config["task"]:
            return {**config, "task": {**config["task"], "batch_size": jnp.int32(self.batch_size)}}
        return dict(config)

    def batch(self, key: Array, config: Any, data: Any) -> Any:
        """As the family's, with what the knobs say."""
        knobs, family = config["knobs"], self.family
        if self.is_text:
            return self._text(key, knobs, data)
        dataset = config["task"]["dataset"]
        size = data["size"][dataset]
        index = self._places(key, knobs, jnp.where(knobs["few"], jnp.minimum(size, FEW_IMAGES), size))
        index = index + data["offset"][dataset]
        images = data["images"][index].astype(jnp.float32) / 255.0
        inputs, labels = images * knobs["gain"] + knobs["offset"], _labels(knobs, data, data["labels"], index)
        if isinstance(family, ImageAutoencoders):
            return inputs, images
        if isinstance(family, ImageRegression):
            return inputs, knobs["target_scale"] * jax.nn.one_hot(labels, family.num_classes)
        if "batch_size" in config["task"]:
            return inputs, labels, jnp.ones((self.batch_size,), bool)
        return inputs, labels

    def _text(self, key: Array, knobs: Mapping[str, Array], data: Any) -> tuple[Array, Array]:
        family: Any = self.family
        size = jnp.where(knobs["few"], jnp.minimum(FEW_BYTES, len(data["text"])), len(data["text"]))
        places = self._places(key, knobs, size - family.length)[:, None] + jnp.arange(family.length)
        return data["text"][places].astype(jnp.int32), _labels(knobs, data, data["text"], places + 1)

    def _places(self, key: Array, knobs: Mapping[str, Array], limit: Any) -> Array:
        """Places of the examples of a batch, below a limit, int32 (batch_size,)."""
        drawn = jax.random.randint(key, (self.batch_size,), 0, limit)
        return drawn[jnp.arange(self.batch_size) % knobs["batch_size"]]


def _labels(knobs: Mapping[str, Array], data: Any, labels: Array, index: Array) -> Array:
    wrong = data["level"][index] < 100.0 * knobs["wrong"]
    return jnp.where(wrong, data["other"][index], labels[index]).astype(jnp.int32)
