"""Language models and meta-learning tasks: sizes against closed forms, and what all language models have in common."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from celo_core import TaskFamily
from celo_tasks import datasets
from celo_tasks.families import LanguageModel, RecurrentLM
from celo_tasks.families.held_out import HeldOut
from celo_tasks.tasks.registry import TASKS as REGISTERED


def dense(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def transformer(vocabulary: int, length: int, width: int, layers: int) -> int:
    block = (
        4 * width + dense(width, 3 * width) + dense(width, width) + dense(width, 4 * width) + dense(4 * width, width)
    )
    return (vocabulary + length) * width + layers * block + 2 * width + dense(width, vocabulary)


def recurrent(vocabulary: int, embedding: int, width: int, gates: int, states: int) -> int:
    cell = dense(embedding + width, gates * width) + states * width
    return vocabulary * embedding + cell + dense(width, vocabulary)


# 28 features and 11 of the time, layers of 4, 4 and 2, and seven decays
ADAFAC_MLP = dense(39, 4) + dense(4, 4) + dense(4, 2) + 7
K32 = 32_000

# data set, shape of a batch's tokens, number of parameters
TASKS: dict[str, tuple[str, tuple[int, int] | None, int]] = {
    "transformer_lm1b_2layer_32width": ("lm1b_32k", (8, 8), transformer(K32, 8, 32, 2)),
    "transformer_lm1b_3layer_112width": ("lm1b_32k", (16, 32), transformer(K32, 32, 112, 3)),
    "transformer_lm1b_5layer_128width": ("lm1b_32k", (32, 128), transformer(K32, 128, 128, 5)),
    "rnn_lm1b_lstm256": ("lm1b_32k", (128, 32), recurrent(K32, 128, 256, 4, 2)),
    "rnn_wikipedia_gru256": ("wikipedia_en_32k", (128, 32), recurrent(K32, 128, 256, 3, 1)),
    "rnn_lm1b_irnn256": ("lm1b", (128, 32), recurrent(256, 128, 256, 1, 1)),
    "lopt_fashion_mnist_20": ("fashion_mnist_small_8x8", None, ADAFAC_MLP),
    "es_wrapped_fashion_mnist_8x8_relu32": (
        "fashion_mnist_small_8x8",
        None,
        dense(64, 32) + dense(32, 10),
    ),
    "small_transformer": ("shakespeare", (8, 24), transformer(256, 24, 32, 2)),
    "small_gru": ("shakespeare", (16, 24), recurrent(256, 16, 32, 3, 1)),
    "small_lopt": ("digits_8x8", None, ADAFAC_MLP),
}


@pytest.mark.parametrize("name", TASKS)
def test_shapes_of_the_task(name: str) -> None:
    dataset, batch_shape, parameters = TASKS[name]
    task: Any = REGISTERED[name].make_with(dataset, "no such folder")
    assert isinstance(task, TaskFamily) and isinstance(task, HeldOut)
    params, state = jax.eval_shape(task.init, jax.random.key(0), {})
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters and state is None
    if batch_shape is not None:
        data = {"text": jax.ShapeDtypeStruct((1000,), np.uint16)}
        batch = jax.eval_shape(lambda text: task.batch(jax.random.key(0), {}, text), data)
        assert [leaf.shape for leaf in batch] == [batch_shape, batch_shape]
        loss, _ = jax.eval_shape(task.loss, params, None, jax.random.key(0), {}, batch)
        assert loss.shape == ()


def test_vocabulary_follows_from_the_name() -> None:
    for dataset, want in (("lm1b_32k", 32_000), ("wikipedia_en_32k", 32_000), ("lm1b", 256), ("my_text", 256)):
        task = REGISTERED["rnn_lm1b_lstm256"].make_with(dataset)
        assert task.vocabulary == task.network.vocabulary == datasets.text_vocabulary(dataset) == want


def test_a_text_of_more_tokens_than_the_network_is_refused(tmp_path: Path) -> None:
    tokens = np.arange(600, dtype=np.uint16)
    np.savez(tmp_path / "subwords.npz", train=tokens, valid=tokens, vocabulary=600)
    family = LanguageModel("rnn", RecurrentLM("gru", 4, 4), "subwords", data_dir=tmp_path)
    with pytest.raises(ValueError, match=r"600 tokens, but the network has 256: .*vocabulary=600"):
        family.load()
    family = LanguageModel("rnn", RecurrentLM("gru", 4, 4, 600), "subwords", vocabulary=600, data_dir=tmp_path)
    batch, targets = family.batch(jax.random.key(0), {}, jax.device_put(family.load()))
    np.testing.assert_array_equal(targets, batch + 1)


@pytest.mark.parametrize(("held_out_tokens", "rows"), [(None, 19), (20, 4), (1, 1), (10**6, 19)])
def test_held_out_sequences_are_evenly_spaced(tmp_path: Path, held_out_tokens: int | None, rows: int) -> None:
    (tmp_path / "count_train.txt").write_bytes(bytes(10))
    (tmp_path / "count_valid.txt").write_bytes(bytes(range(100)))
    network = RecurrentLM("gru", 4, 4)
    family = LanguageModel("rnn", network, "count", 4, 5, held_out_tokens=held_out_tokens, data_dir=tmp_path)
    tokens, targets = family.load_held_out()
    assert tokens.shape == targets.shape == (rows, 5)
    np.testing.assert_array_equal(targets, tokens + 1)
    starts = tokens[:, 0] // 5
    assert starts[0] == 0 and len(set(starts.tolist())) == rows
    assert rows == 1 or np.ptp(np.diff(starts)) <= 1
