"""Language modelling of bytes by a small decoder-only transformer."""

import dataclasses
import os
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from einops import rearrange

from celo_tasks import datasets
from celo_tasks.families.image_mlp import clip_cross_entropy, fan_in_normal

Array = jax.Array

VOCABULARY = 256
"""Every byte is a token."""


class CausalAttention(nn.Module):
    """Multi-head attention in which a position sees itself and what is before it."""

    num_heads: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps (batch, length, width) to the same shape."""
        length, width = x.shape[-2:]
        qkv = nn.Dense(3 * width, kernel_init=fan_in_normal, name="qkv")(x)
        query, key, value = rearrange(qkv, "b l (three h d) -> three b h l d", three=3, h=self.num_heads)
        scores = jnp.einsum("bhqd,bhkd->bhqk", query, key) / jnp.sqrt(query.shape[-1])
        visible = jnp.tril(jnp.ones((length, length), bool))
        weights = jax.nn.softmax(jnp.where(visible, scores, -jnp.inf))
        heads = jnp.einsum("bhqk,bhkd->bhqd", weights, value)
        return nn.Dense(width, kernel_init=fan_in_normal, name="output")(rearrange(heads, "b h l d -> b l (h d)"))


class TransformerLM(nn.Module):
    """A decoder-only transformer: layer normalisation before each part, learned positions, GELU.

    Attributes:
      num_layers: blocks.
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
            x = x + CausalAttention(self.num_heads, name=f"attention_{i}")(nn.LayerNorm(name=f"norm_attention_{i}")(x))
            hidden = nn.Dense(4 * self.width, kernel_init=fan_in_normal, name=f"mlp_in_{i}")(
                nn.LayerNorm(name=f"norm_mlp_{i}")(x)
            )
            x = x + nn.Dense(self.width, kernel_init=fan_in_normal, name=f"mlp_out_{i}")(nn.gelu(hidden))
        x = nn.LayerNorm(name="norm_output")(x)
        return nn.Dense(self.vocabulary, kernel_init=fan_in_normal, name="logits")(x)


@dataclasses.dataclass(frozen=True)
class TextTransformer:
    """A `celo_core.TaskFamily` of one task, with held-out text: predict each next byte.

    Attributes:
      text: a name known to `celo_tasks.datasets.load_text`.
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

    @property
    def name(self) -> str:
        """E.g. ``"transformer_2x32_shakespeare"``."""
        return f"transformer_{self.num_layers}x{self.width}_{self.text}"

    def load(self) -> dict[str, np.ndarray]:
        """The training text, uint8 (N,)."""
        return {"text": datasets.load_text(self.text, data_dir=self.data_dir).train}

    def load_held_out(self) -> tuple[np.ndarray, np.ndarray]:
        """The held-out text cut into sequences: bytes and their successors, int32 (N, length), for `metrics`."""
        text = datasets.load_text(self.text, data_dir=self.data_dir).valid.astype(np.int32)
        count = (len(text) - 1) // self.length
        cut = lambda start: text[start : start + count * self.length].reshape(count, self.length)
        return cut(0), cut(1)

    def sample(self, key: Array) -> dict[str, Array]:
        """Empty: all tasks are alike."""
        del key
        return {}

    def init(self, key: Array, config: Any) -> tuple[Any, None]:
        """Parameters of the network; there is no model state."""
        del config
        return self._network().init(key, jnp.zeros((1, self.length), jnp.int32))["params"], None

    def batch(self, key: Array, config: Any, data: Any) -> tuple[Array, Array]:
        """Stretches of the text from random places: bytes and their successors, int32 (batch, length)."""
        del config
        start = jax.random.randint(key, (self.batch_size, 1), 0, data["text"].shape[0] - self.length)
        stretch = data["text"][start + jnp.arange(self.length + 1)].astype(jnp.int32)
        return stretch[:, :-1], stretch[:, 1:]

    def loss(self, params: Any, model_state: None, key: Array, config: Any, batch: Any) -> tuple[Array, None]:
        """Mean cross entropy in nats per byte."""
        del key
        return self.metrics(params, model_state, config, batch)["loss"], model_state

    def metrics(self, params: Any, model_state: None, config: Any, batch: tuple[Array, Array]) -> dict[str, Array]:
        """``{"loss": mean cross entropy in nats per byte, "accuracy": share of bytes predicted right}``, float32 ()."""
        del model_state, config
        tokens, targets = batch
        logits: Any = self._network().apply({"params": params}, tokens)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        return {"loss": jnp.mean(losses), "accuracy": jnp.mean(jnp.argmax(logits, -1) == targets)}

    def normalizer(self, loss: Array) -> Array:
        """Loss clipped to [0, 1.5 log 256]; non-finite counts as the upper end."""
        return clip_cross_entropy(loss, VOCABULARY)

    def _network(self) -> TransformerLM:
        return TransformerLM(self.num_layers, self.width, self.num_heads, self.length)
