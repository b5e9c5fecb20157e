"""Next-token prediction: what every family of language models has in common.

Sequences are excerpts of one long text from random places, so that none is padded; the public task library takes the
beginning of each document instead, and masks its padding (arXiv 2211.09760, section 4).
"""

import dataclasses
import os
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from celo_core import FamilyDefaults
from celo_tasks import datasets
from celo_tasks.families.image_mlp import clip_cross_entropy

Array = jax.Array


class NextToken(FamilyDefaults):
    """The methods of a `celo_core.TaskFamily` of one task, with held-out text: predict each next token.

    A subclass defines the network by `_network`, a module that maps tokens int32 (batch, length) to the logits of each
    one's successor, (batch, length, vocabulary).
    """

    text: str
    batch_size: int
    length: int
    vocabulary: int
    held_out_tokens: int | None
    data_dir: str | os.PathLike[str] | None

    def _network(self) -> nn.Module:
        raise NotImplementedError

    def _load_text(self) -> datasets.TextData:
        text = datasets.load_text(self.text, data_dir=self.data_dir)
        if text.vocabulary > self.vocabulary:
            raise ValueError(
                f"text {self.text!r} has a vocabulary of {text.vocabulary} tokens, but the network has {self.vocabulary}: "
                f"use a LanguageModel of vocabulary={text.vocabulary} whose network has as many logits."
            )
        return text

    def load(self) -> dict[str, np.ndarray]:
        """The training text, uint8 or uint16 (N,).

        Raises:
          ValueError: the text's vocabulary is larger than the network's, or it has fewer tokens than a sequence.
        """
        return {"text": self._long_enough(self._load_text().train, "train")}

    def _long_enough(self, tokens: np.ndarray, what: str) -> np.ndarray:
        if len(tokens) <= self.length:
            raise ValueError(
                f"text {self.text!r} has {len(tokens)} tokens to {what} on, too few for a sequence of {self.length} and its "
                "successors: use a longer text."
            )
        return tokens

    def load_held_out(self) -> tuple[np.ndarray, np.ndarray]:
        """The held-out text cut into sequences: tokens and their successors, int32 (N, length), for `metrics`.

        If `held_out_tokens` is less than the length of the text, the sequences are evenly spaced. Errors as `load`.
        """
        text = self._long_enough(self._load_text().valid.astype(np.int32), "validate")
        total = (len(text) - 1) // self.length
        count = total if self.held_out_tokens is None else min(total, max(1, self.held_out_tokens // self.length))
        rows = np.arange(count) * total // max(count, 1)
        cut = lambda start: text[start : start + total * self.length].reshape(total, self.length)[rows]
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
        """Excerpts of the text from random places: tokens and their successors, int32 (batch, length)."""
        del config
        start = jax.random.randint(key, (self.batch_size, 1), 0, data["text"].shape[0] - self.length)
        stretch = data["text"][start + jnp.arange(self.length + 1)].astype(jnp.int32)
        return stretch[:, :-1], stretch[:, 1:]

    def loss(self, params: Any, model_state: None, key: Array, config: Any, batch: Any) -> tuple[Array, None]:
        """Mean cross entropy in nats per token."""
        del key
        return self.metrics(params, model_state, config, batch)["loss"], model_state

    def metrics(self, params: Any, model_state: None, config: Any, batch: tuple[Array, Array]) -> dict[str, Array]:
        """``{"loss": cross entropy in nats per token, "accuracy": fraction of correct predictions}``, float32 ()."""
        del model_state, config
        tokens, targets = batch
        logits: Any = self._network().apply({"params": params}, tokens)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        return {"loss": jnp.mean(losses), "accuracy": jnp.mean(jnp.argmax(logits, -1) == targets)}

    def normalizer(self, loss: Array) -> Array:
        """Loss clipped to [0, 1.5 log vocabulary]; non-finite counts as the upper end."""
        return clip_cross_entropy(loss, self.vocabulary)


@dataclasses.dataclass(frozen=True)
class LanguageModel(NextToken):
    """A `celo_core.TaskFamily` of one task, with held-out text: any flax network that predicts each next token.

    Attributes:
      name: name in results.
      network: maps tokens int32 (batch, length) to the logits of each one's successor, (batch, length, vocabulary).
      text: a name for `celo_tasks.datasets.load_text`.
      batch_size: sequences per batch.
      length: tokens predicted per sequence.
      vocabulary: size of the network's vocabulary; at least the text's.
      held_out_tokens: held-out tokens on which a network is evaluated; ``None`` for all. They are evaluated at once, which takes
        at least four bytes per token and entry of the vocabulary: 1 GB for 8,192 tokens out of 32,000.
      data_dir: folder with texts, or ``None``.
    """

    name: str
    network: nn.Module
    text: str = "shakespeare"
    batch_size: int = 16
    length: int = 32
    vocabulary: int = 256
    held_out_tokens: int | None = 8192
    data_dir: str | os.PathLike[str] | None = None

    def _network(self) -> nn.Module:
        return self.network
