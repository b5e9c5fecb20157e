"""The recurrent language models, against plain recurrences in float64."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo_tasks.families import RecurrentLM
from celo_tasks.families.recurrent import CELLS

Array = np.ndarray
WIDTH, EMBEDDING, VOCABULARY = 6, 5, 11
TOKENS = np.random.default_rng(0).integers(0, VOCABULARY, (2, 9))


@pytest.fixture(params=CELLS, scope="module")
def cell(request: pytest.FixtureRequest) -> tuple[str, Any, Any]:
    """Name, compiled network and parameters, all of them random."""
    network = RecurrentLM(request.param, WIDTH, EMBEDDING, VOCABULARY)
    shapes = jax.eval_shape(network.init, jax.random.key(0), TOKENS)
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape, scale=0.5), x.dtype), shapes)
    return request.param, jax.jit(network.apply), params


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def recurrence(cell: str, params: Any, tokens: Array) -> Array:
    """The logits (length, vocabulary) of one sequence, in float64, gate by gate and token by token."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)["params"]
    width = WIDTH
    w = [p["input"]["kernel"][:, i * width : (i + 1) * width] for i in range(4)]
    b = [p["input"]["bias"][i * width : (i + 1) * width] for i in range(4)]
    u = [p["recurrent"][:, i * width : (i + 1) * width] for i in range(4)]
    h = p["first_state"][0]
    c = p["first_state"][-1]
    logits = []
    for token in tokens:
        x = p["tokens"]["embedding"][token]
        gate = lambda i, h=h, x=x: x @ w[i] + b[i] + h @ u[i]
        if cell == "lstm":
            c = sigmoid(gate(2) + 1) * c + sigmoid(gate(0)) * np.tanh(gate(1))
            h = sigmoid(gate(3)) * np.tanh(c)
        elif cell == "gru":
            z, r = sigmoid(gate(0)), sigmoid(gate(1))
            h = (1 - z) * h + z * np.tanh(x @ w[2] + b[2] + (r * h) @ u[2])
        elif cell == "rnn":
            h = np.tanh(gate(0))
        else:
            h = np.maximum(gate(0), 0)
        logits.append(h @ p["logits"]["kernel"] + p["logits"]["bias"])
    return np.stack(logits)


def test_logits_are_those_of_the_recurrence(cell: tuple[str, Any, Any]) -> None:
    name, apply, params = cell
    want = np.stack([recurrence(name, params, tokens) for tokens in TOKENS])
    # Float32 rounding, carried through nine steps; the ReLU network has numbers of the order of 100.
    np.testing.assert_allclose(apply(params, TOKENS), want, rtol=1e-4, atol=1e-4)


def test_later_tokens_do_not_change_earlier_logits(cell: tuple[str, Any, Any]) -> None:
    _, apply, params = cell
    changed = TOKENS.copy()
    changed[:, 4] = (changed[:, 4] + 1) % VOCABULARY
    before, after = apply(params, TOKENS), apply(params, changed)
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert np.abs(before[:, 4:] - after[:, 4:]).max(axis=(0, 2)).min() > 0  # and all later ones see it


def test_the_irnn_begins_as_the_identity() -> None:
    for name in ("irnn", "rnn"):
        network = RecurrentLM(name, WIDTH, EMBEDDING, VOCABULARY)
        params = jax.jit(network.init)(jax.random.key(0), TOKENS)["params"]
        assert (np.array_equal(params["recurrent"], np.eye(WIDTH))) == (name == "irnn")
        assert not np.any(params["first_state"])


def test_unknown_cell() -> None:
    with pytest.raises(ValueError, match=r"'elman': use one of lstm, gru, rnn, irnn\."):
        RecurrentLM("elman", WIDTH, EMBEDDING)
