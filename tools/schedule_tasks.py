"""Small tasks whose best step size differs: the families of meta-training in other sizes, scales, batches and noise.

The networks come from `celo_tasks.meta_training.families`, some of them wider; a regression is added, since classification has no
scale of its targets. None of them is a task of a suite or of `celo_tasks.meta_training.validation`. What differs between
two tasks of the same `Shape` is an argument of the compiled program, not a part of it, so that one program serves them all.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from celo_core import TaskFamily
from celo_tasks.families import ConvNet, ImageMLP, TransformerLM, VisionTransformer, reparametrize
from celo_tasks.families.image_mlp import clip_loss
from celo_tasks.families.image_sets import ImageAutoencoders
from celo_tasks.families.recurrent import RecurrentLM
from celo_tasks.meta_training.families import META_FAMILIES, Sources

Array = jax.Array

SMALLEST_BATCH = 4
FEW_IMAGES = 512
FEW_BYTES = 8192
"""What a task of few examples has: images, or bytes of text."""

INPUTS = {"plain": 0.40, "times_255": 0.18, "times_0.01": 0.14, "plus_5": 0.12, "uneven": 0.16}
"""What becomes of the pixels, each with its probability. "uneven" multiplies each pixel by a number of its own, log-uniform
in [0.03, 30]."""

AUGMENTATIONS = {"none": 0.4, "global": 0.2, "tensor": 0.4}
"""Levels of `celo_tasks.families.reparametrize`, each with its probability."""

WRONG = {0.0: 0.7, 0.1: 0.15, 0.3: 0.15}
"""Share of the labels, or of the bytes to be predicted, that are replaced by random ones."""

TARGETS = {1.0: 0.4, 0.01: 0.3, 100.0: 0.3}
"""What a regression's targets are multiplied by."""


@dataclasses.dataclass(frozen=True)
class ImageRegression(ImageMLP):
    """A network that is to return ``scale`` times the one-hot label of an image, by squared error."""

    def loss(self, params: Any, model_state: None, key: Array, config: Any, batch: Any) -> tuple[Array, None]:
        """Mean over images of the sum of squared errors; ``batch`` has the targets in place of labels."""
        del key, config
        inputs, targets = batch
        outputs: Any = self._network().apply({"params": params}, inputs)
        return jnp.mean(jnp.sum(jnp.square(outputs - targets), axis=-1)), model_state

    def normalizer(self, loss: Array) -> Array:
        """The loss, where it is finite and not absurd."""
        return clip_loss(loss, 1e9)


@dataclasses.dataclass(frozen=True)
class _Autoencoders(ImageAutoencoders):
    """Autoencoders whose inputs are not quite what they are to return."""

    def loss(self, params: Any, model_state: None, key: Array, config: Any, batch: Any) -> tuple[Array, None]:
        """Mean squared error per pixel."""
        del key, config
        inputs, targets = batch
        outputs: Any = self._network().apply({"params": params}, inputs)
        return jnp.mean(jnp.square(jax.nn.sigmoid(outputs) - targets)), model_state


def _fields(family: Any, cls: type, **changes: Any) -> Any:
    """A family of images as another class of them."""
    fields = {field.name: getattr(family, field.name) for field in dataclasses.fields(family)}
    return cls(**{**fields, **changes})


def _regression(family: Any, **changes: Any) -> TaskFamily:
    return _fields(family, ImageRegression, **changes)


def _autoencoder(family: Any, **changes: Any) -> TaskFamily:
    return _fields(family, _Autoencoders, **changes)


@dataclasses.dataclass(frozen=True)
class Shape:
    """Tasks that share a compiled program.

    Attributes:
      family: a name in `META_FAMILIES`, which it is made from.
      label: what kind of network, in results.
      share: how often it is drawn: the cheaper, the more often.
      changes: fields of the family that are replaced.
      make: makes the family of that of meta-training and the changes.
    """

    family: str
    label: str
    share: int
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    make: Callable[..., TaskFamily] = dataclasses.replace

    def build(self, datasets: tuple[str, ...], data_dir: str | None) -> "Varied":
        """The family of all its tasks."""
        base = META_FAMILIES[self.family][1](Sources(datasets, data_dir=data_dir))
        return Varied(self.make(base, **self.changes))


def _vit(width: int, layers: int) -> VisionTransformer:
    return VisionTransformer(
        patch_size=2, width=width, mlp_width=2 * width, num_heads=2, num_layers=layers, num_outputs=10
    )


SHAPES = (
    Shape("mlp", "mlp_32", 3),
    Shape("small_batch_mlp", "mlp_32_16", 3),
    Shape("few_images_mlp", "mlp_40_40_few", 3),
    Shape("sampled_mlp", "sampled_mlp_32", 4),
    Shape("autoencoder", "autoencoder_24_6_24", 2, make=_autoencoder),
    Shape("vit", "vit_1x16", 2),
    Shape("convnet", "convnet_6_12_norm", 2),
    Shape("transformer", "transformer_1x12", 2, {"batch_size": 8}),
    Shape("gru", "gru_16", 2),
    Shape("mlp", "regression_32", 3, {"batch_size": 32}, _regression),
    Shape("mlp", "mlp_16_large_batch", 2, {"hidden_sizes": (16,), "batch_size": 128}),
    Shape("mlp", "mlp_64_64_64", 2, {"hidden_sizes": (64, 64, 64), "batch_size": 16}),
    Shape("mlp", "mlp_128", 2, {"hidden_sizes": (128,), "batch_size": 32}),
    Shape("sampled_mlp", "sampled_mlp_64", 1, {"max_width": 64, "max_batch_size": 64}),
    Shape("autoencoder", "autoencoder_96_24_96", 1, {"hidden_sizes": (96, 24, 96), "batch_size": 16}, _autoencoder),
    Shape("convnet", "convnet_6_12_plain", 2, {"network": ConvNet((6, 12), (2, 2), 10)}),
    Shape(
        "convnet",
        "convnet_16_32_norm",
        1,
        {"network": ConvNet((16, 32), (2, 2), 10, normalization="batch"), "batch_size": 8},
    ),
    Shape("mlp", "regression_96_48", 1, {"hidden_sizes": (96, 48), "batch_size": 16}, _regression),
    Shape("transformer", "transformer_2x32", 1, {"network": TransformerLM(2, 32, 2, 12), "batch_size": 4}),
    Shape("gru", "gru_48", 1, {"network": RecurrentLM("gru", 48, 24)}),
    Shape("vit", "vit_2x32", 1, {"network": _vit(32, 2)}),
    Shape("few_images_mlp", "mlp_160_160_few", 1, {"hidden_sizes": (160, 160)}),
    Shape("mlp", "mlp_256_128", 1, {"hidden_sizes": (256, 128), "batch_size": 32}),
)
"""Of a thousand to some 50,000 parameters."""


def shape_of(task: int) -> Shape:
    """The shape of a task by its number: all of them come first, and then those of larger shares more often."""
    cycle = [shape for turn in range(max(s.share for s in SHAPES)) for shape in SHAPES if shape.share > turn]
    return cycle[task % len(cycle)]


class Draw:
    """What a task is, apart from its shape.

    Args:
      task: its number.
      seed: of all tasks.
      family: of its shape.

    Attributes:
      described: for JSON and for people.
      seed: of initialisation and batches.
    """

    def __init__(self, task: int, seed: int, family: "Varied") -> None:
        rng = np.random.default_rng([seed, task])
        pick = lambda choices: list(choices)[rng.choice(len(choices), p=list(choices.values()))]
        self.seed = int(rng.integers(2**31))
        sizes = [2**i for i in range(10) if SMALLEST_BATCH <= 2**i <= family.batch_size]
        batch = int(rng.choice(sizes))
        inputs, wrong, target = pick(INPUTS), pick(WRONG), pick(TARGETS)
        augmentation, few = pick(AUGMENTATIONS), bool(rng.random() < 0.2)
        self.pixels = np.exp(rng.uniform(math.log(0.03), math.log(30.0), family.num_pixels)).astype(np.float32)
        self.described = {
            "batch_size": batch,
            "inputs": inputs if family.num_pixels else "plain",
            "wrong_labels": wrong if family.has_labels else 0.0,
            "target_scale": target if isinstance(family.inner, ImageRegression) else 1.0,
            "augmentation": augmentation,
            "few_examples": few or getattr(family.inner, "num_images", None) is not None,
        }

    def knobs(self) -> dict[str, Any]:
        """Arguments of the compiled program."""
        of = self.described
        gain = {"times_255": 255.0, "times_0.01": 0.01}.get(of["inputs"], 1.0)
        return {
            "batch_size": np.int32(of["batch_size"]),
            "gain": self.pixels if of["inputs"] == "uneven" else np.full_like(self.pixels, gain),
            "offset": np.float32(5.0 if of["inputs"] == "plus_5" else 0.0),
            "wrong": np.float32(of["wrong_labels"]),
            "target_scale": np.float32(of["target_scale"]),
            "few": np.bool_(of["few_examples"]),
        }


@dataclasses.dataclass(frozen=True)
class Varied:
    """A family with badly scaled inputs and targets, wrong labels, few examples and smaller batches; a `TaskFamily`.

    A config is ``{"task": the inner family's, "knobs": see `Draw.knobs`, "scale": a tree like the parameters}``. A batch of b
    examples is a batch of the family's size that has each of them as often, whose mean loss is that of the b.

    Attributes:
      inner: the family.
    """

    inner: Any

    @property
    def name(self) -> str:
        """The inner family's with a prefix."""
        return f"varied_{self.inner.name}"

    @property
    def is_text(self) -> bool:
        """Whether its examples are pieces of text."""
        return hasattr(self.inner, "text")

    @property
    def has_labels(self) -> bool:
        """Whether there are labels that may be wrong."""
        return not isinstance(self.inner, ImageAutoencoders)

    @property
    def batch_size(self) -> int:
        """The largest batch."""
        size = getattr(self.inner, "max_batch_size", None)
        return int(size or self.inner.batch_size)

    @property
    def num_pixels(self) -> int:
        """Inputs that can be scaled: none of a text."""
        return 0 if self.is_text else math.prod(self.inner.image_shape)

    def load(self) -> dict[str, np.ndarray]:
        """The inner family's data, and for each label a level of noise below which it is replaced, and by what."""
        data = dict(self.inner.load())
        labels = data["text"] if self.is_text else data["labels"]
        rng = np.random.default_rng(0)
        classes = 256 if self.is_text else self.inner.num_classes
        data["level"] = rng.integers(0, 100, len(labels)).astype(np.uint8)
        data["other"] = rng.integers(0, classes, len(labels)).astype(np.uint8)
        return data

    def sample(self, key: Array) -> Any:
        """Not drawn by a key: see `config`."""
        raise NotImplementedError("tasks are drawn by Draw, not by a key.")

    def config(self, draw: Draw) -> dict[str, Any]:
        """The config of a drawn task."""
        key = jax.random.key(draw.seed)
        task = dict(self.inner.sample(key))
        if "batch_size" in task:
            task["batch_size"] = jnp.int32(self.batch_size)
        level = draw.described["augmentation"]
        scale = reparametrize(self.inner, (level,), zeros_follow=True).sample(key)["scale"]
        return {"task": task, "knobs": draw.knobs(), "scale": scale}

    def active_sizes(self, config: Any) -> Any:
        """The inner family's, see `celo_core.embed_task`; ``None`` if it has none."""
        sizes = getattr(self.inner, "active_sizes", None)
        return None if sizes is None else sizes(config["task"])

    def init(self, key: Array, config: Any) -> tuple[Any, Any]:
        """The inner family's initial parameters divided by the scales."""
        params, model_state = self.inner.init(key, config["task"])
        return jax.tree.map(jnp.divide, params, config["scale"]), model_state

    def _first(self, key: Array, config: Any, limit: Any) -> Array:
        """Places of the examples of a batch, below a limit, int32 (batch_size,)."""
        drawn = jax.random.randint(key, (self.batch_size,), 0, limit)
        return drawn[jnp.arange(self.batch_size) % config["knobs"]["batch_size"]]

    def _labels(self, config: Any, data: Any, index: Array) -> Array:
        labels = data["text"] if self.is_text else data["labels"]
        wrong = data["level"][index] < 100.0 * config["knobs"]["wrong"]
        return jnp.where(wrong, data["other"][index], labels[index]).astype(jnp.int32)

    def batch(self, key: Array, config: Any, data: Any) -> Any:
        """As the inner family's, with what the config says."""
        knobs = config["knobs"]
        if self.is_text:
            length = self.inner.length
            size = data["text"].shape[0]
            start = self._first(key, config, jnp.where(knobs["few"], FEW_BYTES, size) - length)[:, None]
            places = start + jnp.arange(length)
            return data["text"][places].astype(jnp.int32), self._labels(config, data, places + 1)
        dataset = config["task"]["dataset"]
        size = data["size"][dataset]
        index = self._first(key, config, jnp.where(knobs["few"], jnp.minimum(size, FEW_IMAGES), size))
        index = index + data["offset"][dataset]
        images = data["images"][index].astype(jnp.float32) / 255.0
        inputs, labels = images * knobs["gain"] + knobs["offset"], self._labels(config, data, index)
        if isinstance(self.inner, ImageAutoencoders):
            return inputs, images
        if isinstance(self.inner, ImageRegression):
            return inputs, knobs["target_scale"] * jax.nn.one_hot(labels, self.inner.num_classes)
        if "batch_size" in config["task"]:
            return inputs, labels, jnp.ones((self.batch_size,), bool)
        return inputs, labels

    def loss(self, params: Any, model_state: Any, key: Array, config: Any, batch: Any) -> tuple[Array, Any]:
        """The inner family's loss at the scaled parameters."""
        scaled = jax.tree.map(jnp.multiply, params, config["scale"])
        return self.inner.loss(scaled, model_state, key, config["task"], batch)

    def normalizer(self, loss: Array) -> Array:
        """The inner family's."""
        return self.inner.normalizer(loss)

    def limit(self, draw: Draw) -> tuple[float, float]:
        """What losses are divided by, and above which they are cut off after that."""
        if isinstance(self.inner, ImageRegression):
            # Returning zeros costs 1 after the division; a network that begins with outputs of 1 for targets of 0.01, 10,000.
            return draw.described["target_scale"] ** 2, 1e6
        return 1.0, float(self.normalizer(jnp.float32(jnp.inf)))
