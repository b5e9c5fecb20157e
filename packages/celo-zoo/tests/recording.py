"""Update sequences of bundled and published weights, as they were once recorded: what the code around them may not change.

    python packages/celo-zoo/tests/recording.py celo "celo with bfloat16 moments"

writes these runs in recorded_updates.npz anew, for when the weights themselves change. Those of format 2 are a folder here, which
stays as it is. The published ones are not in this repository: their
runs need them in a folder, see `published`. Tensors of all ways through the fused update are in:
scalars, vectors, matrices alone and with their like, a convolution, and one that is gone through in blocks.
"""

import functools
import os
import pathlib
import sys
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

import celo_core
import celo_zoo
from celo_zoo import convert

FORMAT_2 = pathlib.Path(__file__).parent / "format_2"
FILE = pathlib.Path(__file__).with_name("recorded_updates.npz")

SHAPES: Mapping[str, tuple[int, ...]] = {
    "scalar": (),
    "bias": (7,),
    "long_bias": (300,),
    "wide": (7, 12),
    "tall": (40, 7),
    "twin": (40, 7),
    "attention": (6, 4, 12),
    "convolution": (3, 3, 4, 8),
    "blocks": (190, 180),
}
RUNS: Mapping[str, dict] = {
    "celo": {},
    "celo_adam": {},
    "celo_paper": {},
    "celo with bfloat16 moments": {"accumulator_dtype": "bfloat16"},
    "format_2 celo": {},
    "format_2 celo with bfloat16 moments": {"accumulator_dtype": "bfloat16"},
    "published celo": {},
    "published celo_adam": {},
}
NUM_STEPS = 8


def waves(shape: tuple[int, ...], seed: float) -> np.ndarray:
    """Numbers without a random generator: of both signs, of sizes over some orders of magnitude, and in matrices of full rank."""
    number = np.arange(np.prod(shape, dtype=int), dtype=np.float64).reshape(shape)
    return np.sin(1.7 * number + 0.0113 * number**2 + seed) * np.exp(1.5 * np.cos(0.31 * number + 2 * seed))


def published(architecture: str) -> pathlib.Path:
    """The file of published weights: of $CELO_SHARED, or a folder ``shared`` next to the repository."""
    shared = os.environ.get("CELO_SHARED") or pathlib.Path(__file__).resolve().parents[3].parent / "shared"
    return pathlib.Path(shared) / "reference" / f"{architecture}_theta.state"


def optimizer(name: str) -> optax.GradientTransformationExtraArgs:
    """The optimizer of one of `RUNS`."""
    if name.startswith("published"):
        architecture = name.split()[1]
        theta, config = convert.convert_published(published(architecture), architecture)
        return celo_core.get_architecture(architecture, config).build(theta, NUM_STEPS + 4)
    weights = FORMAT_2 / name.split()[1] if name.startswith("format_2") else name.split()[0]
    return celo_zoo.optimizer(weights, NUM_STEPS + 4, **RUNS[name])


def updates(name: str) -> dict[str, np.ndarray]:
    """The updates of every tensor in the first step and in the last, float32; of the largest one along two lines."""
    tx = optimizer(name)
    params = {
        key: jnp.asarray(0.2 * waves(shape, 1.0 + i), jnp.float32) for i, (key, shape) in enumerate(SHAPES.items())
    }
    state = tx.init(params)

    # Compiling takes most of the time, hence without optimisation.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def update(grads, state, params, loss):
        return tx.update(grads, state, params, value=loss)

    found = {}
    for step in range(NUM_STEPS):
        grads = {
            key: jnp.asarray(10.0 ** (i % 4 - 3) * waves(shape, 3.0 * i + 0.7 * step), jnp.float32)
            for i, (key, shape) in enumerate(SHAPES.items())
        }
        steps, state = update(grads, state, params, jnp.float32(2.0 - 0.3 * step + 0.2 * (step % 3)))
        params = optax.apply_updates(params, steps)
        if step in (0, NUM_STEPS - 1):
            for key, x in steps.items():
                x = np.asarray(x)
                found[f"{name}/{key}/{step}"] = x if x.size < 1000 else np.concatenate([x[5], x[:, 5]])
    return found


def main() -> None:
    """Writes the file; with names of runs as arguments, these alone anew."""
    chosen = sys.argv[1:] or list(RUNS)
    with np.load(FILE) as file:
        kept = {key: file[key] for key in file.files if key.split("/")[0] not in chosen}
    np.savez_compressed(FILE, **kept, **{key: x for name in chosen for key, x in updates(name).items()})


if __name__ == "__main__":
    main()
