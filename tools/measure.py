"""Measures this machine in one call: the rate of meta-training and where its time goes; on a GPU, the kernels as well.

    python tools/measure.py --out measure.json
    python tools/measure.py --out measure.json --pairs 32 1024 --run runs/gpu --minutes 6 -- --data-dir arrays

It is the one command to give a machine with a GPU: there it first compares the Pallas kernels with XLA, and measures a step
against Adam's on all networks of ``nox -s bench`` (on a CPU that is for ``nox -s bench``, which wants one device). What is
left of --minutes goes, with --quality, to time to quality (tools/time_to_quality.py); then to a part of ``celo-tasks
meta-train --out RUN`` with --run (further arguments of it follow ``--``), and with --evaluation to tuned Adam on
ood-17, by ``celo-tasks evaluate``, half and half if both are given; each goes on with what its folder holds. It needs
the three packages on the path and no network.

Times are medians of repeated runs after a warm-up; ratios are to Optax's Adam in the same process.
"""

import argparse
import platform
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import time_to_quality
from bench import measuring

import celo_core
from celo_core import files
from celo_tasks.cli import common as cli_common
from celo_tasks.cli import main as cli
from celo_tasks.meta_training import bench as bench_meta
from celo_tasks.meta_training import bench_report
from celo_tasks.reporting.machine import hardware

KERNEL_SHAPES = [(2048, 1024), (1000, 777), (333_333,), (3, 3, 128, 256), (129, 65, 33)]


def check_kernels() -> dict[str, float]:
    """Largest difference between three steps of the Pallas kernels and of XLA on a GPU, over the largest step per tensor.

    Float32 sums in another order make some 1e-5; bfloat16 gradients and moments are compared after their own rounding.
    """
    celo = celo_core.Celo()
    theta = celo.init(jax.random.key(0))
    errors = {}
    for dtype in (jnp.float32, jnp.bfloat16):
        steps = {}
        for implementation in ("xla", "pallas"):
            tx = celo.build(theta, 1000, implementation=implementation, accumulator_dtype=dtype)
            params = [jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(KERNEL_SHAPES)]
            state, update = tx.init(params), jax.jit(lambda g, s, p, tx=tx: tx.update(g, s, p, value=jnp.float32(1.0)))
            for step in range(3):
                keys = jax.random.split(jax.random.key(100 + step), len(params))
                grads = [0.1 * jax.random.normal(key, p.shape, dtype) for key, p in zip(keys, params, strict=True)]
                steps[implementation], state = update(grads, state, params)
        for shape, ours, theirs in zip(KERNEL_SHAPES, steps["pallas"], steps["xla"], strict=True):
            error = np.abs(np.asarray(ours, np.float32) - np.asarray(theirs, np.float32)).max()
            largest = np.abs(np.asarray(theirs, np.float32)).max()
            errors[f"{shape} {jnp.dtype(dtype).name}"] = float(f"{error / largest:.2g}")
    return errors


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the results")
    pairs = "numbers of antithetic pairs, in addition to 32 (those of celo-tasks bench-meta)"
    parser.add_argument("--pairs", type=int, nargs="*", help=pairs)
    parser.add_argument("--run", help="folder of a meta-training run to go on with")
    parser.add_argument(
        "--evaluation", metavar="FOLDER", help="folder of an evaluation of Adam on ood-17 to go on with"
    )
    parser.add_argument("--quality", metavar="FOLDER", help="measure time to quality first, at most 2 minutes of it")
    parser.add_argument("--minutes", type=float, default=9.0, help="time in all, measuring included (9)")
    parser.add_argument("--data-dir", help="folder of prepared arrays (the data in the package)")
    parser.add_argument(
        "--cpu-devices", type=int, default=cli_common.default_cpu_devices(), help="on a CPU (all cores)"
    )
    parser.add_argument("further", nargs="*", help="after --: further arguments of celo-tasks meta-train")
    options = parser.parse_args()
    if options.quality and not options.data_dir:
        parser.error("--quality needs --data-dir: the yardstick's data sets are not in the package.")
    begin = time.monotonic()
    jax.config.update("jax_num_cpu_devices", options.cpu_devices)
    datasets = cli_common.default_datasets(options.data_dir)
    numbers = bench_meta.default_pairs() if options.pairs is None else (bench_meta.DEFAULT_PAIRS, *options.pairs)
    settings = bench_meta.BenchSettings(datasets, numbers, data_dir=options.data_dir)
    record: dict[str, Any] = {
        "machine": hardware(),
        "versions": {"python": platform.python_version(), "jax": jax.__version__, "optax": optax.__version__},
        "meta_training": None,
    }
    if jax.default_backend() != "cpu":
        record["kernels"] = check_kernels()
        print("Pallas against XLA:", record["kernels"], flush=True)
        record["ceilings"], record["update"] = measuring.ceilings(3), {}
        for title, shapes in measuring.CASES.values():
            record["update"][title] = measuring.measure(shapes, measuring.optimizers(), 5, 0.3)
            print(title, record["update"][title], flush=True)
            files.write_json(options.out, record)

    def write(measured: Mapping[str, Any]) -> None:
        record["meta_training"] = measured
        files.write_json(options.out, record)

    print(bench_report.table(bench_meta.measure(settings, on_case=write)), flush=True)
    data = ["--data-dir", options.data_dir] if options.data_dir else []
    if options.quality:
        time_to_quality.main(["--out", options.quality, "--minutes", "2", *data])
    left = options.minutes - (time.monotonic() - begin) / 60
    if options.evaluation and left > 0.5:
        share = left / 2 if options.run else left
        command = ["evaluate", "--suite", "ood-17", "--optimizer", "adam", "--out", options.evaluation]
        cli.main([*command, "--minutes", f"{share:.2f}", *data])
        left = options.minutes - (time.monotonic() - begin) / 60
    if options.run and left > 0.5:
        return cli.main(["meta-train", "--out", options.run, "--minutes", f"{left:.2f}", *data, *options.further])
    return 0


if __name__ == "__main__":
    sys.exit(main())
