"""A monitoring callback for a phase of meta-training: validation, plots, TensorBoard."""

import contextlib
import pathlib
import sys
import time
from collections.abc import Callable
from types import TracebackType

import jax
import numpy as np

from celo_core import LearnedOptimizer, files
from celo_core.meta_training.run import RunStatus
from celo_core.progress import ProgressLine
from celo_tasks.meta_training.trackers import TensorBoard, tensorboard
from celo_tasks.meta_training.validation import MetaValidation, ValidationStopped, scalars
from celo_tasks.reporting import meta_plots

PLOT_SECONDS = 120.0
"""Time between plots."""


class MetaReport:
    """Watches a phase (`celo_core.meta_training.run.run_phase`'s ``watch``), in the first of several processes.

    Writes ``validation.jsonl``, ``meta_loss.png`` and ``step_sizes.png`` into the phase's folder, and
    ``validation_adam.json``, tuned Adam on the validation tasks, into the run's.

    Args:
      folder: the run's folder.
      phase: the phase's name, which is its folder's.
      architecture: the learned optimizer whose theta is trained.
      validate_every: meta-iterations between validations; 0 for none.
      tracker_folder: where TensorBoard's files go, a folder per phase; ``None`` for nowhere.
      stop: whether the run is to stop; a validation is left then, or not begun.

    Raises:
      ValueError: validate_every is negative.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        phase: str,
        architecture: LearnedOptimizer,
        validate_every: int,
        tracker_folder: str | None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        if validate_every < 0:
            raise ValueError(f"validation needs a number of iterations between, or 0 for none, not {validate_every}.")
        self._folder, self._architecture, self._every = folder / phase, architecture, validate_every
        self._adam = folder / "validation_adam.json"
        self._tracker_folder = None if tracker_folder is None else pathlib.Path(tracker_folder) / phase
        self._tracker: TensorBoard | None = None
        self._validation: MetaValidation | None = None
        self._stop = stop
        self._last: int | None = None
        self._drawn = time.monotonic()

    def __enter__(self) -> "MetaReport":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._tracker is not None:
            self._tracker.close()

    def __call__(self, status: RunStatus) -> bool:
        """Takes in a block; validates and draws where it is time. Returns whether the run is to stop."""
        if jax.process_index() != 0:
            return False
        size = len(status.metrics["meta_loss"])
        begun_at = status.iteration - size
        if self._last is None or begun_at < self._last:  # the run begins, or was rolled back
            self._begin(begun_at)
        self._last = status.iteration
        if self._tracker is not None:
            self._tracker(status.iteration, {name: float(np.mean(x)) for name, x in status.metrics.items()})
        due = self._every and (status.iteration % self._every < size or status.last) and not status.stopped
        if due:
            try:
                self._validate(status)
            except ValidationStopped:
                return True
        if due or status.last or time.monotonic() - self._drawn > PLOT_SECONDS:
            self._draw()
        return bool(due) and self._stop()

    def _begin(self, iteration: int) -> None:
        files.drop_lines_after(self._folder / "validation.jsonl", iteration)
        if self._tracker_folder is not None:
            if self._tracker is not None:
                self._tracker.close()
            self._tracker = tensorboard(self._tracker_folder, resumed_at=iteration or None)

    def _validate(self, status: RunStatus) -> None:
        self._validation = self._validation or MetaValidation(
            reference=self._adam, progress=ProgressLine(), stop=self._stop
        )
        measured = self._validation.measure(self._architecture, jax.device_get(status.state.average))
        where = {"iteration": status.iteration, "seconds": round(status.seconds, 3)}
        files.append_line(self._folder / "validation.jsonl", {**where, **measured})
        values = scalars(measured)
        if self._tracker is not None:
            self._tracker(status.iteration, values)
        means = f"{measured['iqm']:.3f} (interquartile mean; geometric {measured['ratio']:.3f})"
        print(f"iteration {status.iteration}: {means} x tuned Adam on tasks not trained on", file=sys.stderr)

    def _draw(self) -> None:
        files.write_bytes(self._folder / "meta_loss.png", meta_plots.draw_meta_loss(self._folder))
        if (self._folder / "validation.jsonl").exists():
            files.write_bytes(self._folder / "step_sizes.png", meta_plots.draw_step_sizes(self._folder))
        self._drawn = time.monotonic()


def prepare(tracker_folder: str | None) -> None:
    """Raises ValueError now, rather than after the first compilation, if TensorBoard was asked for and is not there."""
    if tracker_folder is not None:
        with contextlib.closing(tensorboard(tracker_folder)):
            pass
