"""Task augmentation by reparametrisation: the same problem in badly scaled coordinates.

The augmented loss is ``f(c * p)`` and training starts from ``p0 / c``, so that the function is unchanged at the start
but every gradient is scaled by c. Source: Celo (arXiv 2501.12670, section 4), after VeLO (arXiv 2211.09760).
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from celo_core import TaskFamily

Array = jax.Array

LEVELS = ("global", "tensor", "parameter", "none")

PUBLISHED_LEVELS = ("none", "none", "global", "global", "tensor", "tensor", "parameter")
"""The mixture of levels in VeLO's meta-training, for `Reparametrized`; with `PUBLISHED_RANGES` it is `reparametrize`'s
"published".

Source: the code of VeLO (github.com/google/learned_optimization, research/general_lopt/tasks/parametric.py: a level drawn
from this list, then a range from the three). Celo's published code has the same two lists as an option; the commands in
its README use the level "global" in [1e-3, 1e3] throughout.
"""

PUBLISHED_RANGES = ((1e-3, 1e3), (1e-2, 1e2), (1e-1, 1e1))
"""The ranges of scales that belong to `PUBLISHED_LEVELS`: each task draws one uniformly; source as there."""


@dataclasses.dataclass(frozen=True)
class Reparametrized:
    """A task family under random reparametrisation; itself a `celo_core.TaskFamily`.

    Attributes:
      family: the family.
      levels: from which a task's level is drawn uniformly: one scale for the task ("global"), one per tensor
        ("tensor"), one per parameter ("parameter"), or a scale of 1 ("none"). A level that is listed twice is twice as
        likely.
      low, high: scales are log-uniform between these.
      ranges: ranges ``(low, high)`` from which a task draws one uniformly, in place of ``low`` and ``high``.
      zeros_follow: whether tensors that are all zeros at initialisation, and so have no scale of their own, get the scale of
        the tensor that becomes smallest: the largest of ``1 / rms(1 / scale)``. For optimizers that derive the scale of
        such a tensor from the others (`celo_core.architectures.celo.ParameterScale`).
    """

    family: TaskFamily
    levels: tuple[str, ...] = LEVELS
    low: float = 1e-3
    high: float = 1e3
    ranges: tuple[tuple[float, float], ...] = ()
    zeros_follow: bool = False

    def __post_init__(self) -> None:
        if not self.levels or (unknown := sorted(set(self.levels) - set(LEVELS))):
            raise ValueError(f"augmentation levels are {', '.join(LEVELS)}, not {unknown if self.levels else 'none'}.")
        for low, high in self._ranges:
            if not 0 < low <= high:
                raise ValueError(f"scales must satisfy 0 < low <= high, not {low} and {high}.")

    @property
    def _ranges(self) -> tuple[tuple[float, float], ...]:
        return self.ranges or ((self.low, self.high),)

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
        low, high = self._log_range(key)
        uniform = lambda k, shape=(): jax.random.uniform(k, shape, minval=low, maxval=high)
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
            "none": lambda: [jnp.zeros(x.shape) for x in leaves],
        }
        options = [draws[level]() for level in used]
        weights = jnp.asarray([self.levels.count(level) for level in used], jnp.float32)
        level = jax.random.categorical(key_level, jnp.log(weights))
        scales = [jnp.exp(jnp.stack(choices)[level]) for choices in zip(*options, strict=True)]
        zeros = _all_zeros(self) if self.zeros_follow else (False,) * len(scales)
        if any(zeros) and not all(zeros):
            own = [jax.lax.rsqrt(jnp.mean(x**-2)) for x, zero in zip(scales, zeros, strict=True) if not zero]
            followed = jnp.max(jnp.stack(own))
            scales = [jnp.full_like(x, followed) if zero else x for x, zero in zip(scales, zeros, strict=True)]
        return {"task": task, "scale": treedef.unflatten(scales)}

    def _log_range(self, key: Array) -> tuple[Any, Any]:
        """Logarithms of a task's smallest and largest scale."""
        if len(self._ranges) == 1:
            ((low, high),) = self._ranges
            return math.log(low), math.log(high)
        key_range = jax.random.fold_in(key, 5)  # in addition to the five keys that `sample` splits off
        low, high = jnp.log(jnp.asarray(self._ranges, jnp.float32))[
            jax.random.randint(key_range, (), 0, len(self._ranges))
        ]
        return low, high

    def active_sizes(self, config: Any) -> Any:
        """The family's."""
        return self.family.active_sizes(config["task"])

    def init(self, key: Array, config: Any) -> tuple[Any, Any]:
        """The family's initial parameters divided by the scales."""
        params, model_state = self.family.init(key, config["task"])
        return jax.tree.map(jnp.divide, params, config["scale"]), model_state

    def batch(self, key: Array, config: Any, data: Any) -> Any:
        """The family's batch."""
        return self.family.batch(key, config["task"], data)

    @property
    def has_held_out(self) -> bool:
        """Whether the family has held-out data."""
        return self.family.has_held_out

    def held_out_batch(self, key: Array, config: Any, data: Any) -> Any:
        """The family's."""
        return self.family.held_out_batch(key, config["task"], data)

    def loss(self, params: Any, model_state: Any, key: Array, config: Any, batch: Any) -> tuple[Array, Any]:
        """The family's loss at the scaled parameters."""
        return self.family.loss(
            jax.tree.map(jnp.multiply, params, config["scale"]), model_state, key, config["task"], batch
        )

    def normalizer(self, loss: Array) -> Array:
        """The family's."""
        return self.family.normalizer(loss)


@functools.cache
def _all_zeros(reparametrized: Reparametrized) -> tuple[bool, ...]:
    """Which of the family's parameters are all zeros at initialisation, in the order of their tree."""
    family = reparametrized.family
    with jax.ensure_compile_time_eval():
        init = jax.jit(lambda key: family.init(key, family.sample(key))[0])  # one program compiles sooner than many
        params = init(jax.random.key(0))
        return tuple(not np.any(x) for x in jax.tree.leaves(params))


def reparametrize(family: TaskFamily, levels: tuple[str, ...], *, zeros_follow: bool = False) -> Reparametrized:
    """The family under reparametrisation at ``levels``, which may be ``("published",)``.

    Args:
      family: the family.
      levels: as for `Reparametrized`, with scales in [1e-3, 1e3]; or ``("published",)`` for `PUBLISHED_LEVELS` and
        `PUBLISHED_RANGES`.
      zeros_follow: see `Reparametrized`.

    Raises:
      ValueError: an unknown level, or "published" together with others.
    """
    if tuple(levels) == ("published",):
        return Reparametrized(family, PUBLISHED_LEVELS, ranges=PUBLISHED_RANGES, zeros_follow=zeros_follow)
    if "published" in levels:
        raise ValueError('the augmentation "published" is a whole list of levels: give it alone.')
    return Reparametrized(family, tuple(levels), zeros_follow=zeros_follow)
