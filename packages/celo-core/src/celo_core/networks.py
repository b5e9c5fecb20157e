"""The per-parameter network of a learned update rule: its meta-parameters as a flax module, and its evaluation unit by unit.

Activations are kept unit by unit, each an array of the tensor's shape, rather than stacked along a trailing axis of
length four: XLA then fuses the whole network into one elementwise loop and no stacked feature tensor is ever built.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax

Array = jax.Array


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


def expand(x: Array, ndim: int) -> Array:
    """``x`` with axes of length one behind its own, until it has ``ndim`` (a scalar stays one)."""
    return x if x.ndim == 0 else x.reshape(x.shape + (1,) * (ndim - x.ndim))
