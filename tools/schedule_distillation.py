"""Fits a scheduler with a large network, such as the paper's LSTM, to one of few numbers that was learned by schedule_learning.py.

    python tools/schedule_distillation.py --teacher learned --out run

Evolution strategies learn tens of numbers from few trainings, but not the 35,649 of an LSTM of 64 units. Where both schedulers read
the same inputs, time and loss, a loss curve determines what either does. So small tasks are trained under the teacher and
perturbations of it, and the LSTM is fitted by gradient descent through whole trainings to the multipliers that the teacher has on
their loss curves, at lengths of 100 to 3,000 steps. `--teacher` is a folder that `schedule_learning.py --write` has written. The
run's folder gets theta.npz, with the teacher's update rule, run.json, which says where both come from, and fit.json, which says how
well it fits.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import schedule_bench
import schedule_records
import schedule_rule
import schedule_tasks
from numpy.typing import NDArray

from celo_core import Celo, CeloConfig, configs, files
from celo_core.meta_training import checkpoints
from celo_core.schedulers import Scheduler, SchedulerConfig
from celo_core.schedulers.interface import Signal
from celo_tasks.meta_training.provenance import current_commit, described

Array = jax.Array
Floats = NDArray[np.floating]

LENGTHS = (100, 3000)
"""Shortest and longest training that the student is fitted on."""
BATCH = 16
"""Loss curves in an iteration."""
SPREAD = 0.3
"""Standard deviation of the perturbations of the teacher under which curves are made."""
VARIANTS = 4
"""The teacher and its perturbations in a task."""
HELD_OUT = 8
"""Of every so many tasks the curves of the first are not fitted."""
FLOOR = 0.02
"""Multipliers are compared by ``log(multiplier + FLOOR)``, so that the last steps of a decay to 0 do not rule the fit."""


def make_curves(
    options: argparse.Namespace, weights: schedule_rule.Rule, config: SchedulerConfig, path: Path
) -> list[Floats]:
    """Loss curves of small tasks under the teacher and perturbations of it; from ``path`` where it exists."""
    if path.exists():
        with np.load(path) as saved:
            return [saved[name] for name in saved.files]
    labels = schedule_records.read(schedule_bench.LABELS)
    small = [one["parameters"] <= options.largest for one in labels.described]
    tasks = np.unique(labels.tasks[np.array(small)])
    rng = np.random.default_rng(options.seed)
    flat, unravel = jax.flatten_util.ravel_pytree(weights.theta["scheduler"])
    trials: dict[str, schedule_bench.Trials] = {}
    found = []
    for task in rng.permutation(tasks)[: options.tasks]:
        shape = schedule_tasks.shape_of(int(task))
        if shape.label not in trials:
            trials[shape.label] = schedule_bench.Trials(weights, config, shape)
        trial = trials[shape.label]
        noise = SPREAD * rng.standard_normal((VARIANTS, len(flat)))
        noise[0] = 0.0  # the teacher itself
        schedulers = jax.vmap(unravel)(jnp.asarray(flat + noise, jnp.float32))
        length = int(rng.choice([300, 1000]))
        losses = trial.losses(schedule_tasks.Draw(int(task), 0, trial.family), length, (schedulers, {}))
        found += [losses[:, k].astype(np.float32) for k in range(losses.shape[1])]
    with files.written_atomically(path) as file:
        np.savez_compressed(file, *found)
    return found


def stretched(curve: Floats, length: int) -> Floats:
    """A loss curve at another number of steps: losses of the nearest fraction of the training, noise included."""
    return curve[(np.arange(length) * len(curve)) // length]


def batch(rng: np.random.Generator, curves: list[Floats]) -> tuple[Array, Array]:
    """Curves at random lengths, float32 (`BATCH`, steps), and the lengths, int32 (`BATCH`,)."""
    low, high = np.log(LENGTHS)
    lengths = np.exp(rng.uniform(low, high) + rng.uniform(-0.2, 0.0, BATCH)).astype(np.int32)
    # One padded length for a batch, of few, so that few programs are compiled.
    padded = next(n for n in (200, 400, 800, 1600, LENGTHS[1]) if n >= lengths.max())
    picked = [stretched(curves[k], int(n)) for k, n in zip(rng.integers(len(curves), size=BATCH), lengths, strict=True)]
    rows = [np.pad(one, (0, padded - len(one)), mode="edge") for one in picked]
    return jnp.asarray(np.stack(rows)), jnp.asarray(lengths)


def multipliers(scheduler: Scheduler, theta: Any, losses: Array, num_steps: Array) -> Array:
    """What a scheduler does with a loss curve, float32 (steps,)."""

    def body(state: Any, step: tuple[Array, Array]) -> tuple[Any, Array]:
        count, value = step
        controls, state = scheduler.step(theta, state, Signal(count, value, num_steps))
        return state, controls.multiplier

    steps = jnp.arange(len(losses), dtype=jnp.int32), losses
    return jax.lax.scan(body, scheduler.init_state(theta), steps)[1]


def fit(
    options: argparse.Namespace, config: SchedulerConfig, teacher: Any, curves: list[Floats]
) -> tuple[Any, dict[str, Any]]:
    """The student's theta, and how well it does what the teacher does on curves that it was not fitted on."""
    known, student = Scheduler(config), Scheduler(CeloConfig().scheduler)
    theta = student.init(jax.random.key(options.seed))

    def errors(theta: Any, losses: Array, lengths: Array) -> Array:
        """Mean square over the steps of each curve of the difference of logarithms, float32 (curves,)."""

        def one(losses: Array, length: Array) -> Array:
            pair = multipliers(student, theta, losses, length), multipliers(known, teacher, losses, length)
            logs = [jnp.log(m + FLOOR) for m in pair]
            inside = jnp.arange(len(losses)) < length
            return jnp.sum(jnp.where(inside, jnp.square(logs[0] - logs[1]), 0.0)) / length

        return jax.vmap(one)(losses, lengths)

    total = options.iterations
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(3e-3, total)))
    state = optimizer.init(theta)

    @jax.jit
    def step(theta: Any, state: Any, losses: Array, lengths: Array) -> tuple[Any, Any, Array]:
        loss = lambda theta: jnp.mean(errors(theta, losses, lengths))
        value, gradient = jax.value_and_grad(loss)(theta)
        updates, state = optimizer.update(gradient, state, theta)
        return optax.apply_updates(theta, updates), state, value

    training = [curve for number, curve in enumerate(curves) if number // VARIANTS % HELD_OUT]
    held_out = [curve for number, curve in enumerate(curves) if number // VARIANTS % HELD_OUT == 0]
    begun, seen = time.monotonic(), []
    for iteration in range(total):
        rng = np.random.default_rng([options.seed, iteration])
        theta, state, value = step(theta, state, *batch(rng, training))
        seen.append(float(value))
        if (iteration + 1) % 100 == 0:
            print(
                f"{iteration + 1}/{total}: root mean square {np.sqrt(np.mean(seen[-100:])):.4f}, {time.monotonic() - begun:.0f} s",
                flush=True,
            )
    judge = jax.jit(errors)
    rng = np.random.default_rng(options.seed + 1)
    found = np.sqrt(np.concatenate([np.asarray(judge(theta, *batch(rng, held_out))) for _ in range(16)]))
    return theta, {
        "iterations": total,
        "seconds": round(time.monotonic() - begun, 1),
        "curves": len(training),
        "held_out_curves": len(held_out),
        "error_of_log_multiplier": round(float(np.median(found)), 4),
        "its_95th_percentile": round(float(np.quantile(found, 0.95)), 4),
    }


def write(options: argparse.Namespace, theta: Any, report: dict[str, Any]) -> None:
    """Writes theta.npz and run.json."""
    architecture = Celo()
    base = json.loads((options.teacher / "run.json").read_text())
    cost = {**base["cost"], "distillation": {"iteration": report["iterations"], "seconds": report["seconds"]}}
    run = {
        **base,
        **described(architecture),
        "command": f"{base['command']}; {options.command or 'python tools/schedule_distillation.py'}",
        "commits": {**base["commits"], "distillation": current_commit()},
        "cost": cost,
        "seconds": round(sum(stage["seconds"] for stage in cost.values()), 1),
        "notes": base["notes"] + options.note,
    }
    files.write_json(options.out / "run.json", run)
    checkpoints.save_theta(options.out / "theta.npz", jax.tree.map(np.asarray, theta), described(architecture))


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--teacher", type=Path, required=True, help="folder that schedule_learning.py --write has written"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--tasks", type=int, default=96, help="tasks whose loss curves are used (96)")
    parser.add_argument("--largest", type=int, default=14_000, help="largest network in parameters (14,000)")
    parser.add_argument("--iterations", type=int, default=2000, help="of gradient descent (2,000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--command", help="what is recorded as the command")
    parser.add_argument("--note", action="append", default=[], help="a sentence to be recorded")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    config = configs.from_json(SchedulerConfig, json.loads((options.teacher / "scheduler.json").read_text()))
    weights = schedule_rule.Rule(checkpoints.load_theta(options.teacher / "theta.npz"), CeloConfig())
    curves = make_curves(options, weights, config, options.out / "curves.npz")
    scheduler, report = fit(options, config, weights.theta["scheduler"], curves)
    files.write_json(options.out / "fit.json", report)
    write(options, {**weights.theta, "scheduler": scheduler}, report)
    print(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
