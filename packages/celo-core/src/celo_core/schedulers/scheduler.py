"""The scheduler: inputs, a network and a prior, evaluated once per step, since they depend on no tensor.

``multiplier = prior(step, num_steps) * exp(network(inputs))``, without a network the prior alone. With a bound B on either side
the network's output y of that sign is replaced by ``log B tanh(y / log B)``, and where gradients are noise y may count less.
Source: Celo (arXiv 2501.12670, section 3), where inputs are time and loss, the network is an LSTM of 64 units and the prior is
0.1.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from celo_core.schedulers import inputs as inputs_lib
from celo_core.schedulers import networks, priors
from celo_core.schedulers.feedback import MeanAlignment
from celo_core.schedulers.interface import Controls, Outcome, Signal

Array = jax.Array

NOISE_WINDOW = 1 / 6
"""Share of a training over which gradients are compared with momenta, where `SchedulerConfig.noise` is not 0."""


@dataclasses.dataclass(frozen=True)
class SchedulerConfig:
    """Config of a scheduler; the defaults are the paper's.

    Attributes:
      inputs: of the network, in the order of its kernel's rows; see `celo_core.schedulers.inputs`.
      network: see `celo_core.schedulers.networks`; ``None`` for the prior alone, and no meta-parameters.
      prior: see `celo_core.schedulers.priors`.
      bounds: smallest and largest factor by which the network changes the prior, around 1, which it is before it has learned;
        ``None`` for no bounds. With bounds, a step without a loss that the inputs read follows the prior alone.
      noise: where gradients are mostly noise, little of what came of a step is due to its length. With c, the mean cosine of
        gradients with the momentum before them over the last sixth of the training, near 0 for noise and neither for signal nor
        for overshooting, the network's output is multiplied by ``c^2 / (c^2 + noise^2)``. 0 for no such factor.

    Raises:
      ValueError: the bounds are not around 1, inputs without a network, a network without inputs, or the same input twice.
    """

    inputs: tuple[inputs_lib.Input, ...] = (inputs_lib.Time(), inputs_lib.Loss())
    network: networks.Network | None = networks.LSTM()
    prior: priors.Prior = priors.Constant()
    bounds: tuple[float, float] | None = None
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.bounds is not None and not 0 < self.bounds[0] < 1 < self.bounds[1] < math.inf:
            raise ValueError(f"bounds must be factors below and above 1, such as 0.25 and 4, not {list(self.bounds)}.")
        if not 0 <= self.noise <= 1:
            raise ValueError(f"noise must be a cosine from 0 to 1, not {self.noise}.")
        if (self.network is None) != (not self.inputs):
            has, lacks = ("inputs", "network") if self.inputs else ("a network", "inputs")
            raise ValueError(f"a scheduler with {has} needs {lacks} too: give both, or neither for the prior alone.")
        kinds = [part.type for part in self.inputs]
        if len(set(kinds)) < len(kinds):
            raise ValueError(f"a scheduler has each input once, not {', '.join(kinds)}.")

    @property
    def num_inputs(self) -> int:
        """Length of the network's input."""
        return sum(part.size for part in self.inputs)

    @property
    def reads_task_embedding(self) -> bool:
        """Whether `celo_core.task_embedding` must be passed to the architecture's ``build``."""
        return any(part.reads_task_embedding for part in self.inputs)

    @property
    def reads_outcome(self) -> bool:
        """Whether `Scheduler.observe` must be told of each step."""
        return self.noise > 0 or any(part.reads_outcome for part in self.inputs)

    @property
    def statistics(self) -> tuple[str, ...]:
        """Names in `celo_core.schedulers.statistics.STATISTICS` that are read."""
        return tuple(dict.fromkeys(name for part in self.inputs for name in part.statistics))


class SchedulerState(NamedTuple):
    """State of a scheduler.

    Attributes:
      inputs: state of each input, or ``None``.
      network: state of the network, or ``None``.
      outcome: of the last step, or ``None`` where it is not read.
      alignment: mean cosine of gradients with momenta, or ``None`` where the config's ``noise`` is 0.
    """

    inputs: tuple[Any, ...]
    network: Any
    outcome: Outcome | None = None
    alignment: MeanAlignment | None = None


@dataclasses.dataclass(frozen=True)
class Scheduler:
    """The scheduler of a config; theta is its network's, empty without one."""

    config: SchedulerConfig = SchedulerConfig()

    def init(self, key: Array) -> dict[str, Any]:
        """Random theta whose multiplier is near 1 in a training of 1,000 steps, as if there were no scheduler.

        With ``bounds`` the multiplier is the prior's.
        """
        if self.config.network is None:
            return {}
        theta = self.config.network.init(key, self.config.num_inputs)
        if self.config.bounds is not None:
            return {**theta, "step_size": jax.tree.map(jnp.zeros_like, theta["step_size"])}
        bias = jnp.zeros_like(theta["step_size"]["bias"]).at[0].set(-np.log(self.config.prior.reference))
        return {**theta, "step_size": {**theta["step_size"], "bias": bias}}

    def init_state(self, theta: dict[str, Any]) -> SchedulerState:
        """State before the first step."""
        network = self.config.network
        memory = None if network is None else network.init_state(theta)
        zero = lambda: jnp.zeros((), jnp.float32)
        outcome = Outcome(zero(), zero(), zero()) if self.config.reads_outcome else None
        alignment = MeanAlignment.first(1) if self.config.noise else None
        return SchedulerState(tuple(part.init_state() for part in self.config.inputs), memory, outcome, alignment)

    def reads_loss(self, theta: dict[str, Any]) -> bool:
        """Whether the multiplier depends on the loss; false where a linear network's weights of the loss are all 0."""
        first = 0
        for part in self.config.inputs:
            rows = slice(first, first + part.size)
            if part.reads_loss and self.config.network is not None and self.config.network.reads(theta, rows):
                return True
            first += part.size
        return False

    def decay(self, count: Array, num_steps: Any) -> Array:
        """Fraction of its height that the prior has after ``count`` steps, float32 ()."""
        return self.config.prior.decay(count.astype(jnp.float32) / jnp.asarray(num_steps, jnp.float32))

    def step(self, theta: dict[str, Any], state: SchedulerState, signal: Signal) -> tuple[Controls, SchedulerState]:
        """Controls of this step.

        Args:
          theta: the scheduler's meta-parameters.
          state: the scheduler's state.
          signal: what is known before the step; its ``outcome`` is taken from the state. Without the ``value`` that inputs
            read, the multiplier is the prior's, and the state stays as it is.

        Returns:
          ``(controls, state)``; the multiplier is float32 ().

        Raises:
          ValueError: an input reads the task embedding and it is missing or has another shape.
        """
        signal = signal._replace(num_steps=jnp.asarray(signal.num_steps, jnp.float32), outcome=state.outcome)
        prior = self.config.prior
        scale = prior.height(signal.num_steps) * self.decay(signal.count, signal.num_steps)
        lacks_loss = signal.value is None and any(part.reads_loss for part in self.config.inputs)
        if self.config.network is None or (lacks_loss and self.config.bounds is not None):
            return Controls(scale), state
        memories, values = [], []
        for part, memory in zip(self.config.inputs, state.inputs, strict=True):
            memory, numbers = part.update(memory, signal)
            memories.append(memory)
            values.append(numbers)
        inputs = jnp.concatenate(values)
        log_multiplier, memory = self.config.network.apply(theta, inputs, state.network, signal.num_steps)
        if self.config.bounds is not None:
            least, most = np.log(np.asarray(self.config.bounds, np.float32))
            limit = jnp.where(log_multiplier < 0, -least, most)
            log_multiplier = limit * jnp.tanh(log_multiplier / limit)
        alignment = state.alignment
        if alignment is not None:
            alignment = alignment.after(signal, (NOISE_WINDOW,))
            log_multiplier = log_multiplier * alignment.share(self.config.noise)[0]
        new = SchedulerState(tuple(memories), memory, state.outcome, alignment)
        return Controls(scale * jnp.exp(log_multiplier)), new
