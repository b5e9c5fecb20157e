"""Measures what a step of Celo costs against Optax's Adam: time, compilation, memory, share of the machine's bandwidth.

    nox -s bench                                    # writes docs/results/performance: results.json, results.md, a plot
    python tools/bench/run.py --out bench --cases mlp ten-million --rounds 5
    python tools/bench/run.py --out bench --cases gpt2 gpt2-medium   # where there is a GPU: Pallas kernels and XLA

Optimizers are timed in turn, round by round, so that the ratio to Adam is of neighbours in time; medians are over rounds,
after a warm-up, with quartiles. Parameters and state are donated. Nothing else should run on the machine.
"""

import argparse
import platform
import sys
from pathlib import Path
from typing import Any

import jax
import measuring
import numpy as np
import optax
import report

from celo_core import files
from celo_tasks.reporting.machine import hardware


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for results.json, results.md and the plot")
    default = [name for name in measuring.CASES if jax.default_backend() != "cpu" or not name.startswith("gpt2")]
    parser.add_argument(
        "--cases", nargs="*", choices=list(measuring.CASES), default=default, help="which networks (GPT-2 on a GPU)"
    )
    parser.add_argument("--rounds", type=int, default=9, help="rounds of timing (9)")
    parser.add_argument("--seconds", type=float, default=0.3, help="least time of one optimizer in a round (0.3)")
    parser.add_argument("--no-sweep", action="store_true", help="leave out time against size")
    parts = "also measure Celo without each of the things that make it fast on a CPU"
    parser.add_argument("--parts", action="store_true", help=parts)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {
        "machine": hardware(),
        "versions": {"python": platform.python_version(), "jax": jax.__version__, "optax": optax.__version__},
        "rounds": options.rounds,
        "ceilings": measuring.ceilings(options.rounds),
        "operations_per_parameter": measuring.operations_per_parameter(),
        "least_bytes_per_parameter": measuring.LEAST_BYTES,
        "cases": {},
    }
    for name in options.cases:
        title, shapes = measuring.CASES[name]
        parameters = sum(int(np.prod(shape)) for shape in shapes)
        print(f"{name}: {title}, {parameters:,} parameters in {len(shapes)} leaves", file=sys.stderr, flush=True)
        case: dict[str, Any] = {"title": title, "parameters": parameters, "leaves": len(shapes)}
        case["step"] = measuring.measure(shapes, measuring.optimizers(), options.rounds, options.seconds)
        if parameters < 10_000:
            case["in_scan"] = measuring.measure_in_scan(shapes, measuring.optimizers(), options.rounds)
        record["cases"][name] = case
        files.write_json(options.out / "results.json", record)
    if options.parts:
        makers, rounds = measuring.without_each_part(), max(3, options.rounds // 3)
        record["parts"] = {
            name: {
                "title": measuring.CASES[name][0],
                "step": measuring.measure(measuring.CASES[name][1], makers, rounds, options.seconds),
            }
            for name in ("fifty", "ten-million")
        }
        record["parts"]["mlp"] = {
            "title": measuring.CASES["mlp"][0],
            "in_scan": measuring.measure_in_scan(measuring.CASES["mlp"][1], makers, rounds),
        }
    if not options.no_sweep:
        record["sweep"] = {}
        for exponent in range(10, 25, 2):
            side = 2 ** (exponent // 2)
            makers = {name: make for name, make in measuring.optimizers().items() if "bfloat16" not in name}
            record["sweep"][str(side * side)] = measuring.measure(
                [(side, side)], makers, max(3, options.rounds // 3), 0.1
            )
            print(f"{side}x{side}", file=sys.stderr, flush=True)
    files.write_json(options.out / "results.json", record)
    report.write(record, options.out)
    print((options.out / "results.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
