"""The inputs of a learned scheduler: one class for each kind, which a config lists in the order of the network's inputs.

A new input is one more class here, which defines its number of features, its state, and how it computes them from the
`Signal`. Networks, configs, checkpoints and optimizers need no change.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from celo_core.configs import Part
from celo_core.schedulers.embedding import EMBEDDING_SIZE, check_task_embedding
from celo_core.schedulers.interface import Signal
from celo_core.schedulers.loss_features import (
    TIME_THRESHOLDS,
    horizon_feature,
    init_loss_buffer,
    time_features,
    update_loss_buffer,
)

Array = jax.Array


class Input(Part):
    """An input of a scheduler's network.

    Attributes:
      reads_loss: whether it needs ``value``.
      reads_task_embedding: whether it needs the task embedding.
      reads_outcome: whether it needs the `celo_core.schedulers.interface.Outcome` of the step before.
      statistics: names in `celo_core.schedulers.statistics.STATISTICS` that it reads.
    """

    group = "celo.scheduler_inputs"

    reads_loss: ClassVar[bool] = False
    reads_task_embedding: ClassVar[bool] = False
    reads_outcome: ClassVar[bool] = False
    statistics: ClassVar[tuple[str, ...]] = ()

    @property
    def size(self) -> int:
        """Number of features."""
        raise NotImplementedError

    def init_state(self) -> Any:
        """State before the first step: a tree of arrays, or ``None``."""
        return None

    def update(self, state: Any, signal: Signal) -> tuple[Any, Array]:
        """The new state, and the features of this step, float32 (size,)."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Time(Input, type="time"):
    """The completed fraction of the training, as `celo_core.schedulers.loss_features.time_features`."""

    @property
    def size(self) -> int:
        """Number of features."""
        return len(TIME_THRESHOLDS)

    def update(self, state: Any, signal: Signal) -> tuple[Any, Array]:
        """See `Input`."""
        return state, time_features(signal.count.astype(jnp.float32) / signal.num_steps)


@dataclasses.dataclass(frozen=True)
class Loss(Input, type="loss"):
    """Progress of the loss, see `celo_core.schedulers.loss_features.update_loss_buffer`.

    Attributes:
      num_timescales: number of running means of the loss; there is one feature fewer.
    """

    num_timescales: int = 10
    reads_loss = True

    @property
    def size(self) -> int:
        """Number of features."""
        return self.num_timescales - 1

    def init_state(self) -> Any:
        """A `celo_core.schedulers.loss_features.LossBuffer`."""
        return init_loss_buffer(self.num_timescales)

    def update(self, state: Any, signal: Signal) -> tuple[Any, Array]:
        """See `Input`; where the loss is not read, the means keep their initial values and only the count advances."""
        if signal.value is None:
            return state._replace(count=optax.safe_increment(state.count)), jnp.zeros((self.size,), jnp.float32)
        return update_loss_buffer(state, signal.value, signal.num_steps)


@dataclasses.dataclass(frozen=True)
class Horizon(Input, type="horizon"):
    """The planned length of training, as `celo_core.schedulers.loss_features.horizon_feature`; not an input in the paper.

    Attributes:
      shortest: shorter planned lengths count as this many steps, since a step size in inverse proportion to them would be too
        large.
    """

    shortest: int = 1

    def __post_init__(self) -> None:
        if self.shortest < 1:
            raise ValueError(f"shortest must be at least 1, not {self.shortest}.")

    @property
    def size(self) -> int:
        """Number of features."""
        return 1

    def update(self, state: Any, signal: Signal) -> tuple[Any, Array]:
        """See `Input`."""
        return state, horizon_feature(signal.num_steps, self.shortest)


@dataclasses.dataclass(frozen=True)
class TaskEmbedding(Input, type="task_embedding"):
    """`celo_core.task_embedding`, which is passed to the architecture's ``build``; the paper's ablation of section 5."""

    reads_task_embedding = True

    @property
    def size(self) -> int:
        """Number of features."""
        return EMBEDDING_SIZE

    def update(self, state: Any, signal: Signal) -> tuple[Any, Array]:
        """See `Input`; raises ValueError if the embedding is missing or has another shape."""
        embedding = check_task_embedding(signal.task_embedding, True)
        assert embedding is not None
        return state, embedding


@dataclasses.dataclass(frozen=True)
class GradientAlignment(Input, type="gradient_alignment"):
    """`celo_core.schedulers.statistics.gradient_alignment`, which costs three dot products over all parameters."""

    statistics = ("gradient_alignment",)

    @property
    def size(self) -> int:
        """Number of features."""
        return 1

    def update(self, state: Any, signal: Signal) -> tuple[Any, Array]:
        """See `Input`."""
        return state, signal.statistics["gradient_alignment"][None]


@dataclasses.dataclass(frozen=True)
class SignalToNoise(Input, type="signal_to_noise"):
    """`celo_core.schedulers.statistics.signal_to_noise`, which costs a pass over the moments that there are.

    Attributes:
      momenta: how many momenta the optimizer keeps; one feature for each.
    """

    momenta: int = 3
    statistics = ("signal_to_noise",)

    @property
    def size(self) -> int:
        """Number of features."""
        return self.momenta

    def update(self, state: Any, signal: Signal) -> tuple[Any, Array]:
        """See `Input`; raises ValueError if the optimizer keeps another number of momenta."""
        found = signal.statistics["signal_to_noise"]
        if found.shape != (self.momenta,):
            raise ValueError(f"signal_to_noise: momenta is {self.momenta}, but the optimizer keeps {found.size}.")
        return state, found
