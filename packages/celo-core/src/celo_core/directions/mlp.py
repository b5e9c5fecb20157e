"""The learned direction: a network from the features of every parameter to its step.

With normalised features x (see `celo_core.features`)::

    d, s = MLP(x)
    step = d * exp(1e-3 s)

Activations are kept unit by unit, each an array of the tensor's shape, rather than stacked along a trailing axis of
length four: XLA then fuses the whole network into one elementwise loop and no stacked feature tensor is ever built.

Source: Celo, arXiv 2501.12670, section 3. The third output of the published network is unused, so this one has two outputs.
"""

import dataclasses
import string
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from celo_core import features as features_lib
from celo_core.accumulators import Moments
from celo_core.directions.base import ElementwiseDirection
from celo_core.features import Kind
from celo_core.kernels import reductions
from celo_core.kernels.interface import LARGEST_EXPONENT, Folded, expand

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class MLP(ElementwiseDirection, type="mlp"):
    """See the module; theta is that of a `PerParameterMLP`, with a leading axis in every array for a bank of several.

    Attributes:
      features: feature groups in the order of the first layer's kernel rows.
      hidden_sizes: widths of the hidden layers.
      magnitude_scale: factor on the log-magnitude output.
      bank: number of networks, which a scheduler mixes into one for each tensor (VeLO, arXiv 2211.09760); 1 for a single one.

    Raises:
      ValueError: unknown features, or no network.
    """

    features: tuple[str, ...] = features_lib.CELO_FEATURES
    hidden_sizes: tuple[int, ...] = (4, 4)
    magnitude_scale: float = 1e-3
    bank: int = 1

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.features) - set(features_lib.FEATURES)):
            raise ValueError(f"unknown features {unknown}: choose from {', '.join(features_lib.FEATURES)}.")
        if self.bank < 1:
            raise ValueError(f"a bank has at least 1 network, not {self.bank}.")

    def num_features(self, moments: Moments) -> int:
        """Number of inputs of the network."""
        return features_lib.num_features(self.features, len(moments.momentum_decays))

    def init(self, key: Array, moments: Moments) -> dict[str, Any]:
        """Random weights, by the default initialisers of flax."""
        network = PerParameterMLP(hidden_sizes=self.hidden_sizes, num_outputs=2)
        draw = lambda key: dict(network.init(key, jnp.zeros((self.num_features(moments),)))["params"])
        return draw(key) if self.bank == 1 else jax.vmap(draw)(jax.random.split(key, self.bank))

    def mix(self, weights: Any, control: Array) -> Any:
        """The mixture of the bank's networks for each tensor; ``control``: float32 (*batch, bank), the mixture weights."""
        axes = string.ascii_lowercase[: control.ndim - 1]
        return jax.tree.map(lambda x: jnp.einsum(f"{axes}z,z...->{axes}...", control, x), weights)

    def num_statistics(self, moments: Moments, kinds: Sequence[Kind]) -> int:
        """See `celo_core.kernels.interface.Elementwise`."""
        return len(self._rows(moments, kinds))

    def statistics(self, moments: Moments, values: features_lib.Values, kinds: Sequence[Kind]) -> list[Array]:
        """Squares of the features."""
        del moments
        return [jnp.square(x) for x in features_lib.make(self.features, values, kinds)]

    def fold(
        self, moments: Moments, weights: Any, is_own: bool, means: Array, factored: Any, kinds: Sequence[Kind]
    ) -> Folded:
        """Normalisers go into the first layer's kernel, and row and column features into a rank-one term for each unit.

        ``own["kernel"]`` is float32 (*batch, num_features, units), and ``arrays`` has, for each kind of small feature, an array
        for each unit, of the shape of the features.
        """
        small = self._small_features(factored)
        parts, rows = [means], self._rows(moments, kinds)
        for kind, made in small:
            # Each is repeated equally often in the whole tensor, so that its own mean is that over the tensor.
            axes = tuple(range(means.ndim, made.ndim))
            parts.append(jnp.moveaxis(jnp.mean(jnp.square(made), axis=axes), 0, -1))
            rows = [*rows, *self._rows(moments, (kind,))]
        mean_square = means if len(parts) == 1 else jnp.concatenate(parts, axis=-1)[..., np.argsort(rows)]
        kernel = weights["hidden_0"]["kernel"] * features_lib.normalizer(mean_square)[..., None]
        terms = [self._rank_one(kernel, made, self._rows(moments, (kind,)), factored) for kind, made in small]
        layers = {**weights, "hidden_0": {"bias": weights["hidden_0"]["bias"]}}
        own = {"kernel": kernel}
        return Folded(own={**own, "layers": layers}, arrays=terms) if is_own else Folded({"layers": layers}, own, terms)

    def step(self, moments: Moments, folded: Folded, values: features_lib.Values, kinds: Sequence[Kind]) -> Array:
        """The network after what `fold` has done."""
        layers = folded.own["layers"] if "layers" in folded.own else folded.shared["layers"]
        kernel, ndim = folded.own["kernel"], values.parameter.ndim
        made = features_lib.make(self.features, values, kinds)
        preactivations = []
        for unit in range(kernel.shape[-1]):
            total = expand(layers["hidden_0"]["bias"][..., unit], ndim)
            for terms in folded.arrays:
                total = total + terms[unit]
            if made:
                total = total + first_layer(kernel, made, self._rows(moments, kinds), unit)
            preactivations.append(total)
        direction, magnitude = later_layers(layers, preactivations)
        return direction * jnp.exp(jnp.minimum(self.magnitude_scale * magnitude, LARGEST_EXPONENT))

    def _rows(self, moments: Moments, kinds: Sequence[Kind]) -> list[int]:
        """Rows of the first layer's kernel for the features of some kinds."""
        return features_lib.indices(self.features, len(moments.momentum_decays), kinds)

    def _small_features(self, factored: Any) -> list[tuple[Kind, Array]]:
        """Row and column features, those of a kind stacked along a first axis, float32 (features, *batch, ...)."""
        if factored is None:
            return []
        none: Any = None
        values = features_lib.Values(none, none, (), none, none, (), (), factored.rows, factored.columns)
        made = [(kind, features_lib.make(self.features, values, (kind,))) for kind in (Kind.ROW, Kind.COLUMN)]
        return [(kind, jnp.stack(features)) for kind, features in made if features]

    def _rank_one(self, kernel: Array, made: Array, rows: Sequence[int], factored: Any) -> list[Array]:
        """Each unit's part of the preactivation that depends on row, or column, features alone."""
        if kernel.ndim == 2 and reductions.on_one_cpu() and factored.size > reductions.LARGE:
            # As one reduction: XLA would fuse plain sums into pass 2, and compute them for every parameter, which takes less
            # time than one more kernel for small tensors only.
            part = kernel[np.asarray(rows)].reshape(len(rows), -1, *(1 for _ in made.shape[1:]))
            return list(jnp.sum(part * made[:, None], axis=0))
        return [first_layer(kernel, list(made), rows, unit) for unit in range(kernel.shape[-1])]


class PerParameterMLP(nn.Module):
    """ReLU network from the features of every parameter to ``num_outputs`` numbers.

    Parameters are named ``hidden_0``, ``hidden_1``, ... and ``output``, each with a ``kernel`` (in, out) and a
    ``bias`` (out,). `first_layer` and `later_layers` evaluate it without building a feature vector; called as a module it
    is a plain network over the last axis.
    """

    hidden_sizes: Sequence[int] = (4, 4)
    num_outputs: int = 2

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """Maps normalised features (..., num_features) to (..., num_outputs)."""
        x = features
        for index, size in enumerate(self.hidden_sizes):
            x = nn.relu(nn.Dense(size, name=f"hidden_{index}")(x))
        return nn.Dense(self.num_outputs, name="output")(x)


Weights = Mapping[str, Mapping[str, Any]]


def num_units(layer: Mapping[str, Any]) -> int:
    """Outputs of a layer."""
    return layer["bias"].shape[-1]


def first_layer(kernel: Array, inputs: Sequence[Array], rows: Sequence[int], unit: int) -> Array:
    """Part of one unit's preactivation: the sum over ``inputs`` of ``kernel[row, unit] * input``.

    Args:
      kernel: (..., num_features, units); leading axes belong to different tensors.
      inputs: arrays that broadcast against one another, with those leading axes first.
      rows: row of the kernel for each input.
      unit: which unit.
    """
    total: Any = None
    for x, row in zip(inputs, rows, strict=True):
        term = x * expand(kernel[..., row, unit], x.ndim)
        total = term if total is None else total + term
    return total


def later_layers(weights: Weights, preactivations: Sequence[Array]) -> list[Array]:
    """The network after its first layer, unit by unit.

    Args:
      weights: of every layer, possibly with leading axes that belong to different tensors; other entries are not read.
      preactivations: of the first hidden layer, one array per unit.

    Returns:
      One array per output.
    """
    units = list(preactivations)
    hidden = sum(name.startswith("hidden_") for name in weights)
    for name in [*(f"hidden_{index}" for index in range(1, hidden)), "output"]:
        units = [nn.relu(x) for x in units]
        kernel, bias = weights[name]["kernel"], weights[name]["bias"]
        rows = range(len(units))
        units = [
            first_layer(kernel, units, rows, unit) + expand(bias[..., unit], units[0].ndim)
            for unit in range(num_units(weights[name]))
        ]
    return units
