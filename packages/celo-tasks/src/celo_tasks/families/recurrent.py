"""Recurrent language models: an LSTM, a GRU, a plain tanh network and an identity-initialised ReLU network.

The input's part of a cell does not depend on the state, so it is computed for all positions in one matrix product; only the
recurrent product is left to `jax.lax.scan`. The cells, with x the embedded token, h the hidden state and * elementwise::

    lstm:  i, g, f, o = x W + b + h U;   c <- sigmoid(f + 1) * c + sigmoid(i) * tanh(g);   h <- sigmoid(o) * tanh(c)
    gru:   z, r = sigmoid(x W + b + h U);   a = tanh(x W' + b' + (r * h) U');   h <- (1 - z) * h + z * a
    rnn:   h <- tanh(x W + b + h U)
    irnn:  h <- relu(x W + b + h U),  U the identity at first

Sources: Hochreiter and Schmidhuber 1997 with the forget gate's 1 of Jozefowicz et al. 2015; Cho et al., arXiv 1406.1078,
version 1; Le et al., arXiv 1504.00941 (IRNN). As in the public task library (arXiv 2211.09760, section 4) the first state is
learned and initialised to zero, and a token's embedding is initialised with a variance of about 1.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from celo_tasks.families.image_mlp import fan_in_normal

Array = jax.Array
State = tuple[Array, ...]


class Cell(NamedTuple):
    """A recurrent cell.

    Attributes:
      num_gates: blocks of ``width`` numbers that the input is mapped to.
      num_states: number of arrays in the state; the first is the hidden state, which is the output.
      step: maps the input's part (batch, num_gates * width), the state (arrays (batch, width)) and the recurrent matrix
        (width, num_gates * width) to the new state.
      recurrent_init: initialiser of the recurrent matrix.
    """

    num_gates: int
    num_states: int
    step: Callable[[Array, State, Array], State]
    recurrent_init: Any = fan_in_normal


def lstm_step(x: Array, state: State, recurrent: Array) -> State:
    """One step of the LSTM: gates i, g, f, o; state (h, c)."""
    hidden, cell = state
    i, g, f, o = jnp.split(x + hidden @ recurrent, 4, axis=-1)
    cell = nn.sigmoid(f + 1.0) * cell + nn.sigmoid(i) * jnp.tanh(g)
    return nn.sigmoid(o) * jnp.tanh(cell), cell


def gru_step(x: Array, state: State, recurrent: Array) -> State:
    """One step of the GRU: gates z, r and the candidate a; state (h,)."""
    (hidden,) = state
    width = hidden.shape[-1]
    z, r = jnp.split(nn.sigmoid(x[..., : 2 * width] + hidden @ recurrent[:, : 2 * width]), 2, axis=-1)
    candidate = jnp.tanh(x[..., 2 * width :] + (r * hidden) @ recurrent[:, 2 * width :])
    return ((1.0 - z) * hidden + z * candidate,)


def rnn_step(x: Array, state: State, recurrent: Array) -> State:
    """One step of the plain network; state (h,)."""
    return (jnp.tanh(x + state[0] @ recurrent),)


def irnn_step(x: Array, state: State, recurrent: Array) -> State:
    """One step of the ReLU network; state (h,)."""
    return (nn.relu(x + state[0] @ recurrent),)


def unit_normal(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Standard normal numbers truncated at 2, as an initialiser."""
    return jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype)


def identity(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """The identity matrix, as an initialiser."""
    del key
    return jnp.eye(shape[0], shape[1], dtype=dtype)


CELLS: Mapping[str, Cell] = MappingProxyType(
    {
        "lstm": Cell(4, 2, lstm_step),
        "gru": Cell(3, 1, gru_step),
        "rnn": Cell(1, 1, rnn_step),
        "irnn": Cell(1, 1, irnn_step, identity),
    }
)
"""The cells by name."""


class RecurrentLM(nn.Module):
    """A recurrent language model: embedding, one recurrent layer, a linear layer.

    Attributes:
      cell: a name in `CELLS`.
      width: size of the hidden state.
      embedding: size of a token's vector.
      vocabulary: number of tokens.
    """

    cell: str
    width: int
    embedding: int
    vocabulary: int = 256

    def __post_init__(self) -> None:
        if self.cell not in CELLS:
            raise ValueError(f"there is no recurrent cell {self.cell!r}: use one of {', '.join(CELLS)}.")
        super().__post_init__()

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        """Maps tokens int32 (batch, length) to the logits of each one's successor, (batch, length, vocabulary)."""
        cell, width = CELLS[self.cell], self.width
        x = nn.Embed(self.vocabulary, self.embedding, embedding_init=unit_normal, name="tokens")(tokens)
        x = nn.Dense(cell.num_gates * width, kernel_init=fan_in_normal, name="input")(x)
        recurrent = self.param("recurrent", cell.recurrent_init, (width, cell.num_gates * width))
        first = self.param("first_state", nn.initializers.zeros_init(), (cell.num_states, width))
        state = tuple(jnp.broadcast_to(one, (tokens.shape[0], width)) for one in first)

        def step(state: State, x: Array) -> tuple[State, Array]:
            state = cell.step(x, state, recurrent)
            return state, state[0]

        _, hidden = jax.lax.scan(step, state, jnp.swapaxes(x, 0, 1))
        return nn.Dense(self.vocabulary, kernel_init=fan_in_normal, name="logits")(jnp.swapaxes(hidden, 0, 1))
