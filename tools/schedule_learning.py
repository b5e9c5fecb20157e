"""Learns a scheduler by evolution strategies on whole trainings, against the best fixed height of each task.

    python tools/schedule_learning.py --out run --config controller.toml --minutes 50
    python tools/schedule_learning.py --out run --validate 60
    python tools/schedule_learning.py --out run --write

Each iteration draws some of the tasks of docs/results/schedule-labels and some of schedule_more_tasks.py, trains each under
antithetic pairs of schedulers with the same initialisation and batches, and descends ``log(final loss / that of the grid's best
height)``, clipped, which takes out how the tasks differ. Tasks without labels have the mean over all pairs in place of the best
height. With --in-steps a difference is divided by how much the logarithm of the task's loss falls per e-fold of steps, which makes
it one of training time: a language model's loss differs by hundredths where that of a network that memorises differs by factors.
A small --clip lets these count no more than others.
The update rule is that of the weights and stays as it is, or with --rule ten of its numbers are learned besides, or with --network
all of its network (schedule_rule.py). The same command goes on where it was stopped.
--validate trains tasks of other numbers, which are never drawn, under the scheduler that has been learned and under the prior
alone. --write makes the folder that of a run, with the whole theta and where it comes from, as which `celo-zoo convert` reads it.
"""

import argparse
import json
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import schedule_more_tasks
import schedule_records
import schedule_rule
import schedule_writing
from numpy.typing import NDArray
from schedule_bench import HELD_OUT, LABELS, Bench

from celo_core import configs, files
from celo_core.schedulers import Scheduler, SchedulerConfig

Floats = NDArray[np.floating]


def learn(bench: Bench, options: argparse.Namespace, start: Any) -> None:
    """Descends until the time is up; writes state.npz after each iteration and a line of log.jsonl."""
    flat, unravel = jax.flatten_util.ravel_pytree(start)
    theta = np.asarray(flat, np.float64)
    path, log = options.out / "state.npz", options.out / "log.jsonl"
    moments, iteration, mean = np.zeros((2, len(theta))), 0, theta.copy()
    if path.exists():
        with np.load(path) as saved:
            theta, moments, iteration, mean = saved["theta"], saved["moments"], int(saved["iteration"]), saved["mean"]
    elif options.start is not None:
        # Of a scheduler that was learned alone the update rule's changes, which follow, are none.
        found = [np.concatenate([x := np.load(one)["mean"], theta[len(x) :]]) for one in options.start]
        theta = mean = np.mean(found, axis=0)
    lengths = sorted({int(n) for n in bench.labels.lengths})
    # Short trainings more often, which cost less.
    share = bench.labels.lengths[bench.training] ** -0.5 * np.where(bench.is_plain, options.plain, 1.0)
    if options.by_kind:
        share = share / bench.of_kind
    if not path.exists():
        _save(path, theta, moments, iteration, mean)
    prior = jax.tree.map(lambda x: jnp.broadcast_to(x, (2 * options.pairs, *x.shape)), start)
    begun = time.monotonic()
    while time.monotonic() - begun < 60 * options.minutes:
        rng = np.random.default_rng([options.seed, iteration])
        rows = rng.choice(bench.training, options.tasks, replace=False, p=share / share.sum())
        # The numbers of held-out ones are those below HELD_OUT times the number of shapes.
        first = HELD_OUT * len(schedule_more_tasks.SHAPES)
        draws = rng.integers(10**6, size=options.more) + first
        numbers = [int(n) if rng.random() * options.plain < 1 else bench.next_plain(int(n)) for n in draws]
        more = [(n, int(rng.choice(lengths))) for n in numbers]
        gradient, seen = np.zeros_like(theta), []
        for part in (*rows, *more):
            noise = rng.standard_normal((options.pairs, len(theta)))
            both = np.concatenate([theta + options.sigma * noise, theta - options.sigma * noise])
            schedulers = jax.vmap(unravel)(jnp.asarray(both, jnp.float32))
            if isinstance(part, tuple):
                found = bench.differences(*part, schedulers)
            else:
                found = bench.regrets(int(part), schedulers)
                seen.append(found.mean())
            if options.in_steps:
                slope = bench.slope_of_shape(part[0], prior) if isinstance(part, tuple) else bench.slope_of_task(part)
                found = found / slope
            difference = np.clip(found[: options.pairs] - found[options.pairs :], -options.clip, options.clip)
            gradient += difference @ noise / (2 * options.sigma * options.pairs * (len(rows) + len(more)))
        iteration += 1
        moments[0] += 0.1 * (gradient - moments[0])
        moments[1] += 0.02 * (gradient**2 - moments[1])
        corrected = moments[0] / (1 - 0.9**iteration), moments[1] / (1 - 0.98**iteration)
        # One length for all entries: a normalised step, whose direction evolution strategies know better than its parts.
        length = np.sqrt(corrected[1].mean()) + 1e-12
        theta = theta - options.rate * corrected[0] / length
        mean += (theta - mean) / min(iteration, options.average)
        _save(path, theta, moments, iteration, mean)
        line = {
            "iteration": iteration,
            "seed": options.seed,
            "regret": round(float(np.mean(seen)), 4),
            "seconds": round(time.monotonic() - begun, 1),
        }
        with log.open("a") as file:
            file.write(json.dumps(line) + "\n")


def _save(path: Path, theta: Floats, moments: Floats, iteration: int, mean: Floats) -> None:
    with files.written_atomically(path) as file:
        np.savez(file, theta=theta, moments=moments, iteration=np.int64(iteration), mean=mean)


def validate(bench: Bench, options: argparse.Namespace, start: Any) -> dict[str, Any]:
    """Mean regrets on held-out tasks: of the prior, of the last theta and of its mean over iterations, also scaled."""
    flat, unravel = jax.flatten_util.ravel_pytree(start)
    with np.load(options.out / "state.npz") as saved:
        prior, last, mean = np.asarray(flat), saved["theta"], saved["mean"]
        iteration = int(saved["iteration"])
    # As many as are trained at once in learning, whose programs serve then: the mean also from half to twice its length.
    thetas = {"prior": prior, "last": last, "mean": mean}
    thetas |= {
        f"mean x {factor:g}": prior + factor * (mean - prior) for factor in np.linspace(0.5, 2.0, 2 * options.pairs - 3)
    }
    schedulers = jax.vmap(unravel)(jnp.asarray(np.stack(list(thetas.values())), jnp.float32))
    rng = np.random.default_rng(options.seed)
    rows = rng.permutation(bench.validation)[: options.validate]
    found = np.stack([bench.regrets(int(row), schedulers) for row in rows])
    others = range(HELD_OUT * len(schedule_more_tasks.SHAPES) if options.more else 0)
    apart = np.stack([bench.differences(n, 1000, schedulers) for n in others]) if options.more else found[:0]
    apart = np.clip(apart - apart[:, :1], -schedule_records.LARGEST_REGRET, schedule_records.LARGEST_REGRET)
    fixed = bench.labels.regrets[rows]
    result: dict[str, Any] = {"iteration": iteration, "trainings": len(rows)}
    for n, name in enumerate(thetas):
        difference = found[:, n] - found[:, 0]
        error = float(difference.std() / np.sqrt(len(rows)))
        result[name] = {"regret": float(found[:, n].mean()), "against_prior": float(difference.mean()), "error": error}
        by_length = {
            int(n_): float(found[bench.labels.lengths[rows] == n_, n].mean()) for n_ in set(bench.labels.lengths[rows])
        }
        result[name]["by_length"] = by_length
        result[name]["others"] = {
            shape.label: float(apart[k :: len(schedule_more_tasks.SHAPES), n].mean()) if options.more else 0.0
            for k, shape in enumerate(schedule_more_tasks.SHAPES)
        }
    result["best_fixed"] = float(fixed.mean(axis=0).min())
    files.write_json(options.out / "validation.json", result)
    return result


def parsed() -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--config", type=Path, help="TOML file of the scheduler's config (needed for a new run)")
    parser.add_argument("--minutes", type=float, default=10.0, help="time after which no further iteration begins (10)")
    parser.add_argument("--tasks", type=int, default=12, help="tasks in an iteration (12)")
    parser.add_argument("--more", type=int, default=6, help="tasks without labels in an iteration (6)")
    parser.add_argument(
        "--plain", type=float, default=1.0, help="how much more often tasks of plain inputs are drawn (1)"
    )
    parser.add_argument("--in-steps", action="store_true", help="compare in training time, see above")
    parser.add_argument(
        "--by-kind", action="store_true", help="draw MLPs, convnets, Transformers and so on equally often"
    )
    parser.add_argument("--clip", type=float, default=1.0, help="largest difference between two schedulers (1)")
    parser.add_argument("--rule", action="store_true", help="learn ten numbers of the update rule besides")
    parser.add_argument("--network", action="store_true", help="learn the update rule's network besides")
    parser.add_argument(
        "--start",
        type=Path,
        nargs="+",
        metavar="NPZ",
        help="state.npz of other runs, to begin at the mean of their means",
    )
    parser.add_argument("--pairs", type=int, default=4, help="antithetic pairs for each task (4)")
    parser.add_argument("--sigma", type=float, default=0.15, help="standard deviation of the perturbations (0.15)")
    parser.add_argument("--rate", type=float, default=0.05, help="length of a step of each entry of theta (0.05)")
    parser.add_argument("--average", type=int, default=40, help="iterations over which theta is averaged (40)")
    parser.add_argument("--lengths", default="300,1000", help="lengths of the trainings (300,1000)")
    parser.add_argument("--largest", type=int, default=14_000, help="largest network in parameters (14,000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--weights",
        metavar="REF",
        help="whose update rule is used, a theta.npz, or adam_network, the paper's network set by hand (celo)",
    )
    parser.add_argument("--write", action="store_true", help="write theta.npz and run.json instead")
    parser.add_argument("--share", type=float, default=1.0, help="of what was learned, in what is written (1)")
    parser.add_argument("--provenance", type=Path, help="run.json of the update rule (what the weights have)")
    parser.add_argument("--command", help="what is recorded as the command")
    parser.add_argument("--note", action="append", default=[], help="a sentence to be recorded")
    parser.add_argument("--validate", type=int, metavar="N", help="train N held-out tasks instead")
    options = parser.parse_args()
    if (options.rule or options.network) and options.weights is None:
        parser.error("what is learned of an update rule is relative to it: give it by --weights.")
    options.weights = options.weights or "celo"
    return options


def chosen(options: argparse.Namespace) -> tuple[schedule_records.Labels, list[str]]:
    """Labels of the lengths in the options, and the shapes among them whose tasks are small enough."""
    labels = schedule_records.read(LABELS)
    rows = np.flatnonzero(np.isin(labels.lengths, [int(n) for n in options.lengths.split(",")]))
    labels = labels._replace(
        tasks=labels.tasks[rows],
        lengths=labels.lengths[rows],
        described=[labels.described[row] for row in rows],
        final=labels.final[rows],
    )
    return labels, sorted({one["shape"] for one in labels.described if one["parameters"] <= options.largest})


def main() -> int:
    """Runs the command."""
    options = parsed()
    options.out.mkdir(parents=True, exist_ok=True)
    kept = options.out / "scheduler.json"
    try:
        if options.config is not None and not kept.exists():
            document = tomllib.loads(options.config.read_text())
            files.write_json(kept, configs.to_json(configs.from_json(SchedulerConfig, document)))
        config = configs.from_json(SchedulerConfig, json.loads(kept.read_text()))
    except (OSError, ValueError) as error:
        print(f"schedule_learning: {error}", file=sys.stderr)
        return 1
    weights = schedule_rule.load_rule(options.weights)
    changes = schedule_rule.changes_of(dict(weights.theta)["update_rule"], options)
    start = Scheduler(config).init(jax.random.key(0)), changes
    if options.write:
        schedule_writing.write(weights, options, start)
        return 0
    labels, shapes = chosen(options)
    bench = Bench(weights, config, labels, shapes)
    if options.validate:
        print(json.dumps(validate(bench, options, start), indent=1))
    else:
        learn(bench, options, start)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
