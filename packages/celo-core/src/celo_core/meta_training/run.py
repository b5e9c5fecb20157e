"""Runs a phase of meta-training, which can be stopped and resumed: checkpoints, logs, progress, and divergence."""

import dataclasses
import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from celo_core import checks, configs, files
from celo_core.meta_training import checkpoints
from celo_core.meta_training.divergence import Health
from celo_core.meta_training.trainer import MetaTrainer, MetaTrainState
from celo_core.progress import ProgressLine, format_seconds
from celo_core.protocols import LearnedOptimizer, TaskFamily, Theta

FORMAT = 3
"""Version of the format of runs' checkpoints that is written and read."""

ON_DIVERGENCE = ("report", "stop", "rollback")

MOST_RETRIES = 5
"""Maximum number of rollbacks of one run, after which it stops."""

GOOD_EVERY = 200
"""Iterations between the states that a run may be rolled back to. (By iterations, not by time, so that a run that was
killed and resumed rolls back to the same state.)"""


@dataclasses.dataclass(frozen=True)
class RunStatus:
    """Progress of a run, for the monitoring callback ``watch`` of `run_phase`.

    Attributes:
      state: of the trainer.
      iteration: meta-iterations done.
      seconds: of run time so far, all resumed runs included.
      metrics: of the last block, arrays by name (see `MetaTrainer.run`).
      last: whether the run ends or stops here.
      stopped: whether it stops because ``stop`` returned true: ``watch`` should then return quickly.
    """

    state: MetaTrainState
    iteration: int
    seconds: float
    metrics: Mapping[str, np.ndarray]
    last: bool
    stopped: bool = False


def run_phase(
    trainer: MetaTrainer,
    folder: str | os.PathLike[str],
    *,
    theta: Theta | None = None,
    minutes: float | None = None,
    checkpoint_seconds: float = 60.0,
    metadata: Mapping[str, Any] | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: ProgressLine | None = None,
    on_divergence: str = "report",
    watch: Callable[[RunStatus], bool | None] = lambda status: None,
) -> MetaTrainState:
    """Runs a phase to its end, or until time is up, resuming from ``folder/checkpoint.npz`` if there is one.

    Writes ``folder/checkpoint.npz`` atomically, ``folder/log.jsonl``, one line per block of iterations, and
    ``folder/events.jsonl``, a line for each divergence. With several processes the first one writes, and all read: the
    folder must be one that they share. A checkpoint that cannot be written in the middle of a run is reported and tried
    again later.

    Args:
      trainer: the phase.
      folder: where its files are.
      theta: initial trainable theta of a new run; random by default.
      minutes: stop (with a checkpoint) after this long.
      checkpoint_seconds: time between checkpoints.
      metadata: what identifies the run; a checkpoint with other metadata raises an error.
      stop: called once after every block, before anything else is done with it; if it returns true, the run stops with a
        checkpoint.
      progress: where progress is shown.
      on_divergence: ``"report"`` it, ``"stop"`` with an error, or ``"rollback"`` to the last state that was close to the
        best, with other random numbers and half the step size, at most `MOST_RETRIES` times.
      watch: monitoring callback, called after every block, in every process; if it returns true, as a slow one may, the run
        stops with a checkpoint. (Not with several processes, which stop together: they call ``stop`` after the next block.)

    Raises:
      ValueError: the checkpoint belongs to a run with other settings or of another version, or is damaged.
      OSError: the folder cannot be written to, or has no room for two checkpoints: raised before anything is compiled.
      FloatingPointError: the run diverged and was to stop, or had been rolled back too often, or was to continue but its
        state is not finite, so that it cannot recover. The last checkpoint is from before the divergence.
    """
    checks.check_choice("on_divergence", on_divergence, ON_DIVERGENCE)
    run = _Run(trainer, pathlib.Path(folder), metadata or {}, progress or ProgressLine())
    state = run.start(theta)
    begin = last_save = time.monotonic()
    first_done, first_seconds = run.done, run.seconds
    measured_from: tuple[float, int] | None = None
    if on_divergence == "rollback" and not run.good.exists():
        run.save(run.good, state)
    while run.done < trainer.config.iterations:
        limit, truncation = trainer.segment(run.done)
        size = min(trainer.config.block, limit)
        state, metrics = trainer.run(state, size, truncation)
        run.done += size
        stopped = stop()
        now = time.monotonic()
        run.seconds = first_seconds + now - begin
        # The first block compiles: the rate is measured from its end.
        rate = (run.done - measured_from[1]) / (now - measured_from[0]) if measured_from else None
        measured_from = measured_from or (now, run.done)
        run.log(metrics)
        run.show(metrics, rate)
        wrong = run.health.observe(metrics)
        if wrong:
            state = run.diverged(state, wrong, on_divergence)
        elif on_divergence == "rollback" and run.done % GOOD_EVERY < size and run.health.good:
            run.save(run.good, state)
        out_of_time = minutes is not None and now - begin >= 60 * minutes
        finish, save, stopped = _agreed(
            run.done >= trainer.config.iterations or out_of_time or stopped,
            now - last_save >= checkpoint_seconds,
            stopped,
        )
        if finish or save:
            run.save(run.checkpoint, state, must=finish)
            last_save = time.monotonic()
        before_watch = time.monotonic()
        enough = watch(RunStatus(state, run.done, run.seconds, metrics, finish, stopped))
        if enough and not finish and jax.process_count() == 1:
            run.save(run.checkpoint, state)
            finish = True
        if finish:
            break
        # The time that ``watch`` takes (for validation, say) counts neither as the run's time nor in its rate.
        watched = time.monotonic() - before_watch
        first_seconds -= watched
        measured_from = (measured_from[0] + watched, measured_from[1])
    if run.done > first_done:
        run.say(
            f"{run.done} of {trainer.config.iterations} meta-iterations, {format_seconds(run.seconds)}; {run.checkpoint}"
        )
    return state


def checkpoint_theta(path: str | os.PathLike[str], architecture: LearnedOptimizer) -> Theta:
    """The theta in a phase's ``checkpoint.npz``, possibly in the middle of the phase, independently of its problems.

    Args:
      path: the checkpoint.
      architecture: what is trained in the phase.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is damaged, of another format, or of another architecture.
    """
    if (found := checkpoints.load_metadata(path).get("format")) != FORMAT:
        raise ValueError(
            f"{path} is a checkpoint of format {found}, and this version of celo-core reads format {FORMAT}."
        )
    example = jax.eval_shape(architecture.init, jax.random.key(0))
    return checkpoints.load_part(path, MetaTrainState._fields.index("theta"), example)


class _Run:
    """A run's files and counts."""

    def __init__(
        self, trainer: MetaTrainer, folder: pathlib.Path, metadata: Mapping[str, Any], progress: ProgressLine
    ) -> None:
        self._trainer, self._progress = trainer, progress
        self.checkpoint, self.good = folder / "checkpoint.npz", folder / "good.npz"
        self._log, self._events = folder / "log.jsonl", folder / "events.jsonl"
        self._writes = jax.process_index() == 0
        self._identity = json.loads(json.dumps({**identity(trainer), **metadata}))
        self.done, self.seconds, self.health = 0, 0.0, Health()

    def start(self, theta: Theta | None) -> MetaTrainState:
        """The state to continue from."""
        found = self._found(self.checkpoint)
        if self._writes:
            leaves = jax.tree.leaves(self._trainer.example())
            size = sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)
            files.check_room(self.checkpoint.parent, 2 * size + 2**20)
        if found is None:
            state = self._trainer.init(theta)
        else:
            state = self._trainer.load(self.checkpoint)
            self.done, self.seconds = found["iteration"], float(found["seconds"])
            self.health = Health.from_json(found["health"])
        if self._writes:
            for path in (self._log, self._events):
                files.drop_lines_after(path, self.done)
            for path in (self.checkpoint, self.good):
                for half in path.parent.glob(f".{path.name}.*.tmp"):  # of a run that was killed while it wrote
                    half.unlink(missing_ok=True)
        return state

    def _found(self, path: pathlib.Path) -> dict[str, Any] | None:
        """Metadata of the run's checkpoint, ``None`` if there is none."""
        if not path.exists():
            return None
        found = checkpoints.load_metadata(path)
        if found.get("format") != FORMAT:
            raise ValueError(
                f"{path} is a checkpoint of format {found.get('format', 1)}, and this version of celo-core reads format "
                f"{FORMAT}: finish the run with the version that began it, or start in another folder."
            )
        settings = _with_defaults(found["settings"], self._trainer.estimator.architecture.config)
        if different := _first_difference(settings, self._identity):
            name, old, new = different
            raise ValueError(
                f"{path} was written with {name} = {old!r}, not {new!r}: resume with the same settings, or start in another "
                "folder."
            )
        return found

    def save(self, path: pathlib.Path, state: MetaTrainState, must: bool = True) -> None:
        """Writes a checkpoint; a failure raises an error only if ``must`` is true."""
        info = {
            "format": FORMAT,
            "settings": self._identity,
            "iteration": self.done,
            "seconds": self.seconds,
            "health": self.health.to_json(),
        }
        try:
            self._trainer.save(path, state, info)
        except OSError as error:
            if must:
                raise
            self.say(f"{path} could not be written ({error.strerror}): trying again later; free some space meanwhile")

    def diverged(self, state: MetaTrainState, wrong: str, action: str) -> MetaTrainState:
        """Handles a divergence; returns the state to continue from."""
        retries = int(state.retries)
        may_go_on = action == "report" and not self.health.hopeless
        where = f"meta-training diverged at iteration {self.done}: {wrong}"
        found = checkpoints.load_metadata(self.good) if action == "rollback" and retries < MOST_RETRIES else None
        if self._writes:
            # On a rollback later lines of the log are dropped, and the event has the iteration at which the run continues.
            event = {"iteration": found["iteration"] if found else self.done, "at": self.done, "wrong": wrong}
            files.append_line(self._events, {**event, "action": action if found or may_go_on else "stop"})
        if found is not None:
            state = self._trainer.load(self.good)
            self.done, self.health = found["iteration"], Health.from_json(found["health"])
            if self._writes:
                files.drop_lines_after(self._log, self.done)
            self.say(f"{where}; back to iteration {self.done} with half the step size (retry {retries + 1})")
            return state._replace(retries=self._trainer.replicate(retries + 1))
        if may_go_on:
            self.say(f"{where}; it continues, --on-divergence rollback would roll back")
            self.health = Health()
            return state
        again = f" for the {retries + 1}th time" if action == "rollback" else ""
        raise FloatingPointError(
            f"{where}{again}: lower the learning rate, or raise the number of problems; {self.checkpoint} and the log "
            "show how it went."
        )

    def log(self, metrics: Mapping[str, np.ndarray]) -> None:
        """A line in the log."""
        if self._writes:
            line = {"iteration": self.done, "seconds": round(self.seconds, 3)}
            line["inner_steps"] = self._trainer.inner_steps(self.done)
            # JSON has no NaN: a number that is not finite is left out.
            values = {name: float(np.mean(array)) for name, array in metrics.items()}
            files.append_line(
                self._log, {**line, **{name: value for name, value in values.items() if np.isfinite(value)}}
            )

    def show(self, metrics: Mapping[str, np.ndarray], rate: float | None) -> None:
        """The progress line."""
        iterations, parts = self._trainer.config.iterations, []
        parts.append(f"{self.done}/{iterations}")
        if rate:
            inner = rate * (self._trainer.inner_steps(self.done) - self._trainer.inner_steps(self.done - 1))
            parts.append(f"{inner:,.0f} inner steps/s, {format_seconds((iterations - self.done) / rate)} left")
        parts.append(f"meta-loss {np.mean(metrics['meta_loss']):.3f}")
        parts.append(f"step size {np.mean(metrics['step_size']):.1e} (largest {np.max(metrics['step_size_max']):.1e})")
        if bad := float(np.mean(metrics["non_finite"])):
            parts.append(f"{100 * bad:.1f} % of losses not finite")
        self.say(" | ".join(parts), last=False)

    def say(self, text: str, last: bool = True) -> None:
        """Shows a line, in the first process; ``last`` keeps it on the terminal."""
        if self._writes:
            self._progress.show(text, last=last)


def identity(trainer: MetaTrainer) -> dict[str, Any]:
    """Settings that a checkpoint must have, as JSON: config, architecture, estimator."""
    estimator = trainer.estimator
    value: dict[str, Any] = dict(dataclasses.asdict(trainer.config))
    value["architecture"] = {
        "name": estimator.architecture.name,
        "config": None if estimator.architecture.config is None else configs.to_json(estimator.architecture.config),
    }
    value["estimator"] = _describe(estimator)
    return value


def _first_difference(old: Any, new: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """Dotted name, old and new value where two JSON values first differ, or ``None``; what one of them lacks is ``None``."""
    if isinstance(old, Mapping) and isinstance(new, Mapping) and old.get("type") == new.get("type"):
        for key in dict.fromkeys((*new, *old)):
            if found := _first_difference(old.get(key), new.get(key), f"{name}.{key}" if name else key):
                return found
        return None
    return None if old == new else (name, old, new)


def _with_defaults(settings: Any, config: Any) -> Any:
    """Settings of a checkpoint, in which fields that later versions added to the architecture's config have their defaults."""
    try:
        described = settings["architecture"]
        known = configs.to_json(configs.from_json(type(config), described["config"]))
        return {**settings, "architecture": {**described, "config": known}}
    except (KeyError, TypeError, ValueError):  # not such a config: the comparison of the settings reports that
        return settings


def _describe(value: Any) -> Any:
    """An estimator's settings as JSON; families and architectures by name, functions as "a schedule"."""
    if isinstance(value, (int, float, str, bool, type(None))):
        return value
    if isinstance(value, (list, tuple)):
        return [_describe(one) for one in value]
    if dataclasses.is_dataclass(value) and type(value).__module__.startswith("celo_core."):
        if isinstance(value, (LearnedOptimizer, TaskFamily)):
            return value.name
        fields = {field.name: _describe(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    return getattr(value, "name", None) or ("a schedule" if callable(value) else type(value).__name__)


def _agreed(*flags: bool) -> tuple[bool, ...]:
    """Each flag, true if it is in any process: clocks and signals differ between processes, and all must act alike."""
    if jax.process_count() == 1:
        return flags
    return tuple(bool(x) for x in np.any(multihost_utils.process_allgather(np.asarray(flags)), axis=0))
