"""Entry points of this package: pretrained optimizers by name, and optimizers from a folder of weights.

Entry-point group ``celo.optimizers``: each entry is a callable ``(num_steps) -> optax.GradientTransformationExtraArgs``.
Group ``celo.weights``: a function from a folder's path to such a callable. Other packages may add their own to both.
"""

import functools
import os
from typing import Any

import optax

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
