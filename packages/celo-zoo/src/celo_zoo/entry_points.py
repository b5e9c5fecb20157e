"""Entry points of this package: pretrained optimizers by name, and optimizers from a folder of weights.

Entry-point group ``celo.optimizers``: each entry is a callable ``(num_steps) -> optax.GradientTransformationExtraArgs`` with
the attributes ``architecture``, ``theta`` and ``fingerprint``, for who varies or measures parts of it.
Group ``celo.weights``: a callable that makes such a one of a folder's path. Other packages may add their own to both.
"""

import functools
import os
from typing import Any

import optax

from celo_core import LearnedOptimizer
from celo_zoo import models


class LazyOptimizer:
    """A meta-trained optimizer, read and checked on first use.

    Attributes:
      ref: as in `celo_zoo.load`.
    """

    def __init__(self, ref: str | os.PathLike[str]) -> None:
        self.ref = ref

    @functools.cached_property
    def _pretrained(self) -> models.Pretrained:
        return models.load(self.ref)

    @property
    def architecture(self) -> LearnedOptimizer:
        """The learned optimizer that theta is of, with its config; errors as `celo_zoo.load`."""
        return self._pretrained.architecture

    @property
    def theta(self) -> dict[str, Any]:
        """Its meta-parameters, a nested dict of read-only NumPy arrays; errors as `celo_zoo.load`."""
        return self._pretrained.theta

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what determines its updates; errors as `celo_zoo.load`."""
        return f"sha256 {self._pretrained.fingerprint}"

    def __call__(self, num_steps: Any) -> optax.GradientTransformationExtraArgs:
        """The optimizer for a training of ``num_steps`` steps; errors as `celo_zoo.load`."""
        return self._pretrained.optimizer(num_steps)


celo = LazyOptimizer("celo")
"""The bundled Celo."""

celo_adam = LazyOptimizer("celo_adam")
"""The bundled Celo-Adam."""

celo_paper = LazyOptimizer("celo_paper")
"""The paper's own Celo, meta-trained by this project."""
