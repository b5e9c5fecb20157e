"""Measures this machine in one call: cost of a Celo step beside Adam's, the rate of meta-training and where its time goes.

    python tools/measure.py --out docs/results/measure.json
    python tools/measure.py --out measure.json --pairs 32 1024 --run runs/gpu --minutes 6 -- --data-dir arrays

It is the one command to give a machine with a GPU. What is left of --minutes goes to a stretch of ``celo-tasks meta-train
--out RUN`` with --run (further arguments of it follow ``--``), and with --evaluation to tuned Adam on velodrome-17, by
``celo-tasks evaluate``, half and half if both are given; each goes on with what its folder holds. It needs the three
packages on the path and no network.

Times are medians of repeated runs after a warm-up; ratios are to Optax's Adam in the same process.
"""

import argparse
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import celo_core
from celo_core import files
from celo_core.meta_train import FrozenPart, MetaTrainConfig, MetaTrainer
from celo_core.testing.toys import LearnedSGD
from celo_tasks import cli, meta_training
from celo_tasks.families import ImageMLP, Reparametrized

SIZES = {
    "2,410 parameters (MLP 64-32-10)": [(64, 32), (32,), (32, 10), (10,)],
    "10.5M parameters (five 2048x1024 and biases)": [(2048, 1024), (1024,)] * 5,
}


def median_seconds(function: Callable[[], Any], least: int = 5, seconds: float = 3.0) -> float:
    """Median time of a call, after one to warm up."""
    jax.block_until_ready(function())
    times: list[float] = []
    while len(times) < least or sum(times) < seconds:
        begin = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


def update_cost(shapes: list[tuple[int, ...]]) -> dict[str, Any]:
    """Milliseconds, temporary memory and state of one update of Celo, Celo-Adam and Adam."""
    params = [jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes)]
    gradients = [0.1 * jax.random.normal(jax.random.key(100 + i), shape) for i, shape in enumerate(shapes)]
    count = sum(x.size for x in params)
    celo, celo_adam = celo_core.Celo(), celo_core.CeloAdam()
    optimizers = {
        "adam": optax.with_extra_args_support(optax.adam(1e-3)),
        "celo": celo.build(celo.init(jax.random.key(0)), 1000),
        "celo_adam": celo_adam.build(celo_adam.init(jax.random.key(0)), 1000),
    }
    results: dict[str, Any] = {}
    for name, tx in optimizers.items():
        state = tx.init(params)

        def step(params: Any, state: Any, tx: Any = tx) -> Any:
            updates, state = tx.update(gradients, state, params, value=jnp.float32(1.0))
            return optax.apply_updates(params, updates), state

        begin = time.perf_counter()
        compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, state).compile()
        compile_seconds = time.perf_counter() - begin
        carry = [jax.tree.map(jnp.copy, (params, state))]

        def run(compiled: Any = compiled, carry: Any = carry) -> Any:
            carry[0] = compiled(*carry[0])
            return carry[0]

        memory = compiled.memory_analysis()
        results[name] = {
            "milliseconds": round(1e3 * median_seconds(run), 4),
            "compile_seconds": round(compile_seconds, 2),
            "temporary_bytes_per_parameter": round(memory.temp_size_in_bytes / count, 2) if memory else None,
            "state_bytes_per_parameter": round(sum(x.nbytes for x in jax.tree.leaves(state)) / count, 2),
        }
    for one in results.values():
        one["times_adam"] = round(one["milliseconds"] / results["adam"]["milliseconds"], 2)
    return results


def meta_rates(pairs: int, data_dir: str | None, datasets: tuple[str, ...]) -> dict[str, Any]:
    """Inner steps per second of both phases, and of plain gradient descent, which leaves only the inner gradients."""
    family = Reparametrized(ImageMLP(datasets, data_dir=data_dir), ("global", "tensor"))
    data = family.load()
    whole = celo_core.Celo()
    rule = {"update_rule": whole.init(jax.random.key(0))["update_rule"]}
    architectures: dict[str, Any] = {
        "update_rule": celo_core.Celo(celo_core.CeloConfig(scheduler=None)),
        "scheduler": FrozenPart(whole, rule),
        "gradient_descent": LearnedSGD(initial=-5.0),
    }
    rates = {}
    for name, architecture in architectures.items():
        estimator = celo_core.TruncatedPES(architecture, family, num_pairs=pairs)
        trainer = MetaTrainer(estimator, MetaTrainConfig(iterations=10_000), data)
        state = [trainer.init()]

        def run(trainer: Any = trainer, state: Any = state) -> Any:
            state[0], metrics = trainer.run(state[0], 5)
            return metrics

        rates[name] = round(5 * estimator.inner_steps / median_seconds(run))
    share = rates["update_rule"] / rates["gradient_descent"]
    return {
        "pairs": pairs,
        "problems_at_once": 2 * pairs,
        "inner_steps_per_second": rates,
        "share_of_time_in_inner_gradients": round(share, 3),
        "share_of_time_in_update_rule": round(1 - share, 3),
    }


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the results")
    parser.add_argument("--pairs", type=int, nargs="*", default=[32], help="numbers of antithetic pairs (32)")
    parser.add_argument("--run", help="folder of a meta-training run to go on with")
    parser.add_argument(
        "--evaluation", metavar="FOLDER", help="folder of an evaluation of Adam on velodrome-17 to go on with"
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="time in all, measuring included (9)")
    parser.add_argument("--data-dir", help="folder of prepared arrays (the data in the package)")
    parser.add_argument("--cpu-devices", type=int, default=cli.default_cpu_devices(), help="on a CPU (all cores)")
    parser.add_argument("further", nargs="*", help="after --: further arguments of celo-tasks meta-train")
    options = parser.parse_args()
    begin = time.monotonic()
    jax.config.update("jax_num_cpu_devices", options.cpu_devices)
    datasets = cli.default_datasets(options.data_dir)
    record: dict[str, Any] = {
        "machine": meta_training.hardware(),
        "versions": {"python": platform.python_version(), "jax": jax.__version__, "optax": optax.__version__},
        "update": {},
        "meta_training": [],
    }
    for name, shapes in SIZES.items():
        record["update"][name] = update_cost(shapes)
        print(name, record["update"][name], flush=True)
        files.write_json(options.out, record)
    for pairs in options.pairs:
        record["meta_training"].append(meta_rates(pairs, options.data_dir, datasets))
        print(record["meta_training"][-1], flush=True)
        files.write_json(options.out, record)
    data = ["--data-dir", options.data_dir] if options.data_dir else []
    left = options.minutes - (time.monotonic() - begin) / 60
    if options.evaluation and left > 0.5:
        share = left / 2 if options.run else left
        command = ["evaluate", "--suite", "velodrome-17", "--optimizer", "adam", "--out", options.evaluation]
        cli.main([*command, "--minutes", f"{share:.2f}", *data])
        left = options.minutes - (time.monotonic() - begin) / 60
    if options.run and left > 0.5:
        return cli.main(["meta-train", "--out", options.run, "--minutes", f"{left:.2f}", *data, *options.further])
    return 0


if __name__ == "__main__":
    sys.exit(main())
