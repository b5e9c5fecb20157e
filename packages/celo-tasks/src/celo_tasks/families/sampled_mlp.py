"""Many different image MLPs in one program: random width, depth, activation, initialisation, batch size, data and loss.

The parameters have the shapes of the largest network. Units, layers and examples that a task does not use are masked: they
do not contribute to the function, and their gradients are exactly zero. So tasks of all kinds can be trained together under
`jax.vmap`, as a meta-gradient estimator does.

Distribution of tasks. A task is a point of the unit cube with one axis per property, mapped to the properties such that all
kinds have the same weight: names are equally likely, sizes and gains log-uniform, so that a doubling of the width is as likely
among small networks, which train easily, as among large ones. Independent draws form clusters, the more so with eight
axes. `SampledImageMLP.sample_many` therefore uses the points of an additive recurrence, ``frac(u + i a)`` with ``a_j = r^-j``
and r the root of ``r^(d+1) = r + 1``, shifted at random by u: a single point has the distribution of ``sample``, but together
they cover every axis, and the cells of several axes, evenly. Strata over the product of the axes would be more than there are
problems at once.

Sources: VeLO (arXiv 2211.09760, appendix on meta-training tasks), for the properties that are drawn; Cranley and Patterson,
"Randomization of number theoretic methods for multiple integration" (SIAM J. Numer. Anal. 13, 1976), for the random shift;
Roberts, "The unreasonable effectiveness of quasirandom sequences" (2018), for the steps a.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from celo_core import FamilyDefaults
from celo_tasks.families.image_mlp import ImageMLP, clip_cross_entropy

Array = jax.Array

# All are computed for every task under vmap, so the derivative of each must be finite where its input is.
ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = MappingProxyType(
    {
        "relu": jax.nn.relu,
        "tanh": jnp.tanh,
        "sigmoid": jax.nn.sigmoid,
        "silu": jax.nn.silu,
        "gelu": lambda x: jax.nn.gelu(x, approximate=False),
        "leaky_relu": jax.nn.leaky_relu,
    }
)
"""Activations by name."""

INITIALIZERS: Mapping[str, Callable[[Array, tuple[int, ...]], Array]] = MappingProxyType(
    {
        "truncated_normal": lambda key, shape: jax.random.truncated_normal(key, -2.0, 2.0, shape),
        "normal": lambda key, shape: jax.random.normal(key, shape),
        "uniform": lambda key, shape: jax.random.uniform(key, shape, minval=-math.sqrt(3.0), maxval=math.sqrt(3.0)),
    }
)
"""Distributions of initial kernels by name, before the factor ``gain / sqrt(fan_in)``: normal numbers truncated at 2, or
normal or uniform numbers of variance 1."""


def _cross_entropy(logits: Array, labels: Array) -> Array:
    return -jnp.sum(jax.nn.log_softmax(logits) * labels, axis=-1)


def _squared_error(outputs: Array, labels: Array) -> Array:
    guess = 1.0 - 1.0 / labels.shape[-1]
    return math.log(labels.shape[-1]) / guess * jnp.sum(jnp.square(outputs - labels), axis=-1)


LOSSES: Mapping[str, Callable[[Array, Array], Array]] = MappingProxyType(
    {
        "cross_entropy": _cross_entropy,
        # With outputs of variance 1 the division makes the squared error 2 instead of 1 + classes.
        "squared_error": lambda outputs, labels: _squared_error(outputs / math.sqrt(labels.shape[-1]), labels),
        "brier": lambda logits, labels: _squared_error(jax.nn.softmax(logits), labels),
    }
)
"""Losses by name, of outputs (batch, classes) and one-hot labels: the cross entropy of the softmax, the squared error of
``outputs / sqrt(classes)``, and that of the softmax. Each is scaled such that guessing 1/classes costs log(classes)."""

AXES = ("dataset", "activation", "initializer", "loss", "depth", "width", "batch_size", "gain")
"""Properties of a task, in the order of the axes of the unit cube."""


@dataclasses.dataclass(frozen=True)
class SampledImageMLP(FamilyDefaults):
    """A `celo_core.TaskFamily` of image MLPs whose properties are all random; see the module for their distribution.

    A task's config is a dict of scalars: int32 indices ``dataset``, ``activation``, ``initializer`` and ``loss`` into the
    names below, int32 ``depth``, ``width`` and ``batch_size``, and float32 ``gain``. An index is uniform; so is the depth. The
    width is w with probability ``log((w + 1) / w) / log((max_width + 1) / min_width)``, the batch size likewise; the gain is
    log-uniform.

    A learned optimizer that normalises over a tensor includes the zeros where a network is smaller than the largest one, which a
    plain network of the same size does not have.

    Attributes:
      datasets: names for `celo_tasks.datasets.load_images`, of one shape and number of classes.
      activations: names in `ACTIVATIONS`; all layers of a task have the same.
      initializers: names in `INITIALIZERS`.
      losses: names in `LOSSES`.
      min_depth, max_depth: range of the number of hidden layers.
      min_width, max_width: range of the units of a hidden layer; all of a task have the same.
      min_batch_size, max_batch_size: range of the examples of a batch.
      min_gain, max_gain: range of the factor on initial kernels, in addition to 1/sqrt(fan_in) of the active inputs.
      num_classes: outputs.
      image_shape: shape of an image.
      data_dir: folder with prepared arrays, or ``None``.
    """

    datasets: tuple[str, ...]
    activations: tuple[str, ...] = tuple(ACTIVATIONS)
    initializers: tuple[str, ...] = tuple(INITIALIZERS)
    losses: tuple[str, ...] = tuple(LOSSES)
    min_depth: int = 1
    max_depth: int = 3
    min_width: int = 4
    max_width: int = 64
    min_batch_size: int = 8
    max_batch_size: int = 64
    min_gain: float = 0.5
    max_gain: float = 2.0
    num_classes: int = 10
    image_shape: tuple[int, ...] = (8, 8)
    data_dir: str | None = None

    def __post_init__(self) -> None:
        known = {"activations": ACTIVATIONS, "initializers": INITIALIZERS, "losses": LOSSES}
        for field, table in known.items():
            names = getattr(self, field)
            if not names or (unknown := sorted(set(names) - set(table))):
                given = unknown if names else "none"
                raise ValueError(f"{field} must be one or more of {', '.join(table)}, not {given}.")
        if not self.datasets:
            raise ValueError("datasets must name at least one image set, e.g. 'digits_8x8'.")
        for name in ("depth", "width", "batch_size", "gain"):
            low, high = self._range(name)
            if not (0 < low <= high and (name == "gain" or low >= 1)):
                bound = "0 < min" if name == "gain" else "1 <= min"
                raise ValueError(f"min_{name} and max_{name} must satisfy {bound} <= max, not {low} and {high}.")

    @property
    def name(self) -> str:
        """E.g. ``"sampled_mlp_digits_8x8"``."""
        return "_".join(["sampled_mlp", *self.datasets])

    def load(self) -> dict[str, np.ndarray]:
        """As `ImageMLP.load`: images and labels of all sets, and the begin and size of each."""
        shape = {"num_classes": self.num_classes, "image_shape": self.image_shape}
        return ImageMLP(self.datasets, data_dir=self.data_dir, **shape).load()  # type: ignore[arg-type]

    def sample(self, key: Array) -> dict[str, Array]:
        """The config of one task."""
        return self.sample_at(key, 0)

    def sample_at(self, key: Array, index: Any) -> dict[str, Array]:
        """The config of task ``index`` of the evenly spread tasks with the random shift of ``key``.

        Args:
          key: PRNG key of the shift; tasks of the same key are spread evenly.
          index: number of the task, int, possibly traced.
        """
        shift = jax.random.bits(key, (len(AXES),), jnp.uint32)
        # Unsigned integers wrap around, which gives the fractional part without rounding, for any index.
        bits = shift + jnp.asarray(index).astype(jnp.uint32) * jnp.asarray(_STEPS)
        return self._config((bits >> 8).astype(jnp.float32) / 2**24)

    def sample_many(self, key: Array, num_tasks: int) -> dict[str, Array]:
        """The configs of ``num_tasks`` evenly spread tasks: every leaf has a leading axis."""
        return jax.vmap(lambda index: self.sample_at(key, index))(jnp.arange(num_tasks))

    def _range(self, name: str) -> tuple[Any, Any]:
        return getattr(self, f"min_{name}"), getattr(self, f"max_{name}")

    def _config(self, point: Array) -> dict[str, Array]:
        """The config at a point of [0, 1)^8, float32 (8,)."""
        u = dict(zip(AXES, point, strict=True))
        integer = lambda x, high: jnp.clip(jnp.floor(x).astype(jnp.int32), 0, high)
        pick = lambda name, number: integer(u[name] * number, number - 1)

        def log_uniform(name: str, extra: int = 0) -> Array:
            low, high = self._range(name)
            return low * jnp.exp(u[name] * math.log((high + extra) / low))

        names = {"dataset": "datasets", "activation": "activations", "initializer": "initializers", "loss": "losses"}
        sizes = {name: integer(log_uniform(name, 1), self._range(name)[1]) for name in ("width", "batch_size")}
        return {
            **{axis: pick(axis, len(getattr(self, field))) for axis, field in names.items()},
            **{name: jnp.maximum(size, self._range(name)[0]) for name, size in sizes.items()},
            "depth": self.min_depth + pick("depth", self.max_depth - self.min_depth + 1),
            "gain": log_uniform("gain"),
        }

    def _masks(self, config: Mapping[str, Array]) -> dict[str, dict[str, Array]]:
        """Which parameters are active: a tree like the parameters, bool."""
        units = jnp.arange(self.max_width) < config["width"]
        pixels = jnp.ones((math.prod(self.image_shape),), bool)
        outputs = jnp.ones((self.num_classes,), bool)
        masks = {}
        for layer in range(self.max_depth):
            columns = units & (layer < config["depth"])
            masks[f"hidden_{layer}"] = _dense_mask(units if layer else pixels, columns)
        return {**masks, "output": _dense_mask(units, outputs)}

    def active_sizes(self, config: Mapping[str, Array]) -> dict[str, dict[str, Array]]:
        """Numbers of active parameters per tensor, float32 scalars, for `celo_core.task_embedding`."""
        return jax.tree.map(lambda mask: jnp.sum(mask, dtype=jnp.float32), self._masks(config))

    def init(self, key: Array, config: Mapping[str, Array]) -> tuple[dict[str, Any], None]:
        """Parameters ``{"hidden_0": {"kernel", "bias"}, ..., "output": ...}``, zero where inactive; no model state."""
        masks = self._masks(config)
        params = {}
        for (name, mask), key_layer in zip(masks.items(), jax.random.split(key, len(masks)), strict=True):
            shape = mask["kernel"].shape
            draws = [lambda k, f=INITIALIZERS[choice], s=shape: f(k, s) for choice in self.initializers]
            fan_in = shape[0] if name == "hidden_0" else config["width"].astype(jnp.float32)
            kernel = jax.lax.switch(config["initializer"], draws, key_layer) * config["gain"] / jnp.sqrt(fan_in)
            params[name] = {"kernel": jnp.where(mask["kernel"], kernel, 0.0), "bias": jnp.zeros(shape[1:], jnp.float32)}
        return params, None

    def batch(self, key: Array, config: Mapping[str, Array], data: Any) -> tuple[Array, Array, Array]:
        """Images float32 (max_batch_size, pixels) in [0, 1], labels int32 and whether each example counts, bool."""
        index = data["offset"][config["dataset"]] + jax.random.randint(
            key, (self.max_batch_size,), 0, data["size"][config["dataset"]]
        )
        counts = jnp.arange(self.max_batch_size) < config["batch_size"]
        return data["images"][index].astype(jnp.float32) / 255.0, data["labels"][index].astype(jnp.int32), counts

    def loss(
        self,
        params: Any,
        model_state: None,
        key: Array,
        config: Mapping[str, Array],
        batch: tuple[Array, Array, Array],
    ) -> tuple[Array, None]:
        """Mean of the task's loss over the active examples; guessing costs log(num_classes) under any of the losses."""
        del key
        images, labels, counts = batch
        outputs = self._apply(params, config, images)
        one_hot = jax.nn.one_hot(labels, self.num_classes)
        losses = jax.lax.switch(config["loss"], [LOSSES[name] for name in self.losses], outputs, one_hot)
        return jnp.sum(jnp.where(counts, losses, 0.0)) / jnp.maximum(jnp.sum(counts), 1), model_state

    def normalizer(self, loss: Array) -> Array:
        """Loss clipped to [0, 1.5 log classes]; non-finite counts as the upper end."""
        return clip_cross_entropy(loss, self.num_classes)

    def _apply(self, params: Any, config: Mapping[str, Array], images: Array) -> Array:
        """Outputs (batch, num_classes)."""
        # A select passes a zero gradient to the argument that it does not select, even where that is not finite.
        params = jax.tree.map(lambda mask, p: jnp.where(mask, p, 0.0), self._masks(config), dict(params))
        activations = [ACTIVATIONS[name] for name in self.activations]
        x = images
        for layer in range(self.max_depth):
            dense = params[f"hidden_{layer}"]
            y = jax.lax.switch(config["activation"], activations, x @ dense["kernel"] + dense["bias"])
            x = y if layer < self.min_depth else jnp.where(layer < config["depth"], y, x)
        return x @ params["output"]["kernel"] + params["output"]["bias"]


def _dense_mask(rows: Array, columns: Array) -> dict[str, Array]:
    return {"kernel": rows[:, None] & columns, "bias": columns}


def _recurrence_steps(dimension: int) -> np.ndarray:
    """``r^-j`` for j = 1..dimension, r the root of ``r^(dimension + 1) = r + 1``, in units of 2^-32."""
    root = 1.5
    for _ in range(100):  # a contraction: each iteration divides the error by more than the dimension
        root = (1.0 + root) ** (1.0 / (dimension + 1))
    return np.floor(2.0**32 * root ** -np.arange(1.0, dimension + 1)).astype(np.uint32)


_STEPS = _recurrence_steps(len(AXES))
