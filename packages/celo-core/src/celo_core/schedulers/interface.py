"""What goes into a scheduler before a step, and what comes out of it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

Array = jax.Array


class Signal(NamedTuple):
    """What is known before a step.

    Attributes:
      count: steps taken, int32 ().
      value: loss of this step, float32 (), or ``None`` where it is not read.
      num_steps: planned length of training, float32 ().
      task_embedding: what `celo_core.task_embedding` returned, or ``None`` where it is not read.
      statistics: of gradients and moments, those of `celo_core.schedulers.statistics.STATISTICS` that the scheduler's inputs
        ask for, by name, float32 ().
    """

    count: Any
    value: Any
    num_steps: Any
    task_embedding: Any = None
    statistics: Mapping[str, Any] = MappingProxyType({})


class Controls(NamedTuple):
    """What a scheduler says of a step.

    Attributes:
      multiplier: what steps are multiplied by, float32 (), or one for each tensor, float32 (tensors,), in the tree's order and
        each of a stack counted.
      directions: what directions take besides for each tensor, by their type: trees of float32 (tensors, ...), such as the
        shares of a bank of networks (see `celo_core.directions.MLP`).
    """

    multiplier: Any
    directions: Mapping[str, Any] = MappingProxyType({})
