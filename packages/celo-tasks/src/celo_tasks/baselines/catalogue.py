"""The hand-designed optimizers that are tuned on a task before a learned one is compared with them.

The first fifteen are those that arXiv 2501.12670 compares with; five later or second-order ones follow.
All but Shampoo are Optax's. Everything but the learning rate has the value that ``description`` tells, otherwise Optax's default.
"""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import optax
import optax.contrib

from celo_tasks.baselines.shampoo import shampoo

MakeOptimizer = Callable[[optax.Schedule], optax.GradientTransformationExtraArgs]


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A hand-designed optimizer, all of whose settings are fixed but the learning rate.

    Attributes:
      name: name in results.
      description: what exactly it is, in a line.
      make: builds it for a learning-rate schedule ``count -> learning rate``, both scalars that may be traced; its update
        takes any extra arguments, such as ``value``.
      source: where it was published.
    """

    name: str
    description: str
    make: MakeOptimizer
    source: str


def _make(factory: Callable[..., optax.GradientTransformation], **fixed: Any) -> MakeOptimizer:
    """For an optimizer that takes a schedule."""

    def make(schedule: optax.Schedule) -> optax.GradientTransformationExtraArgs:
        # An array also where the schedule gives a Python number: the state's types are then the same in every step.
        learning_rate = lambda count: jnp.asarray(schedule(count), jnp.float32)
        return optax.with_extra_args_support(factory(learning_rate, **fixed))

    return make


def _inject(factory: Callable[[Any], optax.GradientTransformation]) -> MakeOptimizer:
    """For an optimizer that takes a number only: the schedule's value is injected in every step."""

    def with_rate(learning_rate: Any) -> optax.GradientTransformation:
        return factory(learning_rate)  # the one argument, so that nothing else is injected

    return _make(lambda schedule: optax.inject_hyperparams(with_rate)(learning_rate=schedule))


_ALL = (
    Baseline("adam", "Adam, b1 0.9, b2 0.999, eps 1e-8", _make(optax.adam), "arXiv 1412.6980"),
    Baseline("sgd", "gradient descent, no momentum", _make(optax.sgd), "Robbins and Monro 1951"),
    Baseline("sgdm", "gradient descent, momentum 0.9", _make(optax.sgd, momentum=0.9), "Polyak 1964"),
    Baseline(
        "adamw",
        "Adam with decoupled weight decay 1e-2 (PyTorch's default; Optax has 1e-4)",
        _make(optax.adamw, weight_decay=1e-2),
        "arXiv 1711.05101",
    ),
    Baseline(
        "rmsprop",
        "RMSProp, decay 0.9, eps 1e-8 inside the root, no momentum, not centred",
        _make(optax.rmsprop),
        "Tieleman and Hinton 2012, lecture 6.5",
    ),
    Baseline("fromage", "Fromage, least norm 1e-6", _inject(optax.fromage), "arXiv 2002.03432"),
    Baseline("sm3", "SM3, momentum 0.9", _inject(optax.sm3), "arXiv 1901.11150"),
    Baseline(
        "lars",
        "LARS, trust coefficient 1e-3, momentum 0.9, weight decay 0, all tensors adapted",
        _make(optax.lars),
        "arXiv 1708.03888",
    ),
    Baseline("lamb", "LAMB, b1 0.9, b2 0.999, eps 1e-6, weight decay 0", _make(optax.lamb), "arXiv 1904.00962"),
    Baseline("adabelief", "AdaBelief, b1 0.9, b2 0.999, eps 1e-16", _make(optax.adabelief), "arXiv 2010.07468"),
    Baseline(
        "adafactor",
        "Adafactor, step relative to the parameters' scale, clipped at 1, factored from 128 x 128 on, no momentum",
        _make(optax.adafactor),
        "arXiv 1804.04235",
    ),
    Baseline(
        "adagrad",
        "Adagrad, accumulators begin at 0.1, eps 1e-7",
        _make(optax.adagrad),
        "Duchi, Hazan and Singer 2011, JMLR 12",
    ),
    Baseline("yogi", "Yogi, b1 0.9, b2 0.999, eps 1e-3", _make(optax.yogi), "Zaheer et al. 2018, NeurIPS"),
    Baseline("radam", "rectified Adam, b1 0.9, b2 0.999, threshold 5", _make(optax.radam), "arXiv 1908.03265"),
    Baseline(
        "nadamw",
        "Adam with Nesterov momentum and decoupled weight decay 1e-2 (as adamw; Optax has 1e-4)",
        _make(optax.nadamw, weight_decay=1e-2),
        "Dozat 2016, arXiv 1711.05101",
    ),
    Baseline(
        "lion",
        "Lion, b1 0.9, b2 0.99, weight decay 1e-1 (ten times adamw's, as its authors advise; Optax has 1e-3)",
        _make(optax.lion, weight_decay=1e-1),
        "arXiv 2302.06675",
    ),
    Baseline(
        "shampoo",
        "Shampoo with Adam's step length, roots every 10 steps, sides above 256 diagonal; vectors by Adam",
        _make(shampoo),
        "arXiv 1802.09568, 2002.09018",
    ),
    Baseline(
        "muon",
        "Muon on matrices, beta 0.95, 5 Newton-Schulz steps; all else by NAdam at the same learning rate; weight decay 0",
        _make(optax.contrib.muon),
        "Jordan 2024, kellerjordan.github.io/posts/muon",
    ),
    Baseline(
        "schedule_free_adamw",
        "schedule-free AdamW, b1 0.9, b2 0.999, weight decay 0; the loss is that of the trained, not the averaged weights",
        _make(optax.contrib.schedule_free_adamw),
        "arXiv 2405.15682",
    ),
    Baseline(
        "prodigy",
        "Prodigy, b1 0.9, b2 0.999, weight decay 0; the learning rate multiplies the one that it estimates from 1e-6 on",
        _make(optax.contrib.prodigy),
        "arXiv 2306.06101",
    ),
)

TUNED_BASELINES: Mapping[str, Baseline] = MappingProxyType({baseline.name: baseline for baseline in _ALL})
"""Baselines by name, those of arXiv 2501.12670 first."""
