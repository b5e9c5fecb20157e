"""More tasks for learning a scheduler, of kinds that have no labels: noise-dominated gradients and losses that explode.

Their families are those of `celo_tasks.meta_training.families`; they are numbered as those of schedule_tasks.py.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import schedule_tasks

from celo_tasks.families import SameBatch
from celo_tasks.meta_training.families import META_FAMILIES, Sources

Array = jax.Array

FIRST = 10_000
"""Their numbers begin here: below are those of schedule_tasks.py."""


@dataclasses.dataclass(frozen=True)
class _SameBatch(schedule_tasks.Numbered):
    """`SameBatch` of a family whose tasks are numbered."""

    def batch(self, key: Array, config: Any, data: Any) -> Any:
        """As `SameBatch`."""
        del key
        return super().batch(jax.random.key(0), config, data)


@dataclasses.dataclass(frozen=True)
class _Plain:
    """A family without anything to vary, in the place of a `schedule_tasks.Numbered`."""

    family: Any
    num_pixels = 0
    has_labels = False
    batch_sizes = (1,)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.family, name)

    def config(self, draw: schedule_tasks.Draw) -> Any:
        """The config of a drawn task."""
        return self.family.sample(jax.random.key(draw.seed))

    def limit(self, draw: schedule_tasks.Draw) -> tuple[float, float]:
        """As of `schedule_tasks.Numbered`."""
        del draw
        return 1.0, float(self.family.normalizer(jnp.float32(jnp.inf)))


class Shape(schedule_tasks.Shape):
    """See `schedule_tasks.Shape`."""

    def build(self, datasets: tuple[str, ...], data_dir: str | None) -> Any:
        """The family of all its tasks."""
        family: Any = META_FAMILIES[self.family][1](Sources(datasets, data_dir=data_dir))
        if isinstance(family, SameBatch):
            inner: Any = family.family
            return _SameBatch(inner.family)
        return schedule_tasks.Numbered(family.family) if self.family.startswith("varied") else _Plain(family)


SHAPES = (
    Shape("varied_vae", "vae_24_4", 1),
    Shape("varied_es_mlp", "es_18_4", 1),
    Shape("learned_optimizer", "learned_optimizer_5_8", 1),
    Shape("varied_deep_vae", "vae_40_28_6", 1),
    Shape("varied_very_deep_mlp", "mlp_16x8", 1),
    Shape("varied_es_deep_mlp", "es_24_16_6", 1),
    Shape("same_batch_regression", "same_batch_regression_24_24", 1),
)
