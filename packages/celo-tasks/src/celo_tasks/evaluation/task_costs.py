"""What a training step of the evaluation tasks costs: parameters, floating-point operations and time.

Parameters come from shapes, floating-point operations from XLA's analysis of the loss and its gradient, and milliseconds from
training steps with Adam on this machine. ``tasks/costs.json`` in this package, which `celo-tasks list` shows, is written here.
"""

import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax

from celo_core import files
from celo_tasks.baselines.tuning import Setting
from celo_tasks.evaluation.program import TrainingProgram, initial, parameter_count
from celo_tasks.reporting.machine import hardware, versions
from celo_tasks.tasks.registry import TASKS, find_task

PLANNED = 10_000
"""Steps of the program that is timed; it is stopped long before."""


def gflop(family: Any, data: Any) -> float:
    """10^9 floating-point operations of a loss with its gradient, as XLA counts them: the body of a loop once.

    Args:
      family: the `celo_core.TaskFamily`.
      data: what its ``load`` returned.
    """

    def shapes(key: Any, data: Any) -> Any:
        config = family.sample(key)
        params, model_state = initial(family, key)
        return params, model_state, config, family.batch(key, config, data)

    params, model_state, config, batch = jax.eval_shape(shapes, jax.random.key(0), data)
    step = jax.jit(lambda *x: jax.value_and_grad(family.loss, has_aux=True)(*x))
    analysis: Any = step.lower(params, model_state, jax.random.key(0), config, batch).compile().cost_analysis()
    return float(analysis["flops"]) / 1e9


def milliseconds(family: Any, data: Any, seconds: float) -> float:
    """Median time of a training step with Adam, over pieces of a training of about 0.2 s each.

    Args:
      family: the `celo_core.TaskFamily`.
      data: what its ``load`` returned.
      seconds: how long to measure, at least four pieces.
    """
    program = TrainingProgram(family, lambda *_: optax.with_extra_args_support(optax.adam(1e-3)), PLANNED)
    progress, settings = program.start([Setting()], [0])
    program.compile(progress, settings, data)
    times: list[float] = []
    done, length, begin = 0, 1, time.perf_counter()
    while done < 0.9 * PLANNED and (len(times) < 4 or time.perf_counter() - begin < seconds):
        start = time.perf_counter()
        progress = jax.block_until_ready(program.advance(progress, settings, data, done, done + length))
        times.append((time.perf_counter() - start) / length)
        done += length
        length = max(1, min(500, round(0.2 / times[-1])))
    return 1e3 * float(np.median(times[1:]))


def measure(
    out: pathlib.Path,
    tasks: Sequence[str] = (),
    *,
    data_dir: str | None = None,
    seconds: float = 3.0,
    skip_above: float = float("inf"),
    report: Callable[[str, dict[str, Any]], None] = lambda name, cost: None,
) -> dict[str, Any]:
    """Measures tasks and writes the file after each; what it has of other tasks stays.

    Args:
      out: JSON file: ``"machine"``, ``"versions"``, and ``"tasks"``, each with ``"parameters"``, ``"gflop"``, ``"milliseconds"``
        (``None`` where it was not timed) and ``"dataset"``.
      tasks: names in `TASKS`; none for all.
      data_dir: folder of prepared arrays.
      seconds: time for each task.
      skip_above: a task of more 10^9 floating-point operations is not timed.
      report: called with each task's name and cost.

    Returns:
      What was written.

    Raises:
      ValueError: an unknown task, or a file that is no such record.
      FileNotFoundError: a task's data set is not on this machine.
      OSError: the file cannot be written.
    """
    families = {name: find_task(name).make(data_dir) for name in tasks or TASKS}
    try:
        known = dict(json.loads(out.read_text())["tasks"]) if out.exists() else {}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{out} holds no costs of tasks ({error!r}): give another file.") from error
    record: dict[str, Any] = {"machine": hardware(), "versions": versions(), "tasks": known}
    for name, family in families.items():
        data = jax.device_put(family.load())
        operations = gflop(family, data)
        timed = milliseconds(family, data, seconds) if operations <= skip_above else None
        known[name] = {
            "parameters": parameter_count(family),
            "gflop": float(f"{operations:.3g}"),
            "milliseconds": timed and float(f"{timed:.3g}"),
            "dataset": TASKS[name].dataset(data_dir),
        }
        report(name, known[name])
        files.write_json(out, record)
    return record
