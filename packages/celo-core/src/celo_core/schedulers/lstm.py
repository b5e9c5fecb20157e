"""The LSTM scheduler: one step-size multiplier per training step, from time and the loss curve.

Source: Celo (arXiv 2501.12670, section 3). Its inputs depend on no tensor, so it is evaluated once per step.
By its config it reads the planned length of training or the task embedding besides, which the published one does not.
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from celo_core.checks import check_choice
from celo_core.schedulers.embedding import EMBEDDING_SIZE, check_task_embedding
from celo_core.schedulers.loss_features import (
    DECAYS,
    TIME_THRESHOLDS,
    LossBuffer,
    decay_factor,
    horizon_feature,
    init_loss_buffer,
    time_features,
    update_loss_buffer,
)

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class LSTMSchedulerConfig:
    """Shape of the LSTM scheduler.

    Attributes:
      hidden_size: units of the LSTM; 0 for none, where the log multiplier is a linear map of the inputs: two dozen
        meta-parameters, of which evolution strategies learn the most from the least.
      num_timescales: running means of the loss; one fewer loss features.
      multiplier: the multiplier is ``multiplier * exp(output)``.
      task_embedding: whether `celo_core.task_embedding` is read beside time and loss features; it is then to be given to
        the architecture's ``build``.
      horizon: whether the planned length of training is read as well, see `celo_core.schedulers.loss_features`.
      shortest_horizon: steps that a shorter planned length counts as: where a step size in inverse proportion to the length
        would be too large.
      decay: what the multiplier is multiplied by besides, see `celo_core.schedulers.loss_features.decay_factor`; what is
        learned is then the difference to a schedule known to be good. The published scheduler has ``"constant"``.

    Raises:
      ValueError: a negative number of units, a shortest length below 1, or an unknown decay.
    """

    hidden_size: int = 64
    num_timescales: int = 10
    multiplier: float = 0.1
    task_embedding: bool = False
    horizon: bool = False
    shortest_horizon: int = 1
    decay: str = "constant"

    def __post_init__(self) -> None:
        if self.hidden_size < 0:
            raise ValueError(f"hidden_size must be at least 0, not {self.hidden_size}.")
        if self.shortest_horizon < 1:
            raise ValueError(f"shortest_horizon must be at least 1, not {self.shortest_horizon}.")
        check_choice("decay", self.decay, DECAYS)

    @property
    def num_inputs(self) -> int:
        """Length of the input vector."""
        embedding = EMBEDDING_SIZE if self.task_embedding else 0
        return len(TIME_THRESHOLDS) + self.num_timescales - 1 + int(self.horizon) + embedding


class LSTMSchedulerState(NamedTuple):
    """Memory of the scheduler.

    Attributes:
      losses: running means of the loss; where it is not read (see `LSTMScheduler.reads_loss`) they stay as they began, and
        steps are counted alone.
      hidden: float32 (hidden_size,); ``None`` without an LSTM.
      cell: likewise.
    """

    losses: LossBuffer
    hidden: Any
    cell: Any


class LSTMNetwork(nn.Module):
    """``x' = W_a x + relu(W_b x + b_b) + b_a``, an LSTM on x', and a linear read-out of its hidden state.

    All four gates (input, cell, forget, output) are one product ``[x', h] @ kernel``; the forget gate has an extra +1.
    """

    config: LSTMSchedulerConfig

    @nn.compact
    def __call__(self, x: Array, hidden: Any, cell: Any) -> tuple[Array, Any, Any]:
        """Maps the input (num_inputs,) and the LSTM's state, twice (hidden_size,), to a log multiplier and a new state."""
        size = self.config.hidden_size
        if size == 0:
            return nn.Dense(1, name="step_size")(x)[0], hidden, cell
        pooled = nn.relu(nn.Dense(size, name="pooled_input")(x))
        x = nn.Dense(size, name="input")(x) + pooled
        gates = nn.Dense(4 * size, name="gates")(jnp.concatenate([x, hidden]))
        input_gate, candidate, forget_gate, output_gate = jnp.split(gates, 4)
        cell = nn.sigmoid(forget_gate + 1.0) * cell + nn.sigmoid(input_gate) * jnp.tanh(candidate)
        hidden = nn.sigmoid(output_gate) * jnp.tanh(cell)
        return nn.Dense(1, name="step_size")(hidden)[0], hidden, cell


@dataclasses.dataclass(frozen=True)
class LSTMScheduler:
    """Scheduler of Celo and Celo-Adam.

    theta: ``{"network": {"input", "pooled_input", "gates", "step_size"}, "initial_hidden", "initial_cell"}``; without an
    LSTM ``{"network": {"step_size"}, ...}``.
    """

    config: LSTMSchedulerConfig = LSTMSchedulerConfig()

    def init(self, key: Array) -> dict[str, Any]:
        """Random theta whose multiplier is near 1, so that training begins at the update rule trained without it."""
        config = self.config
        zeros = jnp.zeros((config.hidden_size,), jnp.float32)
        variables = LSTMNetwork(config).init(key, jnp.zeros((config.num_inputs,), jnp.float32), zeros, zeros)
        network = dict(variables["params"])
        bias = jnp.full((1,), -jnp.log(config.multiplier), jnp.float32)
        network["step_size"] = {"kernel": 0.1 * network["step_size"]["kernel"], "bias": bias}
        return {"network": network, "initial_hidden": zeros, "initial_cell": jnp.zeros_like(zeros)}

    def init_state(self, theta: dict[str, Any]) -> LSTMSchedulerState:
        """State before the first step."""
        return LSTMSchedulerState(
            losses=init_loss_buffer(self.config.num_timescales),
            # An array without elements would be more than some writers of checkpoints take.
            hidden=jnp.array(theta["initial_hidden"], jnp.float32) if self.config.hidden_size else None,
            cell=jnp.array(theta["initial_cell"], jnp.float32) if self.config.hidden_size else None,
        )

    def reads_loss(self, theta: dict[str, Any]) -> bool:
        """Whether the multiplier depends on the loss: not where a linear map has nothing but zeros for the loss's features.

        Of a traced theta that cannot be told, and the answer is yes.
        """
        kernel = theta["network"]["step_size"]["kernel"]
        if self.config.hidden_size or isinstance(kernel, jax.core.Tracer):
            return True
        first = len(TIME_THRESHOLDS)
        return bool(np.any(np.asarray(kernel)[first : first + self.config.num_timescales - 1] != 0))

    def decay(self, count: Array, num_steps: Any) -> Array:
        """Share of its height that the schedule's decay leaves after ``count`` steps, float32 (); see `DECAYS`."""
        return decay_factor(self.config.decay, count.astype(jnp.float32) / jnp.asarray(num_steps, jnp.float32))

    def step(
        self,
        theta: dict[str, Any],
        state: LSTMSchedulerState,
        count: Array,
        value: Array | None,
        num_steps: Array,
        task_embedding: Array | None = None,
    ) -> tuple[Array, LSTMSchedulerState]:
        """Multiplier for this step.

        Args:
          theta: the scheduler's meta-parameters.
          state: memory.
          count: steps taken before this one, int32 ().
          value: loss of this step, scalar; ``None``, where it is not read, leaves the means as they are.
          num_steps: planned length of training, scalar, possibly traced.
          task_embedding: float32 (EMBEDDING_SIZE,), read only if the config says so.

        Returns:
          ``(multiplier, state)``; the multiplier is a float32 scalar, ``0.1 * exp(linear(h))`` times the decay.

        Raises:
          ValueError: the config asks for the task embedding and it is missing or misshapen.
        """
        task_embedding = check_task_embedding(task_embedding, self.config.task_embedding)
        num_steps = jnp.asarray(num_steps, jnp.float32)
        if value is None:
            losses = state.losses._replace(count=optax.safe_increment(state.losses.count))
            loss_features = jnp.zeros((self.config.num_timescales - 1,), jnp.float32)
        else:
            losses, loss_features = update_loss_buffer(state.losses, value, num_steps)
        fraction = count.astype(jnp.float32) / num_steps
        parts = [time_features(fraction), loss_features]
        parts += [horizon_feature(num_steps, self.config.shortest_horizon)] * self.config.horizon
        inputs = jnp.concatenate(parts if task_embedding is None else [*parts, task_embedding])
        outputs: Any = LSTMNetwork(self.config).apply({"params": theta["network"]}, inputs, state.hidden, state.cell)
        log_multiplier, hidden, cell = outputs
        scale = self.config.multiplier * decay_factor(self.config.decay, fraction)
        return scale * jnp.exp(log_multiplier), LSTMSchedulerState(losses, hidden, cell)
