"""Input and output of a scheduler in a step."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

Array = jax.Array


class Outcome(NamedTuple):
    """What is known of a step once it has been computed; 0 each before the first one.

    Weight decay is not part of it.

    Attributes:
      predicted_decrease: of the loss to first order, ``-<g, u>`` for gradient g and update u, float32 ().
      relative_step: ``sqrt(mean |u|^2 / |p|^2)`` over tensors, those of zeros left out, float32 ().
      alignment: ``mean <g, m> / (|g| |m|)`` over tensors, with the momentum m before the step; those where either is 0 are left
        out, float32 ().
    """

    predicted_decrease: Any
    relative_step: Any
    alignment: Any


class Signal(NamedTuple):
    """What is known before a step.

    Attributes:
      count: steps taken, int32 ().
      value: loss of this step, float32 (), or ``None`` where it is not read.
      num_steps: planned length of training, float32 ().
      task_embedding: what `celo_core.task_embedding` returned, or ``None`` where it is not read.
      statistics: of gradients and moments, those of `celo_core.schedulers.statistics.STATISTICS` that the scheduler's inputs
        read, by name, float32.
      outcome: of the step before, or ``None`` where it is not read.
    """

    count: Any
    value: Any
    num_steps: Any
    task_embedding: Any = None
    statistics: Mapping[str, Any] = MappingProxyType({})
    outcome: Outcome | None = None


class Controls(NamedTuple):
    """Output of a scheduler in a step.

    Attributes:
      multiplier: factor on the steps, float32 (), or one for each tensor, float32 (tensors,), in the tree's order, with one entry
        for each tensor of a stack.
      directions: further inputs of directions for each tensor, by the direction's type: trees of float32 (tensors, ...), such
        as the mixture weights of a bank of networks (see `celo_core.directions.MLP`).
    """

    multiplier: Any
    directions: Mapping[str, Any] = MappingProxyType({})
