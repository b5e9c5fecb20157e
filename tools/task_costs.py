"""Measures what the evaluation tasks cost and writes what `celo-tasks list` shows.

    taskset -c 0 python tools/task_costs.py --data-dir arrays

Parameters come from shapes, floating-point operations from XLA's analysis of the loss and its gradient, and milliseconds from
training steps with Adam on this machine (one core, by taskset), the median of several stretches after a warm-up. A task whose
step takes more than --skip-above GFLOP is not timed.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from celo_core import files
from celo_tasks.evaluation.program import TrainingProgram, initial, parameter_count
from celo_tasks.reporting.machine import hardware, versions
from celo_tasks.tasks.registry import TASKS

OUT = Path(__file__).resolve().parents[1] / "packages/celo-tasks/src/celo_tasks/tasks/costs.json"


def gflop(family: Any, data: Any) -> float:
    """10^9 floating-point operations of a loss with its gradient, as XLA counts them."""

    def gradient(key: Any, data: Any) -> Any:
        config = family.sample(key)
        params, model_state = initial(family, key)
        batch = family.batch(key, config, data)
        return params, model_state, batch

    params, model_state, batch = jax.eval_shape(gradient, jax.random.key(0), data)
    config = jax.eval_shape(family.sample, jax.random.key(0))
    step = jax.jit(lambda *x: jax.value_and_grad(family.loss, has_aux=True)(*x))
    analysis = step.lower(params, model_state, jax.random.key(0), config, batch).compile().cost_analysis()
    return float(analysis["flops"]) / 1e9


def milliseconds(family: Any, data: Any, seconds: float) -> float:
    """Median time of a step with Adam over stretches of some ten steps."""
    program = TrainingProgram(family, lambda *_: optax.with_extra_args_support(optax.adam(1e-3)), 10_000)
    progress, settings = program.start([0.0], [False], [0])
    program.compile(progress, settings, data)
    times: list[float] = []
    done, length, begin = 0, 1, time.perf_counter()
    while done < 9_000 and (len(times) < 4 or time.perf_counter() - begin < seconds):
        start = time.perf_counter()
        progress = jax.block_until_ready(program.advance(progress, settings, data, done, done + length))
        times.append((time.perf_counter() - start) / length)
        done += length
        length = max(1, min(500, round(0.2 * length / (times[-1] * length))))
    return 1e3 * float(np.median(times[1:]))


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="folder of prepared arrays")
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each task (3)")
    parser.add_argument("--skip-above", type=float, default=1e9, metavar="GFLOP", help="do not time costlier tasks")
    parser.add_argument("--task", action="append", help="only this task; may be repeated")
    options = parser.parse_args()
    old = json.loads(OUT.read_text()) if OUT.exists() else {"tasks": {}}
    record: dict[str, Any] = {"machine": hardware(), "versions": versions(), "tasks": old["tasks"]}
    for name in options.task or TASKS:
        family = TASKS[name].make(options.data_dir)
        data = jax.device_put(family.load())
        cost = gflop(family, data)
        timed = milliseconds(family, data, options.seconds) if cost <= options.skip_above else None
        record["tasks"][name] = {
            "parameters": parameter_count(family),
            "gflop": float(f"{cost:.3g}"),
            "milliseconds": timed and float(f"{timed:.3g}"),
            "dataset": TASKS[name].dataset(options.data_dir),
        }
        print(name, record["tasks"][name], flush=True)
        files.write_json(OUT, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
