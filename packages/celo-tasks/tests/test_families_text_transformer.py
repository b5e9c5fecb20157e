"""The byte-level transformer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo_tasks import datasets
from celo_tasks.families import TextTransformer, TransformerLM

FAMILY = TextTransformer(width=16, batch_size=8, length=16)


@pytest.mark.parametrize("position", [1, 9])
def test_later_tokens_do_not_change_earlier_logits(position: int) -> None:
    network = TransformerLM(num_layers=2, width=16, num_heads=4, max_length=16)
    tokens = jax.random.randint(jax.random.key(0), (2, 16), 0, 256)
    params, apply = jax.jit(network.init)(jax.random.key(1), tokens), jax.jit(network.apply)
    changed = tokens.at[:, position].set((tokens[:, position] + 1) % 256)
    before, after = apply(params, tokens), apply(params, changed)
    np.testing.assert_array_equal(before[:, :position], after[:, :position])
    assert np.abs(before[:, position:] - after[:, position:]).max(axis=(0, 2)).min() > 0  # and all later ones see it


def test_heads_attend_separately() -> None:
    tokens = jnp.arange(8)[None]
    one, four = (TransformerLM(1, 16, heads, 8) for heads in (1, 4))
    params = jax.jit(one.init)(jax.random.key(0), tokens)
    logits = [jax.jit(network.apply)(params, tokens) for network in (one, four)]
    assert np.abs(logits[0] - logits[1]).max() > 1e-3


def test_targets_are_the_next_bytes() -> None:
    tokens, targets = FAMILY.batch(jax.random.key(0), {}, jax.device_put(FAMILY.load()))
    assert tokens.shape == targets.shape == (8, 16) and tokens.dtype == jnp.int32
    np.testing.assert_array_equal(tokens[:, 1:], targets[:, :-1])
    text = datasets.load_text("shakespeare").train.tobytes()
    for row, last in zip(np.asarray(tokens, np.uint8), np.asarray(targets[:, -1:], np.uint8), strict=True):
        assert row.tobytes() + last.tobytes() in text


def test_batches_reach_the_end_of_the_text() -> None:
    family = TextTransformer(batch_size=200, length=4)
    data = {"text": np.arange(8, dtype=np.uint8)}
    tokens, targets = family.batch(jax.random.key(0), {}, jax.device_put(data))
    assert set(np.asarray(tokens[:, 0]).tolist()) == {0, 1, 2, 3}
    assert int(targets.max()) == 7
    np.testing.assert_array_equal(targets, tokens + 1)


def test_held_out_text_is_cut_without_loss() -> None:
    tokens, targets = FAMILY.load_held_out()
    text = datasets.load_text("shakespeare").valid
    np.testing.assert_array_equal(tokens.ravel(), text[: tokens.size])
    np.testing.assert_array_equal(targets.ravel(), text[1 : tokens.size + 1])
    assert len(text) - 1 - tokens.size < 16
