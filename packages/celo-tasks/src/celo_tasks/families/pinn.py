"""A physics-informed network: full-batch, and a loss with second derivatives of the network by its inputs.

Source: Raissi, Perdikaris and Karniadakis, J. Comput. Phys. 378 (2019), section 2.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from celo_core import FamilyDefaults
from celo_tasks.families.image_mlp import MLP, clip_loss

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class PoissonPINN(FamilyDefaults):
    """A `celo_core.TaskFamily` of one task: Poisson's equation on the unit square, with zeros on its boundary.

    ``u_xx + u_yy = f`` has the solution ``u = sin(pi x) sin(2 pi y)``, from which f follows. The loss is the mean squared
    residual on a regular grid inside plus ``boundary_weight`` times the mean square of the network on the boundary; it is the
    same in every step, so that there is no noise at all.

    Attributes:
      name: name in results.
      hidden_sizes: widths of the network, with tanh.
      side: grid points along a side.
      boundary_weight: weight of the boundary's term.
    """

    name: str
    hidden_sizes: tuple[int, ...]
    side: int = 12
    boundary_weight: float = 100.0

    def _network(self) -> MLP:
        return MLP(self.hidden_sizes, 1, activation="tanh")

    def load(self) -> dict[str, Array]:
        """Nothing: the points are constants."""
        return {}

    def sample(self, key: Array) -> dict[str, Array]:
        """Empty: all tasks are alike."""
        del key
        return {}

    def init(self, key: Array, config: Any) -> tuple[Any, None]:
        """Parameters of the network; there is no model state."""
        del config
        return self._network().init(key, jnp.zeros((1, 2)))["params"], None

    def batch(self, key: Array, config: Any, data: Any) -> tuple[Array, Array]:
        """Points inside, float32 (side^2, 2), and on the boundary, float32 (4 side, 2): always the same."""
        del key, config, data
        return _inside(self.side), _boundary(self.side)

    def loss(self, params: Any, model_state: None, key: Array, config: Any, batch: Any) -> tuple[Array, None]:
        """Mean squared residual plus the boundary's term."""
        del key, config
        inside, boundary = batch

        def value(point: Array) -> Array:
            output: Any = self._network().apply({"params": params}, point[None])
            return output[0, 0]

        laplacian = jax.vmap(lambda point: jnp.trace(jax.hessian(value)(point)))(inside)
        right_side = -5.0 * math.pi**2 * solution(inside)
        outside = jax.vmap(value)(boundary)
        residual = jnp.mean(jnp.square(laplacian - right_side))
        return residual + self.boundary_weight * jnp.mean(jnp.square(outside)), model_state

    def normalizer(self, loss: Array) -> Array:
        """Loss clipped to [0, 1e5]; non-finite counts as the upper end. A network of zeros has some 600."""
        return clip_loss(loss, 1e5)


def solution(points: Array) -> Array:
    """``sin(pi x) sin(2 pi y)`` at points (N, 2)."""
    return jnp.sin(math.pi * points[:, 0]) * jnp.sin(2 * math.pi * points[:, 1])


def _inside(side: int) -> Array:
    line = (jnp.arange(side, dtype=jnp.float32) + 0.5) / side
    x, y = jnp.meshgrid(line, line)
    return jnp.stack([x.ravel(), y.ravel()], axis=1)


def _boundary(side: int) -> Array:
    line = (jnp.arange(side, dtype=jnp.float32) + 0.5) / side
    zeros, ones = jnp.zeros_like(line), jnp.ones_like(line)
    edges = [(line, zeros), (line, ones), (zeros, line), (ones, line)]
    return jnp.concatenate([jnp.stack(edge, axis=1) for edge in edges])
