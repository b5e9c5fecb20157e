"""Small convnets whose convolutions are matrix products over patches.

On XLA's CPU back end a convolution inside `jax.lax.scan` runs about sixty times slower than nine shifted slices and one
matrix product. The parameters are still those of a convolution: a kernel of shape (height, width, channels in,
channels out) and a bias.
"""

import functools
from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from celo_tasks.families.image_mlp import fan_in_normal

Array = jax.Array


class PatchConv(nn.Module):
    """A two-dimensional convolution with "SAME" padding.

    Attributes:
      features: channels out.
      kernel_size: height and width of the window.
      stride: distance between windows in both directions.
      use_bias: whether a number per channel is added.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps (batch, height, width, channels) to (batch, height / stride, width / stride, features), rounded up."""
        size = self.kernel_size
        kernel = self.param("kernel", fan_in_normal, (size, size, x.shape[-1], self.features))
        out = extract_patches(x, size, self.stride) @ rearrange(kernel, "h w i o -> (h w i) o")
        if not self.use_bias:
            return out
        return out + self.param("bias", nn.initializers.zeros_init(), (self.features,))


def extract_patches(x: Array, size: int, stride: int) -> Array:
    """The windows of a "SAME" convolution.

    Args:
      x: images (batch, height, width, channels).
      size: height and width of a window.
      stride: distance between windows.

    Returns:
      (batch, rows, columns, size * size * channels): per window its pixels row by row, channels innermost.
    """
    return jnp.concatenate(_shifted(x, size, stride, 0.0), axis=-1)


def max_pool(x: Array, size: int, stride: int) -> Array:
    """The largest number of every "SAME" window, per channel.

    Args:
      x: (batch, height, width, channels).
      size: height and width of a window.
      stride: distance between windows.

    Returns:
      (batch, height / stride, width / stride, channels), rounded up.
    """
    return functools.reduce(jnp.maximum, _shifted(x, size, stride, -jnp.inf))


def _shifted(x: Array, size: int, stride: int, fill: float) -> list[Array]:
    """The first pixel of every "SAME" window, the second, and so on: size * size arrays; ``fill`` pads the border."""
    padding = jax.lax.padtype_to_pads(x.shape[1:3], (size, size), (stride, stride), "SAME")
    rows, columns = (-(-length // stride) for length in x.shape[1:3])
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)), constant_values=fill)
    return [
        padded[:, i : i + (rows - 1) * stride + 1 : stride, j : j + (columns - 1) * stride + 1 : stride]
        for i in range(size)
        for j in range(size)
    ]


def batch_norm(train: bool) -> nn.BatchNorm:
    """Batch normalisation per channel, with running averages of decay 0.9."""
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5)


class ConvNet(nn.Module):
    """3x3 convolutions with ReLU, the mean over positions, and a linear layer.

    Attributes:
      channels: of each convolution.
      strides: of each convolution.
      num_outputs: logits.
      normalization: "batch" or "layer" (over the channels of a position), with scale and offset, or ``None``.
      normalize_after: whether the normalisation follows the "convolution", before ReLU, or the "relu".
    """

    channels: Sequence[int]
    strides: Sequence[int]
    num_outputs: int
    normalization: Literal["batch", "layer"] | None = None
    normalize_after: Literal["convolution", "relu"] = "convolution"

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Maps images (batch, height, width, channels) to logits (batch, num_outputs).

        Args:
          x: the images.
          train: whether batch normalisation uses the current batch, and updates its running averages.
        """
        if self.normalization not in (None, "batch", "layer") or self.normalize_after not in ("convolution", "relu"):
            given = f"{self.normalization!r} after {self.normalize_after!r}"
            raise ValueError(f"no normalization {given}: use 'batch', 'layer' or None, after 'convolution' or 'relu'.")
        early = self.normalize_after == "convolution"
        for features, stride in zip(self.channels, self.strides, strict=True):
            # No bias directly before batch normalisation, which would subtract it again.
            x = PatchConv(features, stride=stride, use_bias=not (early and self.normalization == "batch"))(x)
            x = nn.relu(self._normalize(x, train)) if early else self._normalize(nn.relu(x), train)
        return nn.Dense(self.num_outputs, kernel_init=fan_in_normal)(jnp.mean(x, axis=(1, 2)))

    def _normalize(self, x: Array, train: bool) -> Array:
        if self.normalization == "batch":
            return batch_norm(train)(x)
        return nn.LayerNorm(epsilon=1e-5)(x) if self.normalization == "layer" else x
