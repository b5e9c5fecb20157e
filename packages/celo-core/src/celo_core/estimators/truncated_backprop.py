"""Truncated backpropagation through the unroll.

The exact gradient of a window's mean loss with respect to theta, with the network at the window's start as a constant.

Bias: theta's influence on that network is ignored, which favours short horizons (Wu, Ren, Liao, Grosse, arXiv 1803.02021),
as for truncated ES. Variance: that of the problems and batches alone where the unroll is well behaved; where it is chaotic
(steps too large), gradients grow exponentially with the window (Metz et al., arXiv 1810.10180, section 3), and
`clip_problem` and short windows are needed.

Cost: several times that of a forward window, and memory for the networks of all its steps; the rest is recomputed.

Source: Werbos, "Backpropagation through time", 1990; for learned optimizers Andrychowicz et al., arXiv 1606.04474.
"""

import dataclasses
from typing import Any

import jax

from celo_core.estimators._problems import ProblemState, TruncatedEstimator, Window
from celo_core.protocols import Theta

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class TruncatedBackprop(TruncatedEstimator, type="truncated_backprop"):
    """Truncated backpropagation; a `celo_core.protocols.GradientEstimator`.

    Attributes:
      num_problems: problems at once. For the others see `TruncatedEstimator`.
    """

    num_problems: int = dataclasses.field(default=64, kw_only=True)  # type: ignore[misc]

    @property
    def inner_steps(self) -> int:
        """Inner training steps per estimate."""
        return self.num_problems * self.truncation

    def _window(self, key: Array, theta: Theta, state: ProblemState, data: Any) -> tuple[Theta, Window, ProblemState]:
        key_renew, key_steps = jax.random.split(key)
        one = lambda tree: jax.tree.map(lambda x: x[None], tree)
        state = self.problems.renew(key_renew, one(theta), state, None, data)

        def loss(theta: Theta) -> tuple[Array, tuple[Window, ProblemState]]:
            window, after = self.problems.run(key_steps, one(theta), state, self.truncation, data, differentiated=True)
            return window.mean_losses()[0], (window, after)

        gradient, (window, state) = jax.grad(loss, has_aux=True)(theta)
        return gradient, window, state
