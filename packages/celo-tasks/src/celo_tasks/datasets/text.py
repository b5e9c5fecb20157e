"""Text data sets by name, as one long sequence of tokens: bytes, or subwords of a vocabulary of 32,000."""

import os
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from celo_tasks.datasets.arrays import TextData, read_text_arrays
from celo_tasks.datasets.specs import BYTES, EMBEDDED_TEXTS, TEXT_SPECS, TextSpec, text_vocabulary
from celo_tasks.datasets.tfds_builders import directory, lies_prepared
from celo_tasks.spelling import nearest


def _files(name: str, data_dir: Path | None) -> tuple[Path, ...]:
    """The files in ``data_dir`` that make up a text, the first choice that is there; none where there is none."""
    if data_dir is None:
        return ()
    choices: list[tuple[str, ...]] = [(f"{name}.npz",)]
    if text_vocabulary(name) == BYTES:
        choices += [(f"{name}_train.txt", f"{name}_valid.txt"), (f"{name}.txt",)]
    paths = (tuple(data_dir / file for file in choice) for choice in choices)
    return next((choice for choice in paths if all(path.is_file() for path in choice)), ())


def _read_bytes(path: Path | Traversable) -> NDArray[np.uint8]:
    return np.frombuffer(path.read_bytes(), np.uint8)


def _split(path: Path | Traversable) -> TextData:
    text = _read_bytes(path)
    if len(text) < 10:
        raise ValueError(f"{path} has {len(text)} bytes: a text needs at least ten to be split into train and valid.")
    split = len(text) * 9 // 10
    return TextData(text[:split], text[split:])


def _from_files(name: str, paths: tuple[Path, ...]) -> TextData:
    if paths[0].suffix == ".npz":
        return read_text_arrays(paths[0], TEXT_SPECS[name].vocabulary if name in TEXT_SPECS else None)
    if len(paths) == 1:
        return _split(paths[0])
    for path in paths:
        if not path.stat().st_size:
            raise ValueError(f"{path} is empty: give it a text, or remove it.")
    train, valid = map(_read_bytes, paths)
    return TextData(train, valid)


def _absent(name: str, data_dir: Path | None) -> str:
    """One sentence: what was looked for, and how to get it."""
    spec = TEXT_SPECS.get(name)
    looked_for = f"{name}.npz" if text_vocabulary(name) > BYTES else f"{name}.txt"
    looked = "" if data_dir is None else f" ({data_dir / looked_for} does not exist)"
    fetch = "" if spec is None else f"run `celo-tasks prepare {name}`, "
    meant = nearest(name, TEXT_SPECS) if spec is None else ""
    return (
        f"Text {name!r} was not found{looked}{meant}: {fetch}give a --data-dir that has {looked_for}, "
        f"or use one that comes with the package ({', '.join(EMBEDDED_TEXTS)})."
    )


def is_text_available(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> bool:
    """Whether ``load_text`` would find a text on this machine; reads no text.

    Args:
        name: as for ``load_text``.
        data_dir: as for ``load_text``.

    Returns:
        True where there is a source that has it. A file is not looked into.
    """
    if _files(name, None if data_dir is None else Path(data_dir).expanduser()):
        return True
    spec = TEXT_SPECS.get(name)
    if spec is None or spec.tfds_name is None or spec.vocabulary > BYTES:
        return spec is not None and spec.embedded
    return lies_prepared(spec.tfds_name, directory(None))


def load_text(name: str = "shakespeare", *, data_dir: str | os.PathLike[str] | None = None) -> TextData:
    """Loads a text. Never downloads.

    The first that has it is taken: ``<data_dir>/<name>.npz``; ``<name>_train.txt`` with ``<name>_valid.txt`` there;
    ``<name>.txt`` there, of which the last tenth is to validate on; tensorflow-datasets, where the set lies prepared (in
    array_record format) in its data directory on this machine (see `celo_tasks.datasets.tfds_text.read_tfds_text`); what
    comes with the package. Subwords are read from an npz only. The split is by position, not random: neighbouring
    passages share names and phrases, and would leak.

    Args:
        name: a name in `TEXT_SPECS` such as "shakespeare" (about 200 kB, public domain), or that of a file in
            ``data_dir``.
        data_dir: folder of texts: .txt files, or npz with ``train`` and ``valid``, uint8 (N,), or uint16 (N,) with the
            number of tokens as ``vocabulary``.

    Returns:
        The tokens.

    Raises:
        FileNotFoundError: where there is no such text; the message says how to get it.
        ValueError: for a file that is not as it should be, or a text of fewer than ten bytes, which cannot be split.
    """
    folder = None if data_dir is None else Path(data_dir).expanduser()
    if paths := _files(name, folder):
        return _from_files(name, paths)
    spec = TEXT_SPECS.get(name, TextSpec())
    if spec.tfds_name is not None and spec.vocabulary == BYTES:
        from celo_tasks.datasets.tfds_text import read_tfds_text  # imports tensorflow-datasets, which is slow

        text = read_tfds_text(name)
        if text is not None:
            return text
    if spec.embedded:
        return _split(files("celo_tasks.datasets") / "embedded" / f"{name}.txt")
    raise FileNotFoundError(_absent(name, folder))
