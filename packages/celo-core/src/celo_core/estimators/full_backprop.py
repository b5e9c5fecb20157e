"""The full-unroll gradient: backpropagation through a whole training.

The exact gradient of the mean, the last or the final loss of a training, from initialisation to end, with respect to theta.

Bias: none. Variance: that of the problems and batches alone where the unroll is well behaved. Where it is chaotic the
gradient grows exponentially with the number of steps and no longer describes the meta-loss on any relevant scale
(Metz, Freeman, Schoenholz, Kachman, "Gradients are Not All You Need", arXiv 2111.05803): it is a reference for the other
estimators on short unrolls, and seldom suited for meta-training.

Cost: several times that of the unroll, and memory for the networks of all steps; the rest is recomputed.

Source: Maclaurin, Duvenaud, Adams, "Gradient-based Hyperparameter Optimization through Reversible Learning", arXiv
1502.03492.
"""

import dataclasses
from typing import Any

import jax

from celo_core.estimators._full import FullState, FullUnrollEstimator
from celo_core.estimators._problems import Window
from celo_core.protocols import Theta

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class FullBackprop(FullUnrollEstimator, type="full_backprop"):
    """The full-unroll gradient; a `celo_core.protocols.GradientEstimator`.

    Attributes:
      num_problems: problems at once. For the others see `FullUnrollEstimator`.
    """

    num_problems: int = dataclasses.field(default=64, kw_only=True)  # type: ignore[misc]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.same_length:
            raise ValueError(
                "same_length ends the unroll at a step that is drawn, and JAX cannot backpropagate through such a loop: leave it "
                "out, or use full_es."
            )

    @property
    def inner_steps(self) -> int:
        """Inner training steps per estimate, those past a problem's end included."""
        return self.num_problems * self.lengths.longest

    def _gradient(
        self, key: Array, theta: Theta, state: FullState, data: Any, length: Array | None
    ) -> tuple[Theta, Array, Window]:
        del length

        def loss(theta: Theta) -> tuple[Array, tuple[Array, Window]]:
            thetas = jax.tree.map(lambda x: x[None], theta)
            losses, unroll = self._unroll(key, thetas, state, data, differentiated=True)
            return losses[0], (losses, unroll)

        gradient, (losses, unroll) = jax.grad(loss, has_aux=True)(theta)
        return gradient, losses, unroll
