"""Task augmentation by reparametrisation: the same problem in badly scaled coordinates.

The augmented loss is ``f(c * p)`` and training starts from ``p0 / c``, so that the function is unchanged at the start
but every gradient is scaled by c. Source: Celo (arXiv 2501.12670, section 4), after VeLO (arXiv 2211.09760).
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from celo_core import TaskFamily

Array = jax.Array

LEVELS = ("global", "tensor", "parameter")


@dataclasses.dataclass(frozen=True)
class Reparametrized:
    """A task family under random reparametrisation; itself a `celo_core.TaskFamily`.

    Attributes:
      family: the family.
      levels: from which a task's level is picked at random: one scale for the task ("global"), one per tensor
        ("tensor"), or one per parameter ("parameter"). Naming a level twice makes it twice as likely.
      low, high: scales are log-uniform between these.
    """

    family: TaskFamily
    levels: tuple[str, ...] = LEVELS
    low: float = 1e-3
    high: float = 1e3

    def __post_init__(self) -> None:
        if not self.levels or (unknown := sorted(set(self.levels) - set(LEVELS))):
            raise ValueError(f"augmentation levels are {', '.join(LEVELS)}, not {unknown if self.levels else 'none'}.")
        if not 0 < self.low <= self.high:
            raise ValueError(f"scales must satisfy 0 < low <= high, not {self.low} and {self.high}.")

    @property
    def name(self) -> str:
        """The family's name with the levels."""
        return f"{self.family.name}_reparametrized_{'_'.join(self.levels)}"

    def load(self) -> Any:
        """The family's data."""
        return self.family.load()

    def sample(self, key: Array) -> dict[str, Any]:
        """``{"task": the family's config, "scale": a tree like the parameters}``."""
        key_task, key_level, key_global, key_tensor, key_parameter = jax.random.split(key, 5)
        task = self.family.sample(key_task)
        params, _ = jax.eval_shape(self.family.init, key, task)
        treedef: Any
        leaves, treedef = jax.tree.flatten(params)
        uniform = lambda k, shape=(): jax.random.uniform(
            k, shape, minval=math.log(self.low), maxval=math.log(self.high)
        )
        used = tuple(dict.fromkeys(self.levels))
        draws = {
            "global": lambda: [jnp.broadcast_to(uniform(key_global), x.shape) for x in leaves],
            "tensor": lambda: [
                jnp.broadcast_to(uniform(k), x.shape)
                for k, x in zip(jax.random.split(key_tensor, len(leaves)), leaves, strict=True)
            ],
            "parameter": lambda: [
                uniform(k, x.shape) for k, x in zip(jax.random.split(key_parameter, len(leaves)), leaves, strict=True)
            ],
        }
        options = [draws[level]() for level in used]
        weights = jnp.asarray([self.levels.count(level) for level in used], jnp.float32)
        level = jax.random.categorical(key_level, jnp.log(weights))
        logs = [jnp.stack(choices)[level] for choices in zip(*options, strict=True)]
        return {"task": task, "scale": treedef.unflatten([jnp.exp(x) for x in logs])}

    def init(self, key: Array, config: Any) -> tuple[Any, Any]:
        """The family's initial parameters divided by the scales."""
        params, model_state = self.family.init(key, config["task"])
        return jax.tree.map(jnp.divide, params, config["scale"]), model_state

    def batch(self, key: Array, config: Any, data: Any) -> Any:
        """The family's batch."""
        return self.family.batch(key, config["task"], data)

    def loss(self, params: Any, model_state: Any, key: Array, config: Any, batch: Any) -> tuple[Array, Any]:
        """The family's loss at the scaled parameters."""
        return self.family.loss(
            jax.tree.map(jnp.multiply, params, config["scale"]), model_state, key, config["task"], batch
        )

    def normalizer(self, loss: Array) -> Array:
        """The family's."""
        return self.family.normalizer(loss)
