"""MLP-Mixer (arXiv 2105.01601): perceptrons that mix patches and perceptrons that mix channels, in turn."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from celo_tasks.families.image_mlp import fan_in_normal
from celo_tasks.families.vision_transformer import split_into_patches

Array = jax.Array


class MLPMixer(nn.Module):
    """Mixer blocks over patches, the mean over them, and a linear layer whose kernel is initialised to zeros.

    Attributes:
      patch_size: height and width of a patch.
      width: size of a patch's vector.
      num_blocks: number of blocks.
      token_mlp_width: hidden units of the perceptrons over patches.
      channel_mlp_width: hidden units of the perceptrons over channels.
      num_outputs: logits.
    """

    patch_size: int
    width: int
    num_blocks: int
    token_mlp_width: int
    channel_mlp_width: int
    num_outputs: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps images (batch, height, width, channels) to logits (batch, num_outputs)."""
        patches = split_into_patches(x, self.patch_size)
        x = nn.Dense(self.width, kernel_init=fan_in_normal, name="patches")(patches)
        for i in range(self.num_blocks):
            x = MixerBlock(self.token_mlp_width, self.channel_mlp_width, name=f"block_{i}")(x)
        x = jnp.mean(nn.LayerNorm(name="norm_output")(x), axis=1)
        return nn.Dense(self.num_outputs, kernel_init=nn.initializers.zeros_init(), name="logits")(x)


class MixerBlock(nn.Module):
    """A two-layer perceptron over patches, then one over channels; layer normalisation before, added to the input.

    Attributes:
      token_mlp_width: hidden units of the perceptron over patches.
      channel_mlp_width: hidden units of the perceptron over channels.
    """

    token_mlp_width: int
    channel_mlp_width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps (batch, patches, width) to the same shape."""
        tokens = rearrange(nn.LayerNorm(name="norm_tokens")(x), "n patches width -> n width patches")
        tokens = self._perceptron(tokens, self.token_mlp_width, "tokens")
        x = x + rearrange(tokens, "n width patches -> n patches width")
        return x + self._perceptron(nn.LayerNorm(name="norm_channels")(x), self.channel_mlp_width, "channels")

    def _perceptron(self, x: Array, hidden: int, name: str) -> Array:
        """Dense layers over the last axis, GELU between them."""
        x_hidden = nn.gelu(nn.Dense(hidden, kernel_init=fan_in_normal, name=f"{name}_in")(x))
        return nn.Dense(x.shape[-1], kernel_init=fan_in_normal, name=f"{name}_out")(x_hidden)
