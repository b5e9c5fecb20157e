"""Networks of a learned scheduler: they map its inputs and their own state to the logarithm of the step-size multiplier."""

import dataclasses
import math
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

    def apply(self, theta: dict[str, Any], inputs: Array, state: Any, num_steps: Any) -> tuple[Array, Any]:
        """The log multiplier and the new state.

        Args:
          theta: as ``init`` returns it.
          inputs: float32 (num_inputs,).
          state: as ``init_state`` returns it.
          num_steps: planned length of training, float32 ().

        Returns:
          The log multiplier, float32 (), and the state.
        """
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
        return start_small(_Linear().init(key, jnp.zeros((num_inputs,), jnp.float32)))

    def apply(self, theta: dict[str, Any], inputs: Array, state: Any, num_steps: Any) -> tuple[Array, Any]:
        """See `Network`."""
        del num_steps
        output: Any = _Linear().apply({"params": theta}, inputs)
        return output, state

    def reads(self, theta: dict[str, Any], rows: slice) -> bool:
        """See `Network`; false where the weights of these inputs are all 0."""
        kernel = theta["step_size"]["kernel"]
        return isinstance(kernel, jax.core.Tracer) or bool(np.any(np.asarray(kernel)[rows] != 0))


@dataclasses.dataclass(frozen=True)
class LinearIntegral(Linear, type="linear_integral"):
    """Proportional-integral control: ``y_t = w x_t + b + z_t``, where ``z_t = z_{t-1} + rate / num_steps * tanh(v x_t + c)``.

    z begins at 0 and is kept within plus or minus ``limit``. It remembers, which `Linear` does not: where steps were too long,
    they stay shorter. theta: ``{"step_size": {"kernel": (num_inputs, 2), "bias": (2,)}}``, w and b before v and c.

    Attributes:
      rate: by how much z changes at most over a whole training.
      limit: largest magnitude of z.
    """

    rate: float = 10.0
    limit: float = 1.5

    def __post_init__(self) -> None:
        for name in ("rate", "limit"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a positive number, not {getattr(self, name)}.")

    def init(self, key: Array, num_inputs: int) -> dict[str, Any]:
        """See `Network`."""
        return start_small(_Linear(2).init(key, jnp.zeros((num_inputs,), jnp.float32)))

    def init_state(self, theta: dict[str, Any]) -> Array:
        """See `Network`: z, float32 ()."""
        del theta
        return jnp.zeros((), jnp.float32)

    def apply(self, theta: dict[str, Any], inputs: Array, state: Any, num_steps: Any) -> tuple[Array, Any]:
        """See `Network`."""
        output: Any = _Linear(2).apply({"params": theta}, inputs)
        change = self.rate / jnp.maximum(num_steps, self.rate) * jnp.tanh(output[1])
        state = jnp.clip(state + change, -self.limit, self.limit)
        return output[0] + state, state


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
        theta = start_small(_LSTM(self.size).init(key, jnp.zeros((num_inputs,), jnp.float32), zeros, zeros))
        return {**theta, "initial_hidden": zeros, "initial_cell": jnp.zeros_like(zeros)}

    def init_state(self, theta: dict[str, Any]) -> "LSTMState":
        """See `Network`."""
        copy = lambda name: jnp.array(theta[name], jnp.float32)
        return LSTMState(copy("initial_hidden"), copy("initial_cell"))

    def apply(
        self, theta: dict[str, Any], inputs: Array, state: "LSTMState", num_steps: Any
    ) -> tuple[Array, "LSTMState"]:
        """See `Network`."""
        del num_steps
        output: Any = _LSTM(self.size).apply({"params": theta}, inputs, *state)
        return output[0], LSTMState(*output[1:])


class LSTMState(NamedTuple):
    """State of an LSTM, float32 (size,) each."""

    hidden: Any
    cell: Any


class _Linear(nn.Module):
    outputs: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = nn.Dense(self.outputs, name="step_size")(x)
        return y[0] if self.outputs == 1 else y


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


def start_small(variables: Any) -> dict[str, Any]:
    """Theta of a module, with the kernel of its read-out scaled by 0.1."""
    theta = dict(variables["params"])
    read_out = theta["step_size"]
    return {**theta, "step_size": {"kernel": 0.1 * read_out["kernel"], "bias": read_out["bias"]}}
