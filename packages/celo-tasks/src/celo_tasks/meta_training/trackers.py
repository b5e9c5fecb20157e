"""Where the numbers of a meta-training may go in addition to its log: TensorBoard."""

import os
import pathlib
from collections.abc import Mapping
from types import TracebackType
from typing import Any

FLUSH_SECONDS = 10
"""Seconds until what was written is on disk at the latest."""


class TensorBoard:
    """Writes scalars for TensorBoard; call it with a step and the scalars by name, and close it, or use it in a ``with``.

    A name with a slash, ``"validation/ratio"``, is shown in a group of that name.

    Args:
      writer: a ``tensorboardX.SummaryWriter``, which `tensorboard` makes.
    """

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the values at a step."""
        for name, value in values.items():
            self._writer.add_scalar(name, float(value), int(step))

    def close(self) -> None:
        """Writes what is left and closes the file."""
        self._writer.close()

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def tensorboard(folder: str | os.PathLike[str], *, resumed_at: int | None = None) -> TensorBoard:
    """Writes an event file in a folder, to be seen by ``tensorboard --logdir FOLDER``.

    Args:
      folder: made if there is none; each call adds a file to it, and TensorBoard shows all of them as one run.
      resumed_at: the last step of the checkpoint that a run goes on from: what a file of the folder has from later steps,
        of a run that was killed, is shown no more. ``None`` for a new run.

    Raises:
      ValueError: tensorboardX is not installed, or the folder cannot be made.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ValueError(
            "writing for TensorBoard needs tensorboardX: run pip install 'celo-tasks[tensorboard]'."
        ) from error
    purge = None if resumed_at is None else resumed_at + 1
    # tensorboardX names files by the second, and would write over one that is no older.
    suffix = f".{len(list(pathlib.Path(folder).glob('events.out.tfevents.*')))}"
    try:
        writer = SummaryWriter(os.fspath(folder), purge_step=purge, flush_secs=FLUSH_SECONDS, filename_suffix=suffix)
    except OSError as error:
        raise ValueError(
            f"{os.fspath(folder)} cannot be written to ({error.strerror}): give another folder."
        ) from error
    return TensorBoard(writer)
