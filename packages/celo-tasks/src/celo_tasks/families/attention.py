"""Multi-head attention and the pre-norm transformer block, for language models and for images."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from celo_tasks.families.image_mlp import fan_in_normal

Array = jax.Array


class Attention(nn.Module):
    """Multi-head self-attention.

    Attributes:
      num_heads: heads; divides the width.
      causal: whether a position attends only to itself and earlier positions, rather than to all positions.
    """

    num_heads: int
    causal: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps (batch, length, width) to the same shape."""
        length, width = x.shape[-2:]
        qkv = nn.Dense(3 * width, kernel_init=fan_in_normal, name="qkv")(x)
        query, key, value = rearrange(qkv, "b l (three h d) -> three b h l d", three=3, h=self.num_heads)
        scores = jnp.einsum("bhqd,bhkd->bhqk", query, key) / jnp.sqrt(query.shape[-1])
        if self.causal:
            scores = jnp.where(jnp.tril(jnp.ones((length, length), bool)), scores, -jnp.inf)
        weights = jax.nn.softmax(scores)
        heads = jnp.einsum("bhqk,bhkd->bhqd", weights, value)
        return nn.Dense(width, kernel_init=fan_in_normal, name="output")(rearrange(heads, "b h l d -> b l (h d)"))


class TransformerBlock(nn.Module):
    """Attention, then a two-layer perceptron with GELU; layer normalisation before each, each added to its input.

    Attributes:
      num_heads: heads of attention; divides the width.
      mlp_width: units of the perceptron's hidden layer.
      causal: whether a position attends only to itself and earlier positions.
    """

    num_heads: int
    mlp_width: int
    causal: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps (batch, length, width) to the same shape."""
        attention = Attention(self.num_heads, self.causal, name="attention")
        x = x + attention(nn.LayerNorm(name="norm_attention")(x))
        hidden = nn.Dense(self.mlp_width, kernel_init=fan_in_normal, name="mlp_in")(nn.LayerNorm(name="norm_mlp")(x))
        return x + nn.Dense(x.shape[-1], kernel_init=fan_in_normal, name="mlp_out")(nn.gelu(hidden))
