"""The quickstart's baselines: hand-designed optimizers with the learning rates among which they are tuned."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import optax

from celo_tasks.evaluation.optimizers import PretrainedOptimizer

LEARNING_RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
"""Half decades, from too small to too large for the small networks of the quickstart."""

WEIGHT_DECAY = 1e-2


@dataclasses.dataclass(frozen=True)
class Contestant:
    """An optimizer in a comparison, at every learning rate that it is to be tried at.

    Attributes:
      name: name in results.
      description: what exactly it is, in a line.
      build: ``(learning_rate, num_steps) -> optax.GradientTransformationExtraArgs``; the learning rate may be traced.
      learning_rates: those to try; empty for an optimizer that has none, which is built with ``None``.
    """

    name: str
    description: str
    build: Callable[[Any, int], optax.GradientTransformationExtraArgs]
    learning_rates: tuple[float, ...] = ()


def adam(learning_rate: Any, num_steps: int) -> optax.GradientTransformationExtraArgs:
    """`optax.adam` at a constant learning rate, a float or a traced scalar."""
    del num_steps
    return optax.with_extra_args_support(optax.adam(learning_rate))


def adamw(learning_rate: Any, num_steps: int) -> optax.GradientTransformationExtraArgs:
    """`optax.adamw` with weight decay 1e-2 and a cosine decay of the learning rate to 0 over ``num_steps``."""
    schedule = optax.cosine_decay_schedule(learning_rate, num_steps)
    return optax.with_extra_args_support(optax.adamw(schedule, weight_decay=WEIGHT_DECAY))


BASELINES: Mapping[str, Callable[[tuple[float, ...]], Contestant]] = MappingProxyType(
    {
        "adam": lambda rates: Contestant("adam", "optax.adam, constant learning rate", adam, rates),
        "adamw": lambda rates: Contestant(
            "adamw", f"optax.adamw, cosine decay to 0, weight decay {WEIGHT_DECAY:g}", adamw, rates
        ),
    }
)
"""Baselines by name, given the learning rates to try."""


def pretrained(name: str, optimizer: PretrainedOptimizer) -> Contestant:
    """A pretrained optimizer as a contestant without learning rate."""
    return Contestant(name, "pretrained, not tuned", lambda _, num_steps: optimizer(num_steps))
