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
import dataclasses
import json
import platform
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import schedule_more_tasks
import schedule_records
import schedule_rule
import schedule_tasks
from numpy.typing import NDArray
from schedule_training import CHUNK

import celo_zoo
from celo_core import Celo, configs, files
from celo_core.meta_training import checkpoints
from celo_core.meta_training.unroll import InnerProblem, Trainee, training_step
from celo_core.schedulers import LinearIntegral, Scheduler, SchedulerConfig
from celo_tasks.evaluation import curves
from celo_tasks.meta_training.families import describe_family
from celo_tasks.meta_training.provenance import current_commit, data_digest, described
from celo_tasks.meta_training.recipe_files import OFFLINE_DATASETS
from celo_tasks.reporting.machine import hardware

Array = jax.Array
Floats = NDArray[np.floating]

LABELS = Path(__file__).parent.parent / "docs" / "results" / "schedule-labels"
SLOPES = (0.05, 1.0)
"""Least and largest fall of a logarithm of the loss per e-fold of steps that differences are divided by."""
SLOPE_DRAWS = 3
"""Tasks without labels by which the slope of their shape is found."""
HELD_OUT = 8
"""Of every so many tasks the last is for validation."""


class Trials:
    """Trains the tasks of one shape under several schedulers at once.

    Args:
      weights: whose update rule is used.
      config: of the scheduler.
      shape: of the tasks.
    """

    def __init__(self, weights: Any, config: SchedulerConfig, shape: schedule_tasks.Shape) -> None:
        self.family = shape.build(OFFLINE_DATASETS, None)
        architecture = Celo(dataclasses.replace(weights.config, scheduler=config))
        self.problem = InnerProblem(architecture, self.family)
        self.rule = jax.tree.map(jnp.asarray, dict(weights.theta)["update_rule"])
        self.data = jax.tree.map(jnp.asarray, self.family.load())
        options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else {}
        self._begin = jax.jit(self._begin_all, compiler_options=options)
        self._run = jax.jit(self._run_chunk, compiler_options=options, donate_argnums=0)

    def _theta(self, learned: Any) -> Any:
        scheduler, changes = learned
        return {"update_rule": schedule_rule.changed_rule(self.rule, changes), "scheduler": scheduler}

    def _begin_all(self, schedulers: Any, key: Array, config: Any, num_steps: Any) -> Any:
        begin = lambda scheduler: self.problem.init(self._theta(scheduler), key, config, num_steps)
        return jax.vmap(begin)(schedulers)

    def _run_chunk(
        self, state: Trainee, schedulers: Any, keys: Array, config: Any, data: Any, num_steps: Any
    ) -> tuple[Trainee, tuple[Array, Array]]:
        def body(state: Trainee, key: Array) -> tuple[Trainee, tuple[Array, Array]]:
            key_batch, key_loss = jax.random.split(key)
            batch = self.family.batch(key_batch, config, data)

            def one(trainee: Trainee, scheduler: Any) -> tuple[Trainee, Array]:
                optimizer = self.problem.architecture.build(self._theta(scheduler), num_steps)
                return training_step(self.family, optimizer, trainee, key_loss, config, batch)

            return jax.vmap(one)(state, schedulers)

        return jax.lax.scan(body, state, keys)

    def final_losses(self, draw: schedule_tasks.Draw, num_steps: int, schedulers: Any) -> Floats:
        """Final losses under each of the schedulers, as `schedule_labels.record` has them."""
        losses = schedule_records.relative(self.losses(draw, num_steps, schedulers), self.family.limit(draw))
        return curves.final_loss(losses.T)

    def losses(self, draw: schedule_tasks.Draw, num_steps: int, schedulers: Any) -> Floats:
        """Losses of a training under each of the schedulers, which are stacked along a first axis: (num_steps, schedulers)."""
        config = self.family.config(draw)
        key_init, key_steps = jax.random.split(jax.random.key(draw.seed))
        steps = jnp.int32(num_steps)
        state = self._begin(schedulers, key_init, config, steps)
        keys = jax.random.split(key_steps, num_steps)
        missing = -num_steps % CHUNK
        keys = jnp.concatenate([keys, keys[:missing]]) if missing else keys
        seen = []
        for first in range(0, len(keys), CHUNK):
            state, losses = self._run(state, schedulers, keys[first : first + CHUNK], config, self.data, steps)
            seen.append(np.asarray(losses))
        return np.concatenate(seen)[:num_steps]


class Bench:
    """The tasks with their labels, and programs for their shapes.

    Args:
      weights: whose update rule is used.
      config: of the scheduler.
      labels: records of the grid.
      shapes: labels of the shapes whose tasks are used.
    """

    def __init__(
        self,
        weights: Any,
        config: SchedulerConfig,
        labels: schedule_records.Labels,
        shapes: Sequence[str],
    ) -> None:
        self.labels, self._weights, self._config = labels, weights, config
        self._trials: dict[str, Trials] = {}
        used = np.array([one["shape"] in shapes for one in labels.described])
        held_out = labels.tasks % HELD_OUT == HELD_OUT - 1
        self.training, self.validation = np.flatnonzero(used & ~held_out), np.flatnonzero(used & held_out)
        of = [labels.described[row] for row in self.training]
        self._slopes = self._slopes_of_labels()
        self.is_plain = np.array([one["inputs"] == "plain" and one["wrong_labels"] == 0.0 for one in of])
        kinds = [one["shape"].split("_")[0] for one in of]
        self.of_kind = np.array([kinds.count(kind) for kind in kinds])

    def _trials_of(self, shape: Any) -> Trials:
        if shape.label not in self._trials:
            self._trials[shape.label] = Trials(self._weights, self._config, shape)
        return self._trials[shape.label]

    def _logs(self, task: int, length: int, schedulers: Any) -> Floats:
        """Logarithms of final losses."""
        more = schedule_more_tasks
        is_labelled = task < more.FIRST
        shape = schedule_tasks.shape_of(task) if is_labelled else more.SHAPES[task % len(more.SHAPES)]
        trials = self._trials_of(shape)
        final = trials.final_losses(schedule_tasks.Draw(task, 0, trials.family), length, schedulers)
        return np.log(np.maximum(final, schedule_records.SMALLEST_LOSS))

    def regrets(self, row: int, schedulers: Any) -> Floats:
        """``log(final loss / the grid's best)`` of each scheduler on the training of a row of the labels, clipped."""
        found = self._logs(int(self.labels.tasks[row]), int(self.labels.lengths[row]), schedulers)
        best = np.log(np.maximum(self.labels.final[row].min(), schedule_records.SMALLEST_LOSS))
        return np.clip(found - best, -schedule_records.LARGEST_REGRET, schedule_records.LARGEST_REGRET)

    def _slopes_of_labels(self) -> dict[int | str, float]:
        """By task: fall of the logarithm of the best loss per e-fold of steps."""
        best = np.log(np.maximum(self.labels.final.min(axis=1), schedule_records.SMALLEST_LOSS))
        slopes: dict[int | str, float] = {}
        for task in np.unique(self.labels.tasks):
            of = self.labels.tasks == task
            lengths = np.log(self.labels.lengths[of])
            if of.sum() > 1:
                slopes[int(task)] = float(np.clip(-np.polyfit(lengths, best[of], 1)[0], *SLOPES))
        return slopes

    def slope_of_task(self, row: int) -> float:
        """Of a task with labels; 1 if it has one length alone."""
        return self._slopes.get(int(self.labels.tasks[row]), 1.0)

    def slope_of_shape(self, number: int, schedulers: Any) -> float:
        """Of a shape without labels, under the first of the schedulers, mean over `SLOPE_DRAWS` tasks."""
        shapes = schedule_more_tasks.SHAPES
        label = shapes[(schedule_more_tasks.FIRST + number) % len(shapes)].label
        if label not in self._slopes:
            falls = []
            for draw in range(SLOPE_DRAWS):
                task = schedule_more_tasks.FIRST + number + draw * len(shapes)
                short, long = (float(self._logs(task, length, schedulers)[0]) for length in (300, 1000))
                falls.append((short - long) / np.log(1000 / 300))
            self._slopes[label] = float(np.clip(np.mean(falls), *SLOPES))
        return self._slopes[label]

    def next_plain(self, number: int) -> int:
        """The next number of a task without labels, of the same shape, whose inputs are plain."""
        shapes = schedule_more_tasks.SHAPES
        shape = shapes[(schedule_more_tasks.FIRST + number) % len(shapes)]
        family = self._trials_of(shape).family
        while schedule_tasks.Draw(schedule_more_tasks.FIRST + number, 0, family).described["inputs"] != "plain":
            number += len(shapes)
        return number

    def differences(self, number: int, length: int, schedulers: Any) -> Floats:
        """``log(final loss)`` of each scheduler less the mean of these, of a task without labels."""
        found = self._logs(schedule_more_tasks.FIRST + number, length, schedulers)
        return found - found.mean()


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
    if not path.exists():
        _save(path, theta, moments, iteration, mean)
    prior = jax.tree.map(lambda x: jnp.broadcast_to(x, (2 * options.pairs, *x.shape)), start)
    begun = time.monotonic()
    while time.monotonic() - begun < 60 * options.minutes:
        rng = np.random.default_rng([options.seed, iteration])
        # Short trainings more often, which cost less.
        share = bench.labels.lengths[bench.training] ** -0.5 * np.where(bench.is_plain, options.plain, 1.0)
        if options.by_kind:
            share = share / bench.of_kind
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


def shortened(config: SchedulerConfig, theta: Any, share: float) -> tuple[SchedulerConfig, Any]:
    """Config and theta whose logarithm of the multiplier is this share of what it was, but for the bounds."""
    network: Any = config.network
    factors: Any = share
    if isinstance(network, LinearIntegral):
        network = dataclasses.replace(network, rate=share * network.rate, limit=share * network.limit)
        factors = np.array([share, 1.0], np.float32)  # the second output is the integral's, of which rate and limit are
    step_size = jax.tree.map(lambda x: np.asarray(x * factors, np.float32), theta["step_size"])
    return dataclasses.replace(config, network=network), {**theta, "step_size": step_size}


def lines_of(log: Path) -> list[dict[str, Any]]:
    """Of a log.jsonl, one of each iteration."""
    return [json.loads(line) for line in log.read_text().splitlines()]


def spent(log: Path) -> dict[str, Any]:
    """Iterations and seconds of a run, from its log.jsonl."""
    lines = lines_of(log)
    times = [line["seconds"] for line in lines]
    # Seconds begin anew where the run went on.
    seconds = sum(now for now, after in zip(times, [*times[1:], 0.0], strict=True) if after < now)
    return {"iteration": lines[-1]["iteration"], "seconds": round(seconds, 1)}


def of_what_is_learned_here(options: argparse.Namespace) -> dict[str, Any]:
    """Provenance of an update rule that was set by hand and learned by this command alone."""
    shapes = (*schedule_tasks.SHAPES, *schedule_more_tasks.SHAPES)
    families = [shape.build(OFFLINE_DATASETS, None) for shape in shapes]
    logs = options.out.glob("**/log.jsonl")
    return {
        "commit": current_commit(),
        "networks": [describe_family(shape.family) for shape in shapes],
        "data": {"source": "as found on the machine", "sha256": data_digest([one.load() for one in families])},
        "seeds": sorted({line.get("seed", options.seed) for log in logs for line in lines_of(log)}),
        "cost": {},
        "hardware": hardware(),
        "versions": {"python": platform.python_version(), "jax": jax.__version__},
    }


def write(weights: celo_zoo.Pretrained, options: argparse.Namespace, start: Any) -> None:
    """Writes theta.npz, the mean of theta over iterations with the weights' update rule, and run.json."""
    _, unravel = jax.flatten_util.ravel_pytree(start)
    config = configs.from_json(SchedulerConfig, json.loads((options.out / "scheduler.json").read_text()))
    with np.load(options.out / "state.npz") as saved:
        scheduler, changes = jax.device_get(unravel(jnp.asarray(saved["mean"], jnp.float32)))
    if options.share != 1:
        config, scheduler = shortened(config, scheduler, options.share)
    architecture = Celo(dataclasses.replace(weights.config, scheduler=config))
    if options.weights == schedule_rule.HAND_SET:
        base = of_what_is_learned_here(options)
    else:
        base = json.loads(options.provenance.read_text()) if options.provenance else weights.document["provenance"]
    cost = {name: stage for name, stage in base["cost"].items() if not name.startswith("schedule")}
    # Folders within are of the runs that this one began with.
    for log in sorted(options.out.glob("**/log.jsonl")):
        name = "schedule" if log.parent == options.out else f"schedule_{log.parent.name}"
        cost[name] = spent(log)
    kept = [
        note for note in base.get("notes", []) if not note.startswith(("The schedule", "The evaluations", "Chosen"))
    ]
    run = {
        **base,
        **described(architecture),
        "command": options.command or "python tools/schedule_learning.py",
        "commits": {**base.get("commits", {}), "schedule": current_commit()},
        "cost": cost,
        "seconds": round(sum(stage["seconds"] for stage in cost.values()), 1),
        "notes": kept + options.note,
    }
    files.write_json(options.out / "run.json", run)
    rule = jax.device_get(schedule_rule.changed_rule(dict(weights.theta)["update_rule"], changes))
    theta = {"update_rule": rule, "scheduler": scheduler}
    checkpoints.save_theta(options.out / "theta.npz", theta, described(architecture))


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
        write(weights, options, start)
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
