"""The yardstick: mean training loss of learned optimizers on the distribution that Celo is meta-trained on.

Four 8x8 image sets, MLP 64-32-10, batch 64, reparametrised at the level of the whole task with scales log-uniform in
[0.001, 1000], four problems of each set, losses clipped at 5. Source: Celo (arXiv 2501.12670), the recipe of its meta-training.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from celo_core import LearnedOptimizer
from celo_core.meta_training.unroll import InnerProblem, train
from celo_tasks.families import ImageMLP, Reparametrized

DATASETS = ("mnist_8x8", "fashion_mnist_8x8", "cifar10_8x8", "cifar100_10of100_8x8")
PROBLEMS, STEPS, HORIZONS, CLIP = 4, 2000, (100, 500, 2000), 5.0
LAST = 100
"""Steps over which the end of a training is averaged."""


class ClippedImageMLP(ImageMLP):
    """The family with the yardstick's own bound on losses."""

    def normalizer(self, loss: jax.Array) -> jax.Array:
        """Clips to [0, 5]; non-finite counts as 5."""
        return jnp.clip(jnp.nan_to_num(loss, nan=CLIP, posinf=CLIP, neginf=CLIP), 0.0, CLIP)


class Yardstick:
    """The problems, and one compiled program per architecture that trains them all at once.

    Args:
      data_dir: folder of the prepared arrays; ``None`` for what is in the package.
      datasets: names of 8x8 image sets.
      problems: number of problems of each data set.
      steps: length of every training.
      seed: of the problems.

    Attributes:
      datasets: as given.
      steps: as given.

    Raises:
      FileNotFoundError: a data set is not on this machine.
    """

    def __init__(
        self,
        data_dir: str | None,
        *,
        datasets: tuple[str, ...] = DATASETS,
        problems: int = PROBLEMS,
        steps: int = STEPS,
        seed: int = 0,
    ) -> None:
        self.datasets, self.steps = datasets, steps
        self._family = Reparametrized(ClippedImageMLP(datasets, data_dir=data_dir), ("global",))
        self._data = jax.device_put(self._family.load())
        sets = jnp.arange(len(datasets))
        self._keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(jax.random.key(seed), i), problems))(sets)

    def curves(self, architecture: LearnedOptimizer, theta: Any) -> NDArray[np.float32]:
        """Mean training loss per step by data set, (data sets, steps)."""
        return np.asarray(self._run(architecture, theta, self._keys, self._data))

    def measure(self, architecture: LearnedOptimizer, theta: Any) -> dict[str, Any]:
        """Mean losses, see `summary`: ``"mean"`` over the data sets, and ``"by_data_set"``."""
        curves = self.curves(architecture, theta)
        by_data_set = {name: summary(curve) for name, curve in zip(self.datasets, curves, strict=True)}
        return {"mean": summary(curves.mean(axis=0)), "by_data_set": by_data_set}

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def _run(self, architecture: LearnedOptimizer, theta: Any, keys: jax.Array, data: Any) -> jax.Array:
        problem = InnerProblem(architecture, self._family)

        def one(key: jax.Array, number: jax.Array) -> jax.Array:
            config = self._family.sample(key)
            config["task"]["dataset"] = number
            return train(problem, theta, key, config, data, self.steps)[1]

        by_set = jax.vmap(jax.vmap(one, in_axes=(0, None)))(keys, jnp.arange(len(self.datasets)))
        return jnp.mean(by_set, axis=1)


def summary(curve: NDArray[np.floating]) -> dict[str, float]:
    """Mean losses over the first steps, by each of `HORIZONS`, and over the last `LAST` steps."""
    return {
        **{str(h): round(float(curve[:h].mean()), 4) for h in HORIZONS},
        f"last_{LAST}": round(float(curve[-LAST:].mean()), 4),
    }
