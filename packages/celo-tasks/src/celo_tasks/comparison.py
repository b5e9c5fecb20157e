"""Trains the same network under several optimizers, side by side."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from celo_core import TaskFamily
from celo_core.progress import ProgressLine, format_seconds
from celo_tasks.baselines import Contestant
from celo_tasks.evaluation import curves
from celo_tasks.evaluation.program import Trainee, initial, split_seed, training_step

Array = jax.Array

LARGEST_CHUNK = 50
"""Steps in one XLA program at most: what passes between two reports of progress."""


@runtime_checkable
class HeldOut(Protocol):
    """What a `celo_core.TaskFamily` has beside its protocol where its networks can be judged on data not trained on."""

    def load_held_out(self) -> Any:
        """All held-out data as one batch, on the host."""
        ...

    def metrics(self, params: Any, model_state: Any, config: Any, batch: Any) -> dict[str, Array]:
        """Scalars such as ``"loss"`` and ``"accuracy"`` on a batch; can be traced."""
        ...


@dataclasses.dataclass(frozen=True)
class Candidate:
    """What an optimizer did at one learning rate.

    Attributes:
      learning_rate: the learning rate, ``None`` if it has none.
      losses: normalised training losses, float32 (seeds, steps): each before the step of that index.
      held_out: metrics of the trained network on held-out data, per seed: empty ones where the family has no such data.
    """

    learning_rate: float | None
    losses: NDArray[np.float32]
    held_out: tuple[dict[str, float], ...]

    @property
    def final_loss(self) -> float:
        """Mean training loss of the last 5 % of steps, over all seeds."""
        return float(curves.final_loss(self.losses).mean())

    def held_out_mean(self, metric: str) -> float | None:
        """Mean of a metric over seeds, ``None`` where it was not measured."""
        values = [metrics[metric] for metrics in self.held_out if metric in metrics]
        return float(np.mean(values)) if values else None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What an optimizer did on a task.

    Attributes:
      contestant: the optimizer.
      candidates: one per learning rate, in the contestant's order.
      seconds_per_step: medians over the timed chunks of steps, ``None`` for a training too short to be timed.
    """

    contestant: Contestant
    candidates: tuple[Candidate, ...]
    seconds_per_step: float | None

    @property
    def best(self) -> Candidate:
        """The candidate of lowest final loss."""
        return min(self.candidates, key=lambda candidate: candidate.final_loss)

    @property
    def at_edge(self) -> bool:
        """Whether the best learning rate is the smallest or largest of several: the true best may lie outside."""
        rates = self.contestant.learning_rates
        return len(rates) > 1 and self.best.learning_rate in (min(rates), max(rates))

    def smoothed(self) -> curves.Curve:
        """Smoothed curves, means over seeds, (candidates, steps)."""
        return np.stack([curves.smooth(candidate.losses).mean(axis=0) for candidate in self.candidates])

    def best_curve(self) -> curves.Curve:
        """The smoothed curve of the best candidate, (steps,)."""
        return self.smoothed()[self.candidates.index(self.best)]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """All outcomes on a task.

    Attributes:
      task: name of the task.
      num_parameters: of the network.
      num_steps: of every training.
      outcomes: one per contestant.
    """

    task: str
    num_parameters: int
    num_steps: int
    outcomes: tuple[Outcome, ...]

    def outcome(self, name: str) -> Outcome | None:
        """The outcome of a contestant, ``None`` if it did not take part."""
        return next((one for one in self.outcomes if one.contestant.name == name), None)

    def speedup(self, name: str, baseline: str = "adam") -> curves.Speedup | None:
        """Speed-up of a contestant over a tuned baseline; ``None`` for the baseline itself, or where one is missing."""
        reference, outcome = self.outcome(baseline), self.outcome(name)
        if reference is None or outcome is None or name == baseline:
            return None
        # The same smoothing on both sides: a smoothed curve lags behind its losses.
        return curves.speedup(curves.envelope(reference.smoothed()), float(outcome.best_curve()[-1]), self.num_steps)


class _Program:
    """A contestant's training on a family: one XLA program for all learning rates and seeds."""

    def __init__(self, family: TaskFamily, contestant: Contestant, num_steps: int) -> None:
        self._family = family
        self._build = lambda learning_rate: contestant.build(learning_rate, num_steps)
        self.init = jax.jit(lambda params, learning_rate: self._build(learning_rate).init(params))
        self.advance = jax.jit(self._advance, static_argnames="length")

    def _advance(
        self, trainee: Trainee, key: Array, learning_rate: Array, data: Any, start: Array, length: int
    ) -> tuple[Trainee, Array]:
        """Takes ``length`` steps from step ``start`` on; returns the new trainee and the losses (length,)."""
        key_config, _, key_steps = split_seed(key)
        config = self._family.sample(key_config)
        optimizer = self._build(learning_rate)

        def body(trainee: Trainee, step: Array) -> tuple[Trainee, Array]:
            trainee, loss = training_step(self._family, config, optimizer, trainee, key_steps, step, data)
            return trainee, self._family.normalizer(loss).astype(jnp.float32)

        return jax.lax.scan(body, trainee, start + jnp.arange(length))


class _Run:
    """One network in training."""

    def __init__(self, program: _Program, learning_rate: float | None, seed: int, network: Any) -> None:
        self.learning_rate, self.seed = learning_rate, seed
        self.losses: list[NDArray[np.float32]] = []
        self._program = program
        self._key = jax.random.key(seed)
        self._rate = jnp.float32(0.0 if learning_rate is None else learning_rate)
        params, model_state = network
        self.trainee = Trainee(params, model_state, program.init(params, self._rate))

    def advance(self, data: Any, start: int, length: int) -> float:
        """Takes ``length`` steps; returns the seconds that they took."""
        begin = time.perf_counter()
        first = jnp.int32(start)
        self.trainee, losses = self._program.advance(self.trainee, self._key, self._rate, data, first, length)
        self.losses.append(np.asarray(losses))
        return time.perf_counter() - begin


def compare(
    family: TaskFamily,
    contestants: Sequence[Contestant],
    *,
    num_steps: int,
    seeds: int = 1,
    progress: ProgressLine | None = None,
    task: str | None = None,
) -> Comparison:
    """Trains the family's network under every contestant, at every learning rate, from every seed.

    The runs advance in turn, a chunk of steps each, so that whatever else the machine does slows all of them alike and
    their times per step can be compared. Learning rates are not batched: on a CPU one after the other is faster.
    All runs of a seed share the initial parameters and the batches.

    Args:
      family: the task. Its data are put on the device once.
      contestants: the optimizers.
      num_steps: length of every training.
      seeds: number of seeds, 0, 1, ...
      progress: where progress is shown.
      task: the task's name in progress and results; by default the family's.

    Returns:
      Every curve and every time. A loss that is not finite counts as the family's normalizer says.

    Raises:
      ValueError: there is nothing to run.
    """
    if num_steps < 1 or seeds < 1 or not contestants:
        raise ValueError("a comparison needs at least one optimizer, one step and one seed.")
    data = jax.device_put(family.load())
    start = jax.jit(lambda key: initial(family, key))
    networks = [start(jax.random.key(seed)) for seed in range(seeds)]
    runs: dict[str, list[_Run]] = {}
    for contestant in contestants:
        program = _Program(family, contestant, num_steps)
        rates = contestant.learning_rates or (None,)
        runs[contestant.name] = [
            _Run(program, rate, seed, network) for rate in rates for seed, network in enumerate(networks)
        ]
    seconds = _train(runs, data, num_steps, progress or ProgressLine(), task or family.name)
    del data
    judge, params = _judge(family), jax.tree.leaves(networks[0][0])
    return Comparison(
        task or family.name,
        sum(leaf.size for leaf in params),
        num_steps,
        tuple(_outcome(one, runs[one.name], seconds[one.name], judge) for one in contestants),
    )


def _train(
    runs: dict[str, list[_Run]], data: Any, num_steps: int, progress: ProgressLine, label: str
) -> dict[str, float | None]:
    """Takes every run to its end; returns the median seconds per step by contestant."""
    # Four chunks at least, since the first is not timed.
    chunk = min(LARGEST_CHUNK, max(1, num_steps // 4))
    times: dict[str, list[float]] = {name: [] for name in runs}
    begin = None
    for start in range(0, num_steps, chunk):
        length = min(chunk, num_steps - start)
        for name, group in runs.items():
            if start == 0:
                progress.show(f"{label} | compiling {name}")
            for run in group:
                elapsed = run.advance(data, start, length)
                # The first chunk, and a last one of another length, include a compilation.
                if start > 0 and length == chunk:
                    times[name].append(elapsed / length)
        if begin is None:
            begin, first = time.monotonic(), start + length
            remaining = None
        else:
            remaining = (time.monotonic() - begin) / (start + length - first) * (num_steps - start - length)
        done = start + length
        progress.show(_progress_text(label, runs, done, num_steps, remaining), last=done == num_steps)
    return {name: float(np.median(values)) if values else None for name, values in times.items()}


def _progress_text(label: str, runs: dict[str, list[_Run]], done: int, num_steps: int, remaining: float | None) -> str:
    parts = [f"{label} {done}/{num_steps} steps"]
    for name, group in runs.items():
        best = min(group, key=lambda run: float(run.losses[-1].mean()))
        rate = "" if best.learning_rate is None else f" ({best.learning_rate:g})"
        parts.append(f"{name} {best.losses[-1].mean():.4g}{rate}")
    if remaining:
        parts.append(f"{format_seconds(remaining)} left")
    return " | ".join(parts)


def _outcome(
    contestant: Contestant, runs: Sequence[_Run], seconds: float | None, judge: Callable[[_Run], dict[str, float]]
) -> Outcome:
    candidates = []
    for rate in contestant.learning_rates or (None,):
        group = [run for run in runs if run.learning_rate == rate]
        losses = np.stack([np.concatenate(run.losses) for run in group])
        candidates.append(Candidate(rate, losses, tuple(judge(run) for run in group)))
    return Outcome(contestant, tuple(candidates), seconds)


def _judge(family: TaskFamily) -> Callable[[_Run], dict[str, float]]:
    """A function that judges a trained network on the family's held-out data; of nothing where it has none."""
    if not isinstance(family, HeldOut):
        return lambda run: {}
    batch, metrics = jax.device_put(family.load_held_out()), jax.jit(family.metrics)

    def judge(run: _Run) -> dict[str, float]:
        config = family.sample(split_seed(jax.random.key(run.seed))[0])
        values = metrics(run.trainee.params, run.trainee.model_state, config, batch)
        return {name: float(value) for name, value in values.items()}

    return judge
