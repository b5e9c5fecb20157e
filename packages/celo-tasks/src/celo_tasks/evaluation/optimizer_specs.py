"""Optimizers under evaluation, by what the user calls them: a baseline, a pretrained one, a function, or weights."""

import dataclasses
import hashlib
import importlib
import importlib.metadata
import inspect
import os
import pathlib
import re
import sys
from collections.abc import Callable
from typing import Any

import optax

from celo_tasks.baselines import TUNED_BASELINES, UNTUNED_BASELINES
from celo_tasks.baselines.tuning import Setting
from celo_tasks.evaluation.optimizers import load_pretrained, load_weights, pretrained_names
from celo_tasks.evaluation.program import Build
from celo_tasks.spelling import nearest

UNTUNED = (Setting(),)


@dataclasses.dataclass(frozen=True)
class OptimizerSpec:
    """What the user asked for, as text: it can be sent to another process.

    Attributes:
      name: name in results.
      reference: a baseline or pretrained optimizer's name, ``"module:function"``, or the path of weights.
      is_weights: whether ``reference`` is a path of weights.
    """

    name: str
    reference: str
    is_weights: bool = False

    @classmethod
    def parse(cls, text: str, *, is_weights: bool = False) -> "OptimizerSpec":
        """Reads ``REFERENCE`` or ``NAME=REFERENCE``.

        Raises:
          ValueError: the name has characters that results can't have.
        """
        name, equals, reference = text.partition("=")
        if not equals:
            reference = text
            name = pathlib.Path(text).resolve().name.removesuffix(".npz") if is_weights else text
        if not re.fullmatch(r"[\w.:+-]+", name) or not reference:
            raise ValueError(
                f"{text!r} is no name of an optimizer: write REFERENCE, or NAME=REFERENCE with a plain name."
            )
        return cls(name, os.path.abspath(os.path.expanduser(reference)) if is_weights else reference, is_weights)


@dataclasses.dataclass(frozen=True)
class ResolvedOptimizer:
    """An optimizer that can be trained with: what a spec refers to.

    Attributes:
      name: name in results.
      description: what exactly it is, in a line.
      identity: changes when the optimizer does; runs of different ones under the same name are not mixed.
      tuned: whether it has a learning rate, to be tuned by the protocol.
      build: as `celo_tasks.evaluation.program.TrainingProgram` takes it.
    """

    name: str
    description: str
    identity: str
    tuned: bool
    build: Build


def resolve(spec: OptimizerSpec) -> ResolvedOptimizer:
    """Finds an optimizer.

    Raises:
      ValueError: there is none of that name, it can't be imported, or its weights can't be read; one sentence.
    """
    if spec.is_weights:
        return _untuned(spec.name, f"weights of {os.path.basename(spec.reference)}", load_weights(spec.reference))
    if ":" in spec.reference:
        return _function(spec)
    if baseline := TUNED_BASELINES.get(spec.reference):
        identity = f"{baseline.name}: {baseline.description}"
        return ResolvedOptimizer(
            spec.name, baseline.description, identity, True, lambda schedule, _: baseline.make(schedule)
        )
    if fixed := UNTUNED_BASELINES.get(spec.reference):
        identity = f"{fixed.name}: {fixed.description}"
        make = lambda _, num_steps: optax.with_extra_args_support(fixed.make(num_steps))
        return ResolvedOptimizer(spec.name, fixed.description, identity, False, make)
    if spec.reference in pretrained_names():
        return _untuned(spec.name, "pretrained, not tuned", load_pretrained(spec.reference))
    known = [*TUNED_BASELINES, *UNTUNED_BASELINES, *pretrained_names()]
    install = "" if pretrained_names() else "; `pip install celo-zoo` brings the pretrained Celo"
    raise ValueError(
        f"there is no optimizer {spec.reference!r}{nearest(spec.reference, known)}: choose from {', '.join(known)}, or give "
        f"your own as module:function{install}."
    )


def _untuned(name: str, description: str, optimizer: Callable[[int], Any]) -> ResolvedOptimizer:
    optimizer(10)  # damaged weights are found out now, not after the first task
    identity = str(getattr(optimizer, "fingerprint", f"{name}: {description}"))
    return ResolvedOptimizer(name, description, identity, False, lambda _, num_steps: optimizer(num_steps))


def imported(reference: str) -> Any:
    """What ``"module:name"`` refers to; the module is on Python's path or in the working directory.

    Raises:
      ValueError: it cannot be imported.
    """
    module_name, _, name = reference.partition(":")
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)  # a console script lacks it
    try:
        return getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, SyntaxError, ValueError) as error:
        raise ValueError(
            f"the optimizer {reference!r} cannot be imported ({error}): give module:function, with the module on "
            "Python's path or in this folder."
        ) from error


def _function(spec: OptimizerSpec) -> ResolvedOptimizer:
    """The user's own function, called with what it has parameters for: ``learning_rate`` (a schedule), ``num_steps``."""
    function = imported(spec.reference)
    parameters = inspect.signature(function).parameters
    if unknown := [
        name
        for name, one in parameters.items()
        if name not in ("learning_rate", "num_steps")
        and one.default is one.empty
        and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]:
        raise ValueError(
            f"{spec.reference} wants a parameter {unknown[0]!r}: it may have learning_rate and num_steps, others need defaults."
        )

    def build(schedule: optax.Schedule, num_steps: int) -> optax.GradientTransformationExtraArgs:
        arguments: dict[str, Any] = {"learning_rate": schedule, "num_steps": num_steps}
        made = function(**{name: value for name, value in arguments.items() if name in parameters})
        if not (hasattr(made, "init") and hasattr(made, "update")):
            raise TypeError(f"{spec.reference} returned {type(made).__name__}, not an Optax optimizer")
        return optax.with_extra_args_support(made)

    module = sys.modules[spec.reference.split(":")[0]]
    source = pathlib.Path(module.__file__).read_bytes() if module.__file__ else b""
    identity = f"{spec.reference}: sha256 {hashlib.sha256(source).hexdigest()}"
    return ResolvedOptimizer(spec.name, f"{spec.reference}", identity, "learning_rate" in parameters, build)
