"""Vision transformers (arXiv 2010.11929): an image is a sequence of square patches."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from celo_tasks.families.attention import TransformerBlock
from celo_tasks.families.image_mlp import fan_in_normal

Array = jax.Array


def split_into_patches(x: Array, size: int) -> Array:
    """Cuts images into squares that do not overlap.

    Args:
      x: images (batch, height, width, channels).
      size: height and width of a patch.

    Returns:
      (batch, patches, size * size * channels): patches row by row, and so the pixels of each, channels innermost.

    Raises:
      ValueError: the patches do not fill the image.

    Example:
      >>> split_into_patches(jnp.zeros((1, 28, 28, 3)), 7).shape
      (1, 16, 147)
    """
    height, width = x.shape[1:3]
    if height % size or width % size:
        raise ValueError(
            f"patches of {size}x{size} do not fill images of {height}x{width}: use a size that divides both."
        )
    return rearrange(x, "n (h p) (w q) c -> n (h w) (p q c)", p=size, q=size)


class VisionTransformer(nn.Module):
    """A transformer over patches whose class token gives the logits; the last layer's kernel is initialised to zeros.

    Attributes:
      patch_size: height and width of a patch.
      width: size of a position's vector.
      mlp_width: units of the hidden layer in each block.
      num_heads: heads of attention; divides the width.
      num_layers: number of blocks.
      num_outputs: logits.
    """

    patch_size: int
    width: int
    mlp_width: int
    num_heads: int
    num_layers: int
    num_outputs: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps images (batch, height, width, channels) to logits (batch, num_outputs)."""
        patches = split_into_patches(x, self.patch_size)
        x = nn.Dense(self.width, kernel_init=fan_in_normal, name="patches")(patches)
        class_token = self.param("class_token", nn.initializers.zeros_init(), (1, 1, self.width))
        x = jnp.concatenate([jnp.broadcast_to(class_token, (len(x), 1, self.width)), x], axis=1)
        x = x + self.param("positions", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        for i in range(self.num_layers):
            x = TransformerBlock(self.num_heads, self.mlp_width, causal=False, name=f"block_{i}")(x)
        x = nn.LayerNorm(name="norm_output")(x[:, 0])
        return nn.Dense(self.num_outputs, kernel_init=nn.initializers.zeros_init(), name="logits")(x)
