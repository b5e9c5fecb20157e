"""Networks of a learned scheduler: they map its inputs and their own state to the logarithm of the step-size multiplier."""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from celo_core.configs import Part

Array = jax.Array


class Network(Part):
    """A scheduler's network."""

    group = "celo.scheduler_networks"

    def init(self, key: Array, num_inputs: int) -> dict[str, Any]:
        """Random theta, float32, whose output is near 0 for any input."""
        raise NotImplementedError

    def init_state(self, theta: dict[str, Any]) -> Any:
        """State before the first step: a tree of arrays, or ``None``."""
        return None

    def apply(self, theta: dict[str, Any], inputs: Array, state: Any) -> tuple[Array, Any]:
        """The log multiplier, float32 (), and the new state, from ``inputs``, float32 (num_inputs,)."""
        raise NotImplementedError

    def reads(self, theta: dict[str, Any], rows: slice) -> bool:
        """Whether the output may depend on these inputs; true for a traced theta, whose values are unknown."""
        del theta, rows
        return True


@dataclasses.dataclass(frozen=True)
class Linear(Network, type="linear"):
    """``w x + b``: some two dozen meta-parameters, few enough for evolution strategies to learn them from few estimates.

    theta: ``{"step_size": {"kernel": (num_inputs, 1), "bias": (1,)}}``.
    """

    def init(self, key: Array, num_inputs: int) -> dict[str, Any]:
        """See `Network`."""
        return _start_small(_Linear().init(key, jnp.zeros((num_inputs,), jnp.float32)))

    def apply(self, theta: dict[str, Any], inputs: Array, state: Any) -> tuple[Array, Any]:
        """See `Network`."""
        output: Any = _Linear().apply({"params": theta}, inputs)
        return output, state

    def reads(self, theta: dict[str, Any], rows: slice) -> bool:
        """See `Network`; false where the weights of these inputs are all 0."""
        kernel = theta["step_size"]["kernel"]
        return isinstance(kernel, jax.core.Tracer) or bool(np.any(np.asarray(kernel)[rows] != 0))


@dataclasses.dataclass(frozen=True)
class LSTM(Network, type="lstm"):
    """``x' = W_a x + relu(W_b x + b_b) + b_a``, an LSTM on x', and a linear read-out of its hidden state.

    All four gates (input, cell, forget, output) are one product ``[x', h] @ kernel``; 1 is added to the forget gate's input.
    theta: ``{"input", "pooled_input", "gates", "step_size"}``, each with ``kernel`` and ``bias``, and ``initial_hidden`` and
    ``initial_cell``, (size,).

    Source: Celo, arXiv 2501.12670, section 3.

    Attributes:
      size: number of units.
    """

    size: int = 64

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"an LSTM needs at least 1 unit, not {self.size}.")

    def init(self, key: Array, num_inputs: int) -> dict[str, Any]:
        """See `Network`."""
        zeros = jnp.zeros((self.size,), jnp.float32)
        theta = _start_small(_LSTM(self.size).init(key, jnp.zeros((num_inputs,), jnp.float32), zeros, zeros))
        return {**theta, "initial_hidden": zeros, "initial_cell": jnp.zeros_like(zeros)}

    def init_state(self, theta: dict[str, Any]) -> "LSTMState":
        """See `Network`."""
        copy = lambda name: jnp.array(theta[name], jnp.float32)
        return LSTMState(copy("initial_hidden"), copy("initial_cell"))

    def apply(self, theta: dict[str, Any], inputs: Array, state: "LSTMState") -> tuple[Array, "LSTMState"]:
        """See `Network`."""
        output: Any = _LSTM(self.size).apply({"params": theta}, inputs, *state)
        return output[0], LSTMState(*output[1:])


class LSTMState(NamedTuple):
    """State of an LSTM, float32 (size,) each."""

    hidden: Any
    cell: Any


class _Linear(nn.Module):
    @nn.compact
    def __call__(self, x: Array) -> Array:
        return nn.Dense(1, name="step_size")(x)[0]


class _LSTM(nn.Module):
    size: int

    @nn.compact
    def __call__(self, x: Array, hidden: Array, cell: Array) -> tuple[Array, Array, Array]:
        pooled = nn.relu(nn.Dense(self.size, name="pooled_input")(x))
        x = nn.Dense(self.size, name="input")(x) + pooled
        gates = nn.Dense(4 * self.size, name="gates")(jnp.concatenate([x, hidden]))
        input_gate, candidate, forget_gate, output_gate = jnp.split(gates, 4)
        cell = nn.sigmoid(forget_gate + 1.0) * cell + nn.sigmoid(input_gate) * jnp.tanh(candidate)
        hidden = nn.sigmoid(output_gate) * jnp.tanh(cell)
        return nn.Dense(1, name="step_size")(hidden)[0], hidden, cell


def _start_small(variables: Any) -> dict[str, Any]:
    """Theta of a module, with the kernel of its read-out scaled by 0.1."""
    theta = dict(variables["params"])
    read_out = theta["step_size"]
    return {**theta, "step_size": {"kernel": 0.1 * read_out["kernel"], "bias": read_out["bias"]}}
