"""Small convnets whose convolutions are matrix products over patches.

On XLA's CPU back end a convolution inside `jax.lax.scan` runs about sixty times slower than nine shifted slices and one
matrix product. The parameters are those of a convolution all the same: a kernel of shape (height, width, channels in,
channels out) and a bias.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from celo_tasks.families.image_mlp import fan_in_normal

Array = jax.Array


class PatchConv(nn.Module):
    """A two-dimensional convolution with "SAME" padding and a bias.

    Attributes:
      features: channels out.
      kernel_size: height and width of the window.
      stride: distance between windows in both directions.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps (batch, height, width, channels) to (batch, height / stride, width / stride, features), rounded up."""
        size = self.kernel_size
        kernel = self.param("kernel", fan_in_normal, (size, size, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        patches = extract_patches(x, size, self.stride)
        return patches @ rearrange(kernel, "h w i o -> (h w i) o") + bias


def extract_patches(x: Array, size: int, stride: int) -> Array:
    """The windows of a "SAME" convolution.

    Args:
      x: images (batch, height, width, channels).
      size: height and width of a window.
      stride: distance between windows.

    Returns:
      (batch, rows, columns, size * size * channels): per window its pixels row by row, channels innermost.
    """
    padding = jax.lax.padtype_to_pads(x.shape[1:3], (size, size), (stride, stride), "SAME")
    rows, columns = (-(-length // stride) for length in x.shape[1:3])
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    shifted = [
        padded[:, i : i + (rows - 1) * stride + 1 : stride, j : j + (columns - 1) * stride + 1 : stride]
        for i in range(size)
        for j in range(size)
    ]
    return jnp.concatenate(shifted, axis=-1)


class ConvNet(nn.Module):
    """3x3 convolutions with ReLU, the mean over positions, and a linear layer.

    Attributes:
      channels: of each convolution.
      strides: of each convolution.
      num_outputs: logits.
    """

    channels: Sequence[int]
    strides: Sequence[int]
    num_outputs: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps images (batch, height, width, channels) to logits (batch, num_outputs)."""
        for features, stride in zip(self.channels, self.strides, strict=True):
            x = nn.relu(PatchConv(features, stride=stride)(x))
        return nn.Dense(self.num_outputs, kernel_init=fan_in_normal)(jnp.mean(x, axis=(1, 2)))
