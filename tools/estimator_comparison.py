"""Measures bias and variance of the meta-gradient estimators on one problem at the same cost.

    python tools/estimator_comparison.py --out docs/results/estimators.json

The problem: the network of Celo's update rule, alone (154 meta-parameters, those of the pretrained Celo of celo-zoo), trains an
MLP 64-32-10 on 8x8 digits for --length steps, in windows of --window steps; the meta-loss is the mean training loss. An estimate
costs the same for all: 32 networks trained to their end, 16 antithetic pairs or 32 problems; backpropagation's extra work shows in
the seconds. The gradient to compare with is that of backpropagation through whole unrolls, over as many independent problems.

What is written, by estimator, with g the true gradient and h an estimate, in units of |g|:
  bias            |E h - g|, after the noise in both means is taken out; "below" bounds it where that leaves nothing
  noise           sqrt(trace of the covariance of h)
  cosine          mean cosine between one estimate and g
  seconds         per estimate on this machine
"""

import argparse
import platform
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np

import celo_zoo
from celo_core import Celo, CeloConfig, ConstantLength, files
from celo_core.estimators import ESTIMATORS
from celo_tasks.cli import common as cli_common
from celo_tasks.families import ImageMLP
from celo_tasks.reporting.machine import hardware

PAIRS = 16

EVOLUTION_FACTOR = 8
"""Estimates of an evolution strategy, which are quicker and noisier, for one of backpropagation."""


def gradients(name: str, options: argparse.Namespace, theta: Any, estimates: int) -> tuple[np.ndarray, float]:
    """Estimates (estimates, meta-parameters) and the median seconds of one."""
    architecture = Celo(CeloConfig(scheduler=None))
    family = ImageMLP(("digits_8x8",))
    data = jax.device_put(family.load())
    truncated = "full" not in name
    problems = {"num_problems": 2 * PAIRS} if "backprop" in name else {"num_pairs": PAIRS, "sigma": options.sigma}
    window = {"truncation": options.window} if truncated else {}
    estimator = ESTIMATORS[name](architecture, family, lengths=ConstantLength(options.length), **problems, **window)
    windows = options.length // options.window if truncated else 1

    @jax.jit
    def run(key: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        def body(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
            (gradient, _, _), state = estimator.estimate(key, theta, state, data)
            return state, jax.flatten_util.ravel_pytree(gradient)[0]

        state, found = jax.lax.scan(body, state, jax.random.split(key, windows))
        return jnp.mean(found, axis=0), state

    state = estimator.init(jax.random.key(1), theta)
    rows, seconds = [], []
    for number in range(estimates + 2):
        begin = time.perf_counter()
        row, state = jax.block_until_ready(run(jax.random.fold_in(jax.random.key(2), number), state))
        if number >= 2:  # the first compiles, and the first trajectories are cut short
            rows.append(np.asarray(row, np.float64))
            seconds.append(time.perf_counter() - begin)
    return np.stack(rows), float(np.median(seconds))


def compare(rows: np.ndarray, exact: np.ndarray, exact_error: float) -> dict[str, Any]:
    """Bias, noise and cosine; ``exact_error`` is the squared error of the true gradient's own mean."""
    norm = np.linalg.norm(exact)
    variance = rows.var(axis=0, ddof=1).sum()
    error = variance / len(rows) + exact_error
    squared_bias = np.sum((rows.mean(axis=0) - exact) ** 2) - error
    cosines = rows @ exact / (np.linalg.norm(rows, axis=1) * norm)
    digits = lambda x: float(f"{x:.3g}")
    known = squared_bias > 2 * error  # else it is not told from noise
    return {
        "bias": digits(np.sqrt(squared_bias) / norm) if known else None,
        "bias_below": None if known else digits(np.sqrt(max(squared_bias, 0) + 2 * error) / norm),
        "noise": digits(np.sqrt(variance) / norm),
        "cosine": digits(cosines.mean()),
    }


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the results")
    parser.add_argument(
        "--estimates", type=int, default=64, help="by backpropagation; 8 times as many by the others (64)"
    )
    parser.add_argument("--length", type=int, default=50, help="steps of the unroll (50)")
    parser.add_argument("--window", type=int, default=10, help="steps of a window (10)")
    parser.add_argument("--sigma", type=float, default=0.01, help="of perturbations (0.01)")
    parser.add_argument("--cpu-devices", type=int, default=1, help=f"(1, of {cli_common.default_cpu_devices()})")
    options = parser.parse_args()
    if options.estimates < 4:
        parser.error("--estimates must be at least 4: half of them are the truth for the other half.")
    jax.config.update("jax_num_cpu_devices", options.cpu_devices)
    theta, _ = celo_zoo.load("celo")
    theta = {"update_rule": {"mlp": theta["update_rule"]["mlp"]}}
    found = {}
    for name in ("full_backprop", *(name for name in ESTIMATORS if name != "full_backprop")):
        factor = 1 if "backprop" in name else EVOLUTION_FACTOR
        found[name] = gradients(name, options, theta, factor * options.estimates)
        print(name, f"{found[name][1]:.3f} s", flush=True)
    # One half of the exact estimates is the truth for itself: the other half is what it is judged by.
    exact_rows = found["full_backprop"][0]
    half = len(exact_rows) // 2
    error = lambda rows: rows.var(axis=0, ddof=1).sum() / len(rows)
    results = {}
    for name, (rows, seconds) in found.items():
        truth, rows = (exact_rows[:half], rows[half:]) if name == "full_backprop" else (exact_rows, rows)
        results[name] = {**compare(rows, truth.mean(axis=0), error(truth)), "seconds": float(f"{seconds:.3g}")}
        print(name, results[name])
    record = {
        "machine": hardware(),
        "versions": {"python": platform.python_version(), "jax": jax.__version__},
        "settings": {**{k: v for k, v in vars(options).items() if k != "out"}, "pairs": PAIRS},
        "results": results,
    }
    files.write_json(options.out, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
