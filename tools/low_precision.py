"""The bundled Celo with its moments in bfloat16, as ``celo-tasks evaluate`` takes an optimizer.

PYTHONPATH=tools celo-tasks evaluate --suite small-8 --optimizer celo --optimizer celo_bfloat16=low_precision:make --out results
"""

import jax.numpy as jnp
import optax

import celo_zoo


def make(num_steps: int) -> optax.GradientTransformationExtraArgs:
    """Celo for ``num_steps`` steps, 8 bytes of state per parameter instead of 16."""
    return celo_zoo.optimizer("celo", num_steps=num_steps, accumulator_dtype=jnp.bfloat16)
