"""The per-parameter network of a learned update rule, as flax modules.

Activations are kept unit by unit, each an array of the tensor's shape, rather than stacked along a trailing axis of
length four: XLA then fuses the whole network into elementwise loops and no stacked feature tensor is ever built.
"""

from collections import defaultdict
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

Array = jax.Array


class UnitwiseDense(nn.Module):
    """A dense layer over a list of arrays that broadcast against one another.

    Attributes:
      features: number of output units.
    """

    features: int

    @nn.compact
    def __call__(self, inputs: Sequence[Array], scales: Sequence[Array] | None = None) -> list[Array]:
        """Applies the layer.

        Args:
          inputs: one array per input unit, of any mutually broadcastable shapes.
          scales: a scalar per input that multiplies it. It is folded into the kernel.

        Returns:
          One array per output unit.
        """
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (len(inputs), self.features))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        if scales is not None:
            kernel = kernel * jnp.stack(scales)[:, None]
        by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, x in enumerate(inputs):
            by_shape[x.shape].append(index)
        outputs = []
        for unit in range(self.features):
            total = bias[unit]
            # Small shapes first: row and column terms are summed at their own size before they meet the tensor's.
            for indices in sorted(by_shape.values(), key=lambda same: inputs[same[0]].size):
                partial = inputs[indices[0]] * kernel[indices[0], unit]
                for index in indices[1:]:
                    partial = partial + inputs[index] * kernel[index, unit]
                total = total + partial
            outputs.append(total)
        return outputs


class PerParameterMLP(nn.Module):
    """ReLU network that maps the features of every parameter to ``num_outputs`` numbers.

    Parameters are named ``hidden_0``, ``hidden_1``, ... and ``output``, each with a ``kernel`` (in, out) and a
    ``bias`` (out,).
    """

    hidden_sizes: Sequence[int] = (4, 4)
    num_outputs: int = 2

    @nn.compact
    def __call__(self, features: Sequence[Array], scales: Sequence[Array]) -> list[Array]:
        """Maps features (each broadcastable to the tensor's shape) and their scalar scales to the outputs."""
        units: Sequence[Array] = features
        layer_scales: Sequence[Array] | None = scales
        for index, size in enumerate(self.hidden_sizes):
            units = [nn.relu(x) for x in UnitwiseDense(size, name=f"hidden_{index}")(units, layer_scales)]
            layer_scales = None
        return UnitwiseDense(self.num_outputs, name="output")(units, layer_scales)
