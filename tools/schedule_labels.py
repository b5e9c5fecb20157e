"""Labels for learning a schedule: which height of its steps suits a learned optimizer best, on hundreds of small tasks.

    python tools/schedule_labels.py --out docs/results/schedule-labels
    python tools/schedule_labels.py --out docs/results/schedule-labels --minutes 30
    python tools/schedule_labels.py --out docs/results/schedule-labels --summary
    python tools/schedule_labels.py --out docs/results/schedule-labels --check

Every task (see schedule_tasks.py) is trained once per height: the optimizer's updates are multiplied by it, while
initialisation, batches and length are the same. A record has the final losses, the loss curves and, at `POINTS` moments of
each training, what the optimizer could have known then (`SIGNALS`). All heights of a task are trained at once.

The same command goes on where it was stopped, by --minutes or by a signal; it can be stopped at any time. It takes some 7 GB
of memory, for the compiled programs. --summary writes summary.md and summary.png of the records that there are (see
schedule_summary.py), and --check tries the signals on series for which they are known, and compares trainings at height 1
with `celo_core.meta_training.unroll.train`.
"""

import argparse
import dataclasses
import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import schedule_summary
import schedule_tasks
from numpy.typing import NDArray

import celo_zoo
from celo_core import files, get_architecture
from celo_core.meta_training.unroll import InnerProblem, train
from celo_core.progress import ProgressLine, format_seconds
from celo_tasks.evaluation import curves
from celo_tasks.meta_training.recipe_files import OFFLINE_DATASETS, PAPER_DATASETS
from celo_tasks.reporting.machine import hardware, versions

Array = jax.Array
Floats = NDArray[np.floating]

HEIGHTS = tuple(float(f"{2.0**k:.6g}") for k in np.arange(-4, 2.1, 0.5))
"""From 1/16 to 4 by factors of the square root of 2, so that 1 and 1/2 are among them."""

LENGTHS = (300, 1000, 3000)
LONG = 1000
WAVE = 64
"""Trainings longer than LONG wait until the tasks of two waves more have been trained at the lengths up to it."""

CHUNK = 50
"""Steps of the compiled program, and batches on which the trained networks are judged."""

CURVE_POINTS = 64
POINTS = 32
FRACTIONS = np.concatenate([np.geomspace(0.01, 0.3, POINTS // 2), np.linspace(0.3, 1.0, POINTS // 2 + 1)[1:]])
"""Shares of a training after which signals are recorded: first evenly in their logarithm, then evenly."""

WINDOWS = {"short": 30, "long": 6}
"""Windows over which signals are taken, up to the moment, in parts of the training's length."""

SIGNALS = (
    "rho_short",
    "rho_long",
    "cos_short",
    "cos_long",
    "hypergradient_short",
    "slope_short",
    "slope_long",
    "noise_short",
    "log_step_size",
    *(f"signal_{decay}_{what}" for decay in ("0.9", "0.99", "0.999") for what in ("mean", "min", "max")),
)
"""What a record has at each moment.

* rho: actual over predicted decrease. With the weights k of a least-squares slope, ``sum k (L_t - L_{t+1})`` over
  ``-sum k <g_t, u_t>``
* cos: mean cosine of the gradient with the step before it, over all parameters
* hypergradient: ``sum <g_{t+1}, u_t>`` over ``sum abs(<g_t, u_t>)``
* slope: least-squares slope of the loss times the window, over the standard deviation about that line
* noise: natural logarithm of that standard deviation over the mean loss
* log_step_size: natural logarithm of the norm of the step over that of the parameters, mean over the short window
* signal_b: share of signal in the gradients, by the momentum m of decay b and the factored second moments of the same decay,
  whose mean is v: per tensor ``(norm(m)^2 / sum v - nu) / (1 - nu)``, where nu is what pure noise gives, with bias
  corrections; mean, least and largest of the tensors, means over the short window
"""


class Trainings(NamedTuple):
    """Trainings at all heights: every leaf has a first axis of them."""

    params: Any
    model_state: Any
    opt_state: Any
    last_update: Any


class Step(NamedTuple):
    """What is kept of a step, float32 (): of gradient g, update u, parameters p and the update u' before."""

    loss: Any
    predicted: Any
    """-<g, u>"""
    overlap: Any
    """<g, u'>"""
    gradient: Any
    """Norm of g."""
    update: Any
    parameters: Any
    coherence: Any
    """(decays, 3): mean, least and largest over tensors of norm(m)^2 / sum v, without bias correction."""


def _dot(a: Any, b: Any) -> Array:
    return sum((jnp.sum(x * y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)), jnp.float32(0))


def _celo_state(opt_state: Any) -> Any:
    """The part of an optimizer's state that has momenta and factored second moments, ``None`` if there is none."""
    if hasattr(opt_state, "momentum") and hasattr(opt_state, "factored"):
        return opt_state
    parts = [_celo_state(part) for part in opt_state] if isinstance(opt_state, tuple) else []
    return next((part for part in parts if part is not None), None)


def _coherence(opt_state: Any, params: Any) -> Array:
    """`Step.coherence`."""
    state = _celo_state(opt_state)
    sizes = [np.size(p) for p in jax.tree.leaves(params)]
    rows = []
    for momentum, row in zip(state.momentum, state.factored.row, strict=True):
        squares = jnp.stack([jnp.sum(jnp.square(m)) for m in jax.tree.leaves(momentum)])
        # A row is a mean over an axis.
        sums = [jnp.sum(r) * (size / r.size) for r, size in zip(jax.tree.leaves(row), sizes, strict=True)]
        total = jnp.stack(sums)
        used = total > 1e-20  # those of no gradient at all have no direction
        ratio = squares / jnp.maximum(total, 1e-20)
        mean = jnp.sum(jnp.where(used, ratio, 0.0)) / jnp.maximum(jnp.sum(used), 1)
        rows.append([mean, jnp.min(jnp.where(used, ratio, jnp.inf)), jnp.max(jnp.where(used, ratio, -jnp.inf))])
    return jnp.stack([jnp.stack(row) for row in rows])


class Grid:
    """Trains the tasks of one shape at all heights, with programs that are compiled once.

    Args:
      weights: the learned optimizer.
      family: of the tasks.
      heights: factors on its updates.
    """

    def __init__(self, weights: celo_zoo.Pretrained, family: schedule_tasks.Varied, heights: Sequence[float]) -> None:
        architecture = get_architecture(weights.architecture, weights.config)
        self.family, self.heights = family, np.asarray(heights, np.float32)
        self.problem = InnerProblem(architecture, family)
        self.theta = jax.tree.map(jnp.asarray, dict(weights.theta))
        self.data = jax.tree.map(jnp.asarray, family.load())
        self.decays = tuple(getattr(weights.config, "momentum_decays", ()))
        # LLVM's first level compiles in half the time, and what it makes of such small networks is as fast.
        options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else {}
        self._begin = jax.jit(self._begin_all, compiler_options=options)
        self._run = jax.jit(self._run_chunk, compiler_options=options, donate_argnums=0)

    def _begin_all(self, key: Array, key_embed: Array, config: Any, data: Any, num_steps: Any) -> tuple[Any, Array]:
        trainee = self.problem.init(self.theta, key, config, num_steps)
        embedding = self.problem.embed(key_embed, trainee, config, data, num_steps)
        start = Trainings(*trainee, jax.tree.map(jnp.zeros_like, trainee.params))
        repeat = lambda x: jnp.broadcast_to(x, (len(self.heights), *jnp.shape(x)))
        return jax.tree.map(repeat, start), embedding

    def _run_chunk(
        self, state: Trainings, heights: Array, keys: Array, config: Any, data: Any, num_steps: Any, embedding: Any
    ) -> tuple[Trainings, Step]:
        extra = {"task_embedding": embedding} if self.problem.needs_embedding else {}
        optimizer = self.problem.architecture.build(self.theta, num_steps, **extra)

        def step(state: Trainings, height: Array, key: Array, batch: Any) -> tuple[Trainings, Step]:
            loss_function = lambda p: self.family.loss(p, state.model_state, key, config, batch)
            (loss, model_state), gradients = jax.value_and_grad(loss_function, has_aux=True)(state.params)
            updates, opt_state = optimizer.update(gradients, state.opt_state, state.params, value=loss)
            updates = jax.tree.map(lambda u: height * u, updates)
            seen = Step(
                loss,
                -_dot(gradients, updates),
                _dot(gradients, state.last_update),
                optax.tree.norm(gradients),
                optax.tree.norm(updates),
                optax.tree.norm(state.params),
                _coherence(opt_state, state.params),
            )
            return Trainings(optax.apply_updates(state.params, updates), model_state, opt_state, updates), seen

        def body(state: Trainings, key: Array) -> tuple[Trainings, Step]:
            key_batch, key_loss = jax.random.split(key)
            batch = self.family.batch(key_batch, config, data)
            return jax.vmap(step, in_axes=(0, 0, None, None))(state, heights, key_loss, batch)

        return jax.lax.scan(body, state, keys)

    def train(self, draw: schedule_tasks.Draw, num_steps: int) -> tuple[Step, Floats, Floats]:
        """Trains a task at all heights, with the keys of `celo_core.meta_training.unroll.train`.

        Returns:
          The steps, each leaf (steps, heights, ...); the trained networks' losses on `CHUNK` further batches, (CHUNK,
          heights); and the task's embedding.
        """
        config = self.family.config(draw)
        key_init, key_steps = jax.random.split(jax.random.key(draw.seed))
        key_embed = jax.random.fold_in(key_steps, num_steps)
        steps = jnp.int32(num_steps)
        state, embedding = self._begin(key_init, key_embed, config, self.data, steps)
        keys = jax.random.split(key_steps, num_steps)
        missing = -num_steps % CHUNK
        keys = jnp.concatenate([keys, jax.random.split(jax.random.fold_in(key_steps, 2**31 - 1), missing + CHUNK)])
        seen = []
        for first in range(0, len(keys), CHUNK):
            heights = self.heights
            if first >= num_steps:
                # Trained at height 0, that is not at all; in large batches, but where these are normalised by their own.
                heights = np.zeros_like(heights)
                if state.model_state is None:
                    config["knobs"]["batch_size"] = np.int32(self.family.batch_size)
            arguments = (heights, keys[first : first + CHUNK], config, self.data, steps, embedding)
            state, part = self._run(state, *arguments)
            seen.append(jax.device_get(part))
        whole = jax.tree.map(lambda *parts: np.concatenate(parts), *seen)
        return jax.tree.map(lambda x: x[:num_steps], whole), whole.loss[-CHUNK:], np.asarray(embedding)


def _slopes(values: Floats) -> tuple[Floats, Floats]:
    """Least-squares slopes along the first axis, and the standard deviations about the lines."""
    steps = np.arange(len(values), dtype=np.float64)
    steps = (steps - steps.mean())[:, None]
    slope = np.sum(steps * values, axis=0) / np.sum(steps**2)
    rest = values - values.mean(axis=0) - steps * slope
    return slope, np.sqrt(np.sum(rest**2, axis=0) / max(len(values) - 2, 1))


def _parabola(count: int) -> Floats:
    """Weights k by which the slope of ``count`` values is ``sum k (L_{t+1} - L_t)``; (count - 1, 1)."""
    steps = np.arange(count, dtype=np.float64)
    steps -= steps.mean()
    return (-np.cumsum(steps)[:-1] / np.sum(steps**2))[:, None]


def signals(steps: Step, decays: Sequence[float]) -> Floats:
    """What can be known at each moment, float64 (signals, heights, moments).

    Args:
      steps: of a training, (steps, heights, ...).
      decays: of the momenta.
    """
    count = len(steps.loss)
    steps = jax.tree.map(lambda x: np.nan_to_num(np.asarray(x, np.float64), posinf=1e30, neginf=-1e30), steps)
    tiny = 1e-30
    cosine = steps.overlap[1:] / (steps.gradient[1:] * steps.update[:-1] + tiny)
    log_size = np.log((steps.update + tiny) / (steps.parameters + tiny))
    powers = np.asarray(decays)[None, None, :, None] ** (np.arange(count) + 1.0)[:, None, None, None]
    decay = np.asarray(decays)[None, None, :, None]
    noise = (1 - decay) * (1 + powers) / ((1 + decay) * (1 - powers))
    share = (steps.coherence / (1 - powers) - noise) / np.maximum(1 - noise, tiny)
    share[0] = 0.0  # one gradient does not tell signal from noise
    result = np.empty((len(SIGNALS), steps.loss.shape[1], POINTS))
    for point, end in enumerate(moments(count)):
        values: dict[str, Floats] = {}
        for name, parts in WINDOWS.items():
            window = slice(max(0, end - max(4, count // parts)), end)
            loss = steps.loss[window]
            slope, deviation = _slopes(loss)
            predicted = np.sum(_parabola(len(loss)) * steps.predicted[window][:-1], axis=0)
            values[f"rho_{name}"] = -slope / np.where(np.abs(predicted) > tiny, predicted, tiny)
            values[f"cos_{name}"] = cosine[window.start : end - 1].mean(axis=0)
            values[f"slope_{name}"] = slope * len(loss) / (deviation + tiny)
            if name == "short":
                overlap = np.sum(steps.overlap[window][1:], axis=0)
                values["hypergradient_short"] = overlap / (np.sum(np.abs(steps.predicted[window][:-1]), axis=0) + tiny)
                values["noise_short"] = np.log((deviation + tiny) / (np.abs(loss.mean(axis=0)) + tiny))
                values["log_step_size"] = log_size[window].mean(axis=0)
                shares = share[window].mean(axis=0).reshape(loss.shape[1], -1)
                names = [signal for signal in SIGNALS if signal.startswith("signal_")]
                values |= dict(zip(names, shares.T, strict=True))
        result[:, :, point] = [values[name] for name in SIGNALS]
    return result


def moments(count: int) -> NDArray[np.int64]:
    """Numbers of steps after which signals are recorded, (POINTS,)."""
    return np.clip(np.round(FRACTIONS * count), min(4, count), count).astype(np.int64)


def _compact(values: Floats, bits: int = 4, quantum: float = 2e-4) -> NDArray[np.float16]:
    """As float16, to multiples of ``quantum`` and with so many bits after the leading one, which compresses well.

    Numbers that are not finite become the largest.
    """
    values = quantum * np.round(np.clip(np.nan_to_num(values, nan=6e4, posinf=6e4, neginf=-6e4), -6e4, 6e4) / quantum)
    halves = values.astype(np.float16)
    cut = 10 - bits
    raw = halves.view(np.uint16).astype(np.uint32) + (1 << (cut - 1))
    rounded = (raw & ~np.uint32((1 << cut) - 1)).astype(np.uint16).view(np.float16)
    return np.where(np.isfinite(rounded), rounded, halves)


def record(
    steps: Step, settled: Floats, embedding: Floats, decays: Sequence[float], limit: tuple[float, float]
) -> dict[str, Any]:
    """What is kept of a task at one length, as arrays.

    Args:
      steps: see `Grid.train`.
      settled: see `Grid.train`.
      embedding: of the task.
      decays: of the momenta.
      limit: what losses are divided by, and above which they are cut off then.
    """
    unit, most = limit
    clip = lambda x: np.clip(np.nan_to_num(x / unit, nan=most, posinf=most, neginf=most), 0.0, most)
    losses = clip(np.asarray(steps.loss, np.float64))
    parts = np.array_split(losses, min(CURVE_POINTS, len(losses)))
    curve = np.stack([part.mean(axis=0) for part in parts], axis=1)
    return {
        "final_loss": curves.final_loss(losses.T).astype(np.float32),
        "settled_loss": clip(np.asarray(settled, np.float64)).mean(axis=0).astype(np.float32),
        "log_curve": _compact(np.log(np.maximum(curve, 1e-8)), 8),
        "signals": _compact(signals(steps, decays)),
        "embedding": embedding.astype(np.float32),
    }


def _task_file(out: Path, task: int) -> Path:
    return out / "records" / f"task-{task:04d}.npz"


def read_task(path: Path) -> dict[int, dict[str, Any]]:
    """The records of a task by length; none where there is no file, or a damaged one."""
    if not path.exists():
        return {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            found: dict[int, dict[str, Any]] = {}
            for name in archive.files:
                length, part = name.split(".")
                found.setdefault(int(length), {})[part] = archive[name]
    except (OSError, ValueError, KeyError, EOFError):
        return {}
    return found


def _write_task(path: Path, records: dict[int, dict[str, Any]]) -> None:
    arrays = {f"{length}.{name}": array for length, parts in records.items() for name, array in parts.items()}
    with files.written_atomically(path) as file:
        np.savez_compressed(file, **arrays)


@dataclasses.dataclass
class Index:
    """The file index.json: settings, the machine, and what each task is and has cost.

    Attributes:
      out: folder.
      settings: what all records have in common.
      tasks: by number.
    """

    out: Path
    settings: dict[str, Any]
    tasks: dict[str, Any]

    @classmethod
    def open(cls, out: Path, settings: dict[str, Any]) -> "Index":
        """That of a folder, or a new one.

        Raises:
          ValueError: the folder's records are of other settings.
        """
        path = out / "index.json"
        if not path.exists():
            return cls(out, settings, {})
        found = json.loads(path.read_text())
        for name, value in settings.items():
            if found["settings"].get(name) != value:
                raise ValueError(f"the records in {out} are of other {name}: choose another folder with --out.")
        return cls(out, settings, found["tasks"])

    def add(self, task: int, described: dict[str, Any], length: int, seconds: float) -> None:
        """Takes in a finished training and writes the file."""
        entry = self.tasks.setdefault(str(task), {**described, "seconds": {}})
        entry["seconds"][str(length)] = float(f"{seconds:.3g}")
        self.tasks = dict(sorted(self.tasks.items(), key=lambda item: int(item[0])))
        kind = {"hardware": hardware(), "versions": versions()}
        files.write_json(self.out / "index.json", {"settings": self.settings, **kind, "tasks": self.tasks})


class _Stop:
    """Whether a signal has asked for an end; a second one ends at once."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        del frame
        if self.asked:
            raise SystemExit(128 + number)
        self.asked = True
        print("stopping after this training", file=sys.stderr, flush=True)


def _plan(tasks: int, lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Pairs of task and length, in the order in which they are trained."""
    pairs = [(task, length) for task in range(tasks) for length in lengths]
    yield from sorted(pairs, key=lambda pair: (pair[0] // WAVE + 1.5 * (pair[1] > LONG), pair[0], pair[1]))


def run(options: argparse.Namespace, weights: celo_zoo.Pretrained) -> None:
    """Trains what is missing, until the time is up or a signal comes."""
    datasets = _datasets(options)
    settings = {
        "weights": weights.reference.split("/")[-1],
        "fingerprint": weights.fingerprint,
        "seed": options.seed,
        "heights": list(options.heights),
        "datasets": list(datasets),
        "signals": list(SIGNALS),
        "fractions": [float(f"{x:.6g}") for x in FRACTIONS],
        "windows": {name: f"1/{parts}" for name, parts in WINDOWS.items()},
    }
    index, stop, progress, start = Index.open(options.out, settings), _Stop(), ProgressLine(), time.monotonic()
    grids: dict[str, Grid] = {}
    rates: dict[str, float] = {}
    plan = list(_plan(options.tasks, options.lengths))
    pairs = {(int(task), int(n)) for task, entry in index.tasks.items() for n in entry["seconds"]}
    kept = {pair for pair in pairs if pair[1] in read_task(_task_file(options.out, pair[0]))}
    for task, length in kept:
        entry = index.tasks[str(task)]
        _learn(rates, entry["shape"], entry["seconds"][str(length)] / length)
    missing = [pair for pair in plan if pair not in kept]
    for number, (task, length) in enumerate(missing):
        if stop.asked or (options.minutes is not None and time.monotonic() - start > 60 * options.minutes):
            break
        shape = schedule_tasks.shape_of(task)
        begun = time.monotonic()
        if shape.label not in grids:
            grids[shape.label] = Grid(weights, shape.build(datasets, options.data_dir), options.heights)
        grid = grids[shape.label]
        draw = schedule_tasks.Draw(task, options.seed, grid.family)
        steps, settled, embedding = grid.train(draw, length)
        new = record(steps, settled, embedding, grid.decays, grid.family.limit(draw))
        path = _task_file(options.out, task)
        _write_task(path, {**read_task(path), length: new})
        seconds = time.monotonic() - begun
        described = {"shape": shape.label, "family": shape.family, **draw.described, "seed": draw.seed}
        described["parameters"] = round(float(np.expm1(4.0 * embedding[0] + 10.0)))
        index.add(task, described, length, seconds)
        _learn(rates, shape.label, seconds / length)
        usual = float(np.median(list(rates.values())))
        left = sum(n * rates.get(schedule_tasks.shape_of(t).label, usual) for t, n in missing[number + 1 :])
        text = f"{len(kept) + number + 1}/{len(plan)} trainings: task {task}, {shape.label}, {length} steps, "
        best = options.heights[int(np.argmin(new["final_loss"]))]
        progress.show(text + f"best height {best:.2g}, {seconds:.1f} s, {format_seconds(left)} left")
    done = sum(len(entry["seconds"]) for entry in index.tasks.values())
    progress.show(f"{done} trainings at {len(options.heights)} heights in {options.out}", last=True)


def _learn(rates: dict[str, float], label: str, rate: float) -> None:
    """Takes in the seconds per step of a training; the least counts, which has no compilation in it."""
    rates[label] = min(rate, rates.get(label, rate))


def check_signals() -> None:
    """Signals of losses that fall just as predicted, and of gradients that are nothing but noise.

    Raises:
      ValueError: they are not what they must be.
    """
    count, rng = 3000, np.random.default_rng(0)
    predicted = rng.uniform(0.5, 1.5, (count, 1)) / np.arange(1, count + 1)[:, None]
    loss = 100.0 - np.concatenate([np.zeros((1, 1)), np.cumsum(predicted, axis=0)[:-1]])
    decays, size = (0.9, 0.99, 0.999), 200
    momenta, squares, coherence = np.zeros((3, size)), np.zeros(3), np.zeros((count, 1, 3, 3))
    decay = np.array(decays)
    for step in range(count):
        gradient = rng.standard_normal(size)
        momenta = decay[:, None] * momenta + (1 - decay[:, None]) * gradient
        squares = decay * squares + (1 - decay) * np.sum(gradient**2)
        coherence[step] = (np.sum(momenta**2, axis=1) / squares)[:, None]
    ones = np.ones((count, 1))
    found = dict(zip(SIGNALS, signals(Step(loss, predicted, -ones, ones, ones, ones, coherence), decays), strict=True))
    for name, value, error in (
        ("rho_short", 1.0, 1e-6),
        ("rho_long", 1.0, 1e-6),
        ("cos_long", -1.0, 1e-6),
        ("signal_0.9_mean", 0.0, 0.05),
        ("signal_0.999_max", 0.0, 0.05),
    ):
        worst = float(np.max(np.abs(found[name] - value)))
        print(f"{name}: {value:g} within {worst:.1g}")
        if not worst < error:
            raise ValueError(f"{name} is off by {worst:.2g} where it must be {value:g}.")


def check(options: argparse.Namespace, weights: celo_zoo.Pretrained, steps: int = 60) -> None:
    """Compares the beginning of a training at height 1 with the unmodified optimizer's, for some shapes.

    Raises:
      ValueError: they differ, or `check_signals`.
    """
    check_signals()
    for task in range(0, len(schedule_tasks.SHAPES), 4):
        shape = schedule_tasks.shape_of(task)
        grid = Grid(weights, shape.build(_datasets(options), options.data_dir), (0.5, 1.0))
        draw = schedule_tasks.Draw(task, options.seed, grid.family)
        losses = grid.train(draw, steps)[0].loss[:, 1]
        config = grid.family.config(draw)
        plain = dataclasses.replace(grid.problem, family=_Raw(grid.family))
        run_plain = lambda key, p, theta, c, d: train(p, theta, key, c, d, steps)[1]
        arguments = (jax.random.key(draw.seed), plain, grid.theta, config, grid.data)
        expected = jax.jit(run_plain, static_argnums=1)(*arguments)
        # Sums in another order; the difference grows along a training.
        error = float(np.max(np.abs(losses - expected) / (np.abs(expected) + 1e-6)))
        print(f"{shape.label}: {steps} losses at height 1 are the unmodified optimizer's within {error:.1g}")
        if not error < 0.01:
            raise ValueError(f"height 1 trains {shape.label} otherwise than the unmodified optimizer does.")


class _Raw:
    """A family whose normalised loss is the loss."""

    def __init__(self, family: Any) -> None:
        self._family = family

    def __getattr__(self, name: str) -> Any:
        return getattr(self._family, name)

    def normalizer(self, loss: Array) -> Array:
        """The loss itself."""
        return loss


def _datasets(options: argparse.Namespace) -> tuple[str, ...]:
    return OFFLINE_DATASETS if options.data_dir is None else PAPER_DATASETS


def _floats(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _integers(text: str) -> tuple[int, ...]:
    return tuple(sorted({int(part) for part in text.split(",")}))


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the records")
    parser.add_argument("--tasks", type=int, default=256, help="number of tasks (256)")
    parser.add_argument("--lengths", type=_integers, default=LENGTHS, help="steps of the trainings (300,1000,3000)")
    parser.add_argument("--heights", type=_floats, default=HEIGHTS, help="factors on the updates (13 from 1/16 to 4)")
    parser.add_argument("--weights", default="celo", metavar="REF", help="a Celo, as for celo_zoo.load (celo)")
    parser.add_argument("--data-dir", help="folder with the paper's four image sets (the two in the package)")
    parser.add_argument("--minutes", type=float, help="time after which no further training begins")
    parser.add_argument("--seed", type=int, default=0, help="of the tasks (0)")
    parser.add_argument("--summary", action="store_true", help="sum up the records that there are")
    parser.add_argument("--check", action="store_true", help="compare height 1 with the unmodified optimizer")
    options = parser.parse_args()
    try:
        if options.summary:
            print(schedule_summary.write(options.out))
            return 0
        if min(options.lengths) < 20 or min(options.heights) <= 0 or options.tasks < 1:
            raise ValueError("there must be a task, heights above 0 and lengths of at least 20 steps.")
        weights = celo_zoo.load(options.weights)
        if weights.architecture != "celo":
            raise ValueError(f"{options.weights} is not a Celo, whose momenta are read: give the weights of one.")
        (check if options.check else run)(options, weights)
    except (OSError, ValueError, KeyError) as error:
        print(f"schedule_labels: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
