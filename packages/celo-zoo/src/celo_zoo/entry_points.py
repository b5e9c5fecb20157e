"""What this package offers under the entry-point group ``celo.optimizers``.

Each entry is a callable ``(num_steps) -> optax.GradientTransformationExtraArgs``; other packages may add their own.
"""

from typing import Any

import optax

from celo_zoo import models


def celo(num_steps: Any) -> optax.GradientTransformationExtraArgs:
    """The bundled Celo for a training of ``num_steps`` steps."""
    return models.optimizer("celo", num_steps)
