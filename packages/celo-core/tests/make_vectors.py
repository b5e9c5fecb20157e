"""Writes the vectors that test_parity_numpy.py compares with: ``python tests/make_vectors.py``.

All numbers come from the NumPy transcription and a seeded generator, independently of JAX and of this package.
"""

import pathlib

import numpy as np
import reference_numpy

FOLDER = pathlib.Path(__file__).parent / "vectors"
NAMES = ("celo", "celo_without_scheduler", "celo_adam")
SHAPES = {"rank0": (), "rank1": (5,), "rank2": (4, 3), "tie": (3, 3), "rank3": (2, 1, 4), "rank4": (2, 3, 1, 2)}
NUM_STEPS = 12


def random_theta(rng, rule, scheduler):
    """Random meta-parameters, rounded to float32."""
    normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    dense = lambda a, b, scale: {"kernel": normal(a, b) * np.float32(scale), "bias": 0.1 * normal(b)}
    theta = {}
    if rule:
        # An output scale of 30 makes steps a few per cent of the parameters, so that errors in them show.
        network = {
            "hidden_0": dense(30, 4, 0.3),
            "hidden_1": dense(4, 4, 0.7),
            "output": {"kernel": normal(4, 2) * np.float32([30, 30]), "bias": normal(2)},
        }
        theta["update_rule"] = {"mlp": network}
    if scheduler:
        network = {"input": dense(18, 64, 0.3), "pooled_input": dense(18, 64, 0.3), "gates": dense(128, 256, 0.1)}
        network["step_size"] = {"kernel": 0.3 * normal(64, 1), "bias": np.float32([2.3])}
        theta["scheduler"] = {**network, "initial_hidden": 0.3 * normal(64), "initial_cell": 0.3 * normal(64)}
    return theta


def problem(seed=0):
    """Initial parameters and (gradients, loss) per step: ordinary, zero, huge and tiny gradients, a spike and a negative loss."""
    rng = np.random.default_rng(seed)
    init = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    scales = [1.0, 0.1, 0.0, 10.0, 1e4, 1.0, 1e-4, 1e-12, 1.0, 0.01]
    losses = [2.3, 2.1, 1.9, 40.0, 1.7, 1.5, -0.5, 1.6, 1.2, 0.0]
    steps = []
    for scale, loss in zip(scales, losses, strict=True):
        grads = {name: (scale * rng.standard_normal(shape)).astype(np.float32) for name, shape in SHAPES.items()}
        steps.append((grads, np.float32(loss)))
    return init, steps


def theta_of(name):
    """Theta of one of `NAMES`."""
    rng = np.random.default_rng(100 + NAMES.index(name))
    return random_theta(rng, rule=name != "celo_adam", scheduler=name != "celo_without_scheduler")


def vectors(name):
    """Arrays by name, float64."""
    init, steps = problem()
    params, multipliers, features = reference_numpy.run(theta_of(name), NUM_STEPS, init, steps)
    arrays = {f"params/{leaf}": values for leaf, values in params.items()}
    return {**arrays, "multiplier": multipliers, "loss_features": features}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in NAMES:
        np.savez_compressed(FOLDER / f"{name}.npz", **vectors(name))
