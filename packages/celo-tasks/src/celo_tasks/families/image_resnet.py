"""Residual networks of the second kind: normalisation and ReLU before each convolution (arXiv 1603.05027)."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from celo_tasks.families.image_conv import PatchConv, batch_norm, max_pool

Array = jax.Array


class ResNet(nn.Module):
    """A ResNet v2 with bottleneck blocks and batch normalisation.

    A convolution and optionally a 3x3 max pool of stride 2; then groups of blocks, each group but the first halving height
    and width; then normalisation, ReLU, the mean over positions, and a linear layer whose kernel is initialised to zeros.
    The convolutions have no biases.

    Source of the defaults: the residual networks of the public task library (arXiv 2211.09760, section 4).

    Attributes:
      channels: of each group; multiples of 4, since a block's inner convolutions have a quarter.
      num_outputs: logits.
      blocks: blocks of each group.
      stem_channels: of the first convolution.
      stem_kernel: height and width of its window.
      stem_stride: its stride.
      stem_pool: whether the max pool follows it.
    """

    channels: Sequence[int]
    num_outputs: int
    blocks: Sequence[int] = (1, 1, 1, 1)
    stem_channels: int = 64
    stem_kernel: int = 3
    stem_stride: int = 2
    stem_pool: bool = True

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Maps images (batch, height, width, channels) to logits (batch, num_outputs).

        Args:
          x: the images.
          train: whether batch normalisation uses the current batch, and updates its running averages.
        """
        stem = PatchConv(self.stem_channels, self.stem_kernel, self.stem_stride, use_bias=False, name="stem")
        x = stem(x)
        if self.stem_pool:
            x = max_pool(x, 3, 2)
        for group, (channels, blocks) in enumerate(zip(self.channels, self.blocks, strict=True)):
            for i in range(blocks):
                stride = 2 if group > 0 and i == 0 else 1
                x = BottleneckBlock(channels, stride, project=i == 0, name=f"group_{group}_block_{i}")(x, train)
        x = jnp.mean(nn.relu(batch_norm(train)(x)), axis=(1, 2))
        return nn.Dense(self.num_outputs, kernel_init=nn.initializers.zeros_init(), name="logits")(x)


class BottleneckBlock(nn.Module):
    """Convolutions 1x1, 3x3 and 1x1, normalisation and ReLU before each, added to a shortcut.

    Attributes:
      features: channels out; the first two convolutions have a quarter.
      stride: of the 3x3 convolution, and of the shortcut.
      project: whether the shortcut is a 1x1 convolution of the normalised input, rather than the input itself.
    """

    features: int
    stride: int
    project: bool

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Maps (batch, height, width, channels) to (batch, height / stride, width / stride, features), rounded up."""
        shortcut = x
        inner = self.features // 4
        x = nn.relu(batch_norm(train)(x))
        if self.project:
            shortcut = PatchConv(self.features, 1, self.stride, use_bias=False, name="shortcut")(x)
        x = PatchConv(inner, 1, use_bias=False)(x)
        x = PatchConv(inner, 3, self.stride, use_bias=False)(nn.relu(batch_norm(train)(x)))
        x = PatchConv(self.features, 1, use_bias=False)(nn.relu(batch_norm(train)(x)))
        return x + shortcut
