"""A language model whose embedding has thousands of rows, most of which a batch does not touch."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from celo_tasks.families.image_mlp import fan_in_normal

Array = jax.Array

CONTEXT = 4
"""Trigrams that a prediction is made from."""


class HashedTrigrams(nn.Module):
    """Logits of the next byte from the embeddings of the last trigrams, and a hidden layer.

    A trigram's row is a hash of its three bytes: a few rows are read in every batch and most are hardly ever.

    Attributes:
      rows: of the embedding.
      width: of an embedding.
      hidden: width of the hidden layer.
      vocabulary: number of logits.
    """

    rows: int
    width: int
    hidden: int
    vocabulary: int = 256

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        """Logits float32 (batch, length, vocabulary) of each token's successor, from tokens int32 (batch, length)."""
        back = lambda x, by: jnp.pad(x, ((0, 0), (by, 0)))[:, : x.shape[1]]
        one, two, three = (back(tokens, by).astype(jnp.uint32) for by in range(3))
        hashed = (one * jnp.uint32(2654435761) + two * jnp.uint32(40503) + three * jnp.uint32(2246822519)) >> 7
        trigrams = (hashed % self.rows).astype(jnp.int32)
        context = jnp.stack([back(trigrams, by) for by in range(CONTEXT)], axis=-1)
        init = lambda key, shape: 0.1 * jax.random.normal(key, shape, jnp.float32)
        table = self.param("embedding", init, (self.rows, self.width))
        x = rearrange(table[context], "batch length trigram width -> batch length (trigram width)")
        x = nn.relu(nn.Dense(self.hidden, kernel_init=_init)(x))
        return nn.Dense(self.vocabulary, kernel_init=_init)(x)


def _init(key: Any, shape: Any, dtype: Any = jnp.float32) -> Array:
    return fan_in_normal(key, shape, dtype)
