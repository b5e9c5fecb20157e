"""Text data sets: bytes to train and to validate on."""

import os
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

EMBEDDED_TEXTS = ("shakespeare",)
"""The texts that come with the package."""


class TextData(NamedTuple):
    """A text as bytes, so that the vocabulary is 256 for every text."""

    train: NDArray[np.uint8]
    """(N,), the first nine tenths."""
    valid: NDArray[np.uint8]
    """(M,), the rest."""


def load_text(name: str = "shakespeare", *, data_dir: str | os.PathLike[str] | None = None) -> TextData:
    """Loads a text: ``<data_dir>/<name>.txt`` where there is one, else what comes with the package.

    The split is by position, not random: neighbouring passages share names and phrases, and would leak.

    Args:
        name: "shakespeare" (about 200 kB, public domain), or that of any .txt in ``data_dir``.
        data_dir: folder of .txt files.

    Returns:
        The bytes: 90 % to train, the last 10 % to validate.

    Raises:
        FileNotFoundError: where there is no such text.
        ValueError: for a text of fewer than ten bytes, which cannot be split.
    """
    path: Path | Traversable | None = None if data_dir is None else Path(data_dir).expanduser() / f"{name}.txt"
    if path is None or not path.is_file():
        if name not in EMBEDDED_TEXTS:
            looked = "" if path is None else f" ({path} does not exist)"
            raise FileNotFoundError(
                f"Text {name!r} was not found{looked}: give a --data-dir that has {name}.txt, "
                f"or use one that comes with the package ({', '.join(EMBEDDED_TEXTS)})."
            )
        path = files("celo_tasks.datasets") / "embedded" / f"{name}.txt"
    text = np.frombuffer(path.read_bytes(), np.uint8)
    if len(text) < 10:
        raise ValueError(f"{path} has {len(text)} bytes: a text needs at least ten to be split into train and valid.")
    split = len(text) * 9 // 10
    return TextData(text[:split], text[split:])
