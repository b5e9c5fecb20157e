"""A causal Transformer over the features of the last steps, as a scheduler's network.

Source: the alternative to the LSTM in Celo, arXiv 2501.12670, section 3; relative positions as in Raffel et al., arXiv 1910.10683.
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from celo_core.schedulers.networks import Network, start_small

Array = jax.Array


class TransformerState(NamedTuple):
    """State of a Transformer: what later steps attend to.

    Attributes:
      count: steps so far, int32 ().
      keys, values: of the last steps, float32 (layers, memory, heads, width / heads); step n is at place ``n % memory``.
    """

    count: Any
    keys: Any
    values: Any


@dataclasses.dataclass(frozen=True)
class Transformer(Network, type="transformer"):
    """Attention over the last ``memory`` steps and a feed-forward part per layer, both after a layer normalisation.

    A step's keys and values are computed once and kept, so that a step costs the same at any time: ``layers (12 width^2 + 2
    memory width)`` multiply-adds. Positions are relative: a learned number for each head and distance is added to the scores.
    theta: ``{"input", "layer_0", ..., "norm_output", "step_size"}``.

    Attributes:
      width: of a token.
      heads: of attention; a divisor of the width.
      layers: number of layers.
      memory: steps that are attended to, the current one included.
    """

    width: int = 16
    heads: int = 2
    layers: int = 1
    memory: int = 32

    def __post_init__(self) -> None:
        if min(self.width, self.heads, self.layers, self.memory) < 1 or self.width % self.heads:
            raise ValueError(
                "a Transformer has positive sizes and a width that its heads divide, not "
                f"width={self.width}, heads={self.heads}, layers={self.layers}, memory={self.memory}."
            )

    def init(self, key: Array, num_inputs: int) -> dict[str, Any]:
        """See `Network`."""
        return start_small(_Transformer(self).init(key, jnp.zeros((num_inputs,), jnp.float32), self.init_state({})))

    def init_state(self, theta: dict[str, Any]) -> TransformerState:
        """See `Network`."""
        del theta
        shape = (self.layers, self.memory, self.heads, self.width // self.heads)
        return TransformerState(jnp.zeros((), jnp.int32), jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32))

    def apply(self, theta: dict[str, Any], inputs: Array, state: Any, num_steps: Any) -> tuple[Array, TransformerState]:
        """See `Network`."""
        del num_steps
        output: Any = _Transformer(self).apply({"params": theta}, inputs, state)
        return output


class _Layer(nn.Module):
    config: Transformer

    @nn.compact
    def __call__(self, x: Array, count: Array, keys: Array, values: Array) -> tuple[Array, Array, Array]:
        of = self.config
        now = nn.Dense(3 * of.width, name="query_key_value")(nn.LayerNorm(name="norm_attention")(x))
        query, key, value = now.reshape(3, of.heads, of.width // of.heads)
        place = count % of.memory
        keys = jax.lax.dynamic_update_index_in_dim(keys, key, place, 0)
        values = jax.lax.dynamic_update_index_in_dim(values, value, place, 0)
        distance = (place - jnp.arange(of.memory, dtype=jnp.int32)) % of.memory
        bias = self.param("relative_position", nn.initializers.zeros_init(), (of.heads, of.memory), jnp.float32)
        scores = jnp.sum(query * keys, axis=-1).T / np.float32(np.sqrt(of.width // of.heads)) + bias[:, distance]
        weights = jax.nn.softmax(jnp.where(distance <= count, scores, np.float32(-1e30)), axis=-1)
        attended = jnp.einsum("hm,mhd->hd", weights, values).reshape(-1)
        x = x + nn.Dense(of.width, name="attention_output")(attended)
        hidden = nn.relu(nn.Dense(4 * of.width, name="hidden")(nn.LayerNorm(name="norm_hidden")(x)))
        return x + nn.Dense(of.width, name="output")(hidden), keys, values


class _Transformer(nn.Module):
    config: Transformer

    @nn.compact
    def __call__(self, x: Array, state: TransformerState) -> tuple[Array, TransformerState]:
        x = nn.Dense(self.config.width, name="input")(x)
        kept = []
        for n in range(self.config.layers):
            x, keys, values = _Layer(self.config, name=f"layer_{n}")(x, state.count, state.keys[n], state.values[n])
            kept.append((keys, values))
        keys, values = (jnp.stack(part) for part in zip(*kept, strict=True))
        y = nn.Dense(1, name="step_size")(nn.LayerNorm(name="norm_output")(x))[0]
        return y, TransformerState(optax.safe_increment(state.count), keys, values)
