"""Learned optimizers by name or by path, as architecture and theta: for measurements that vary or look inside them."""

import os
import pathlib
from typing import Any, NamedTuple

from celo_core import LearnedOptimizer
from celo_tasks.evaluation.optimizers import load_pretrained, load_weights, pretrained_names
from celo_tasks.spelling import nearest


class Learned(NamedTuple):
    """A learned optimizer with its meta-parameters.

    Attributes:
      reference: what it was found by.
      architecture: the learned optimizer.
      theta: its meta-parameters, a nested dict of float arrays.
      fingerprint: digest of what decides its updates, or ``None`` where its package gives none.
    """

    reference: str
    architecture: LearnedOptimizer
    theta: Any
    fingerprint: str | None


def load_learned(reference: str | os.PathLike[str]) -> Learned:
    """Finds a learned optimizer.

    Args:
      reference: a name that an installed package offers, e.g. ``"celo"``; or a path as of
        `celo_tasks.evaluation.optimizers.load_weights`. For a folder that is named like an optimizer write ``./celo``.

    Raises:
      ValueError: there is none, it cannot be read, or its package offers an optimizer without architecture and theta.
      OSError: its files cannot be read.
    """
    text = os.fspath(reference)
    if isinstance(reference, str) and text in pretrained_names():
        found = load_pretrained(text)
    elif pathlib.Path(text).exists() or not isinstance(reference, str):
        found = load_weights(text)
    else:
        names = pretrained_names()
        raise ValueError(
            f"there are no weights {text!r}{nearest(text, names)}: give one of the installed names "
            f"({', '.join(names) or 'none'}), the folder of a run or of weights, or a theta.npz."
        )
    missing = [name for name in ("architecture", "theta") if not hasattr(found, name)]
    if missing:
        raise ValueError(
            f"the optimizer {text!r} has no attribute {missing[0]}, so that its parts cannot be measured: give weights as a "
            "folder or a theta.npz."
        )
    return Learned(text, found.architecture, found.theta, getattr(found, "fingerprint", None))  # type: ignore[attr-defined]
