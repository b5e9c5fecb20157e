"""Trains the tasks that schedule_learning.py learns from under several schedulers at once, and compares their final losses."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import schedule_more_tasks
import schedule_records
import schedule_rule
import schedule_tasks
from numpy.typing import NDArray
from schedule_training import CHUNK

from celo_core import Celo
from celo_core.meta_training.unroll import InnerProblem, Trainee, training_step
from celo_core.schedulers import SchedulerConfig
from celo_tasks.evaluation import curves
from celo_tasks.meta_training.recipe_files import OFFLINE_DATASETS

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
