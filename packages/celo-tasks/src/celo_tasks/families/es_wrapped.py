"""Any family, with gradients that are estimated from losses only.

Source: the ES-wrapped tasks of the public task library (arXiv 2211.09760, section 4); antithetic evolution strategies as in
Salimans et al., arXiv 1703.03864.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from celo_tasks.families.wrapping import WrappedFamily

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class ESWrapped(WrappedFamily):
    """A task family whose gradient is an antithetic evolution-strategies estimate; itself a `celo_core.TaskFamily`.

    With N pairs of perturbations +-sigma e_i, e_i standard normal::

        gradient = 1/N sum_i e_i (f(p + sigma e_i) - f(p - sigma e_i)) / (2 sigma)

    It is an unbiased estimate of the gradient of f smoothed by the same normal distribution, and its variance grows with the
    number of parameters. `loss` is the mean of the 2 N losses, and `jax.grad` of it is the estimate: the family itself is
    not differentiated. Both members of a pair have the same batch and key.

    Attributes:
      family: the family.
      num_pairs: pairs of perturbations per gradient.
      sigma: standard deviation of the perturbations.
    """

    num_pairs: int = 1
    sigma: float = 0.01

    def __post_init__(self) -> None:
        if self.num_pairs < 1 or self.sigma <= 0:
            raise ValueError(
                f"evolution strategies need at least one pair and a positive sigma, not {self.num_pairs} and {self.sigma}."
            )
        super().__post_init__()

    @property
    def name(self) -> str:
        """The family's name with the number of pairs."""
        return f"es_{self.num_pairs}pair_{self.family.name}"

    def loss(self, params: Any, model_state: Any, key: Array, config: Any, batch: Any) -> tuple[Array, Any]:
        """The mean loss of the pairs, differentiable once; the model state is that of the first perturbation."""
        key_perturbation, key_loss = jax.random.split(key)
        center = jax.lax.stop_gradient(params)
        noise = self._noise(key_perturbation, center)

        def losses_at(sign: float) -> tuple[Array, Any]:
            perturbed = jax.tree.map(lambda p, e: p + sign * self.sigma * e, center, noise)
            evaluate = lambda one: self.family.loss(one, model_state, key_loss, config, batch)
            return jax.vmap(evaluate)(perturbed)

        (plus, states), (minus, _) = losses_at(1.0), losses_at(-1.0)
        weights = (plus - minus) / (2.0 * self.sigma * self.num_pairs)
        gradient = jax.tree.map(lambda e: jnp.tensordot(weights, e, 1), noise)
        # Its value is zero, and its gradient the estimate.
        terms = jax.tree.map(lambda p, c, g: jnp.vdot(p - c, g), params, center, gradient)
        value = 0.5 * (jnp.mean(plus) + jnp.mean(minus)) + sum(jax.tree.leaves(terms))
        return value, jax.tree.map(lambda x: x[0], states)

    def _noise(self, key: Array, params: Any) -> Any:
        """Standard normal numbers like the parameters, with the pairs as a first axis."""
        treedef: Any
        leaves, treedef = jax.tree.flatten(params)
        keys = jax.random.split(key, len(leaves))
        draw = lambda k, x: jax.random.normal(k, (self.num_pairs, *x.shape), x.dtype)
        return treedef.unflatten([draw(k, x) for k, x in zip(keys, leaves, strict=True)])
