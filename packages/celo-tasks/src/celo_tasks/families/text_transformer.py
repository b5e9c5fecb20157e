"""Language modelling of bytes by a small decoder-only transformer."""

import dataclasses
import os

import flax.linen as nn
import jax
import jax.numpy as jnp

from celo_tasks.families.attention import Attention
from celo_tasks.families.image_mlp import fan_in_normal
from celo_tasks.families.language_model import NextToken

Array = jax.Array

VOCABULARY = 256
"""Every byte is a token."""


class TransformerLM(nn.Module):
    """A decoder-only transformer: layer normalisation before each part, learned positions, GELU.

    Attributes:
      num_layers: number of blocks.
      width: size of a position's vector.
      num_heads: heads of attention; divides the width.
      max_length: longest sequence.
      vocabulary: number of tokens.
    """

    num_layers: int
    width: int
    num_heads: int
    max_length: int
    vocabulary: int = VOCABULARY

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        """Maps tokens int32 (batch, length) to the logits of each one's successor, (batch, length, vocabulary)."""
        x = nn.Embed(self.vocabulary, self.width, name="tokens")(tokens)
        x = x + nn.Embed(self.max_length, self.width, name="positions")(jnp.arange(tokens.shape[-1]))
        for i in range(self.num_layers):
            attention = Attention(self.num_heads, causal=True, name=f"attention_{i}")
            x = x + attention(nn.LayerNorm(name=f"norm_attention_{i}")(x))
            hidden = nn.Dense(4 * self.width, kernel_init=fan_in_normal, name=f"mlp_in_{i}")(
                nn.LayerNorm(name=f"norm_mlp_{i}")(x)
            )
            x = x + nn.Dense(self.width, kernel_init=fan_in_normal, name=f"mlp_out_{i}")(nn.gelu(hidden))
        x = nn.LayerNorm(name="norm_output")(x)
        return nn.Dense(self.vocabulary, kernel_init=fan_in_normal, name="logits")(x)


@dataclasses.dataclass(frozen=True)
class TextTransformer(NextToken):
    """A `celo_core.TaskFamily` of one task, with held-out text: prediction of each next byte.

    Attributes:
      text: a name for `celo_tasks.datasets.load_text`.
      num_layers, width, num_heads: the transformer, see `TransformerLM`.
      batch_size: sequences per batch.
      length: bytes predicted per sequence.
      data_dir: folder with texts, or ``None``.
    """

    text: str = "shakespeare"
    num_layers: int = 2
    width: int = 32
    num_heads: int = 4
    batch_size: int = 16
    length: int = 32
    data_dir: str | os.PathLike[str] | None = None
    vocabulary = VOCABULARY
    held_out_tokens = None

    @property
    def name(self) -> str:
        """E.g. ``"transformer_2x32_shakespeare"``."""
        return f"transformer_{self.num_layers}x{self.width}_{self.text}"

    def _network(self) -> TransformerLM:
        return TransformerLM(self.num_layers, self.width, self.num_heads, self.length)
