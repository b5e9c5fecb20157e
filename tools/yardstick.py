"""Measures weights on the distribution that Celo is meta-trained on: mean training loss over 100, 500 and 2,000 steps.

    python tools/yardstick.py --data-dir arrays --out docs/results/yardstick.json celo weights/mine run/update_rule/theta.npz

Four 8x8 image sets, MLP 64-32-10, batch 64, reparametrised at the level of the whole task with scales log-uniform in [0.001, 1000],
four problems of each set, losses clipped at 5. A ``.npz`` of an unfinished run is an update rule without its scheduler;
a ``.state`` file is a published checkpoint of the reference implementation; anything else is what celo_zoo.load takes.
"""

import argparse
import dataclasses
import functools
import platform
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import celo_zoo
from celo_core import CeloConfig, files, get_architecture
from celo_core.meta_training.unroll import InnerProblem, train
from celo_tasks.evaluation.optimizers import MetaTrained
from celo_tasks.families import ImageMLP, Reparametrized
from celo_tasks.reporting.machine import hardware

DATASETS = ("mnist_8x8", "fashion_mnist_8x8", "cifar10_8x8", "cifar100_10of100_8x8")
PROBLEMS, STEPS, HORIZONS, CLIP = 4, 2000, (100, 500, 2000), 5.0


class ClippedImageMLP(ImageMLP):
    """The family with the yardstick's own bound on losses."""

    def normalizer(self, loss: jax.Array) -> jax.Array:
        """Clips to [0, 5]; non-finite counts as 5."""
        return jnp.clip(jnp.nan_to_num(loss, nan=CLIP, posinf=CLIP, neginf=CLIP), 0.0, CLIP)


def load(reference: str) -> tuple[Any, Any]:
    """The architecture and theta of a weights file, a folder of weights or of a run, or a name."""
    run = Path(reference) / "theta.npz"
    if reference.endswith(".npz") or run.is_file():
        found = MetaTrained(run if run.is_file() else Path(reference))
        return found.architecture, found.theta
    theta, config = celo_zoo.convert_published(reference) if reference.endswith(".state") else celo_zoo.load(reference)
    name = "celo" if isinstance(config, CeloConfig) else "celo_adam"
    return dataclasses.replace(get_architecture(name), config=config), theta  # type: ignore[type-var]


class Yardstick:
    """The problems, and one compiled program per architecture that trains them all at once.

    Args:
      data_dir: folder of the prepared arrays.
      problems: number of problems of each data set.
      seed: of the problems.
    """

    def __init__(self, data_dir: str, problems: int = PROBLEMS, seed: int = 0) -> None:
        self._family = Reparametrized(ClippedImageMLP(DATASETS, data_dir=data_dir), ("global",))
        self._data = jax.device_put(self._family.load())
        sets = jnp.arange(len(DATASETS))
        self._keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(jax.random.key(seed), i), problems))(sets)

    def curves(self, architecture: Any, theta: Any) -> np.ndarray:
        """Mean training loss per step by data set, (data sets, `STEPS`)."""
        return np.asarray(self._run(architecture, theta, self._keys, self._data))

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def _run(self, architecture: Any, theta: Any, keys: jax.Array, data: Any) -> jax.Array:
        problem = InnerProblem(architecture, self._family)

        def one(key: jax.Array, number: jax.Array) -> jax.Array:
            config = self._family.sample(key)
            config["task"]["dataset"] = number
            return train(problem, theta, key, config, data, STEPS)[1]

        by_set = jax.vmap(jax.vmap(one, in_axes=(0, None)))(keys, jnp.arange(len(DATASETS)))
        return jnp.mean(by_set, axis=1)


def summary(curve: np.ndarray) -> dict[str, float]:
    """Mean losses over the horizons, and over the last 100 steps."""
    return {
        **{str(h): round(float(curve[:h].mean()), 4) for h in HORIZONS},
        "last_100": round(float(curve[-100:].mean()), 4),
    }


def measure(yardstick: Yardstick, reference: str) -> dict[str, Any]:
    """Mean losses by data set and over all."""
    curves = yardstick.curves(*load(reference))
    by_data_set = {name: summary(curve) for name, curve in zip(DATASETS, curves, strict=True)}
    return {"mean": summary(curves.mean(axis=0)), "by_data_set": by_data_set}


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="+", help="names, folders, .npz or .state files; LABEL=WEIGHTS gives a label")
    parser.add_argument("--data-dir", required=True, help="folder of the prepared arrays")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    results, yardstick = {}, Yardstick(options.data_dir, seed=options.seed)
    for item in options.weights:
        label, _, reference = item.rpartition("=")
        results[label or reference] = result = measure(yardstick, reference)
        print(label or reference, result["mean"], flush=True)
    if options.out:
        record = {
            "steps": STEPS,
            "problems_per_data_set": PROBLEMS,
            "seed": options.seed,
            "machine": hardware(),
            "versions": {"python": platform.python_version(), "jax": jax.__version__},
            "results": results,
        }
        files.write_json(options.out, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
