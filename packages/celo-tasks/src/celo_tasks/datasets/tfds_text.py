"""Texts from tensorflow-datasets, read without tensorflow (array_record files), as bytes or cut into subwords.

Documents are taken in the order of the files, which tensorflow-datasets has shuffled: the first are to validate on, the
following to train on. As bytes they are joined by `SEPARATOR`; as subwords by the token 0, which stands for nothing else.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celo_tasks.datasets.arrays import TextData, write_arrays
from celo_tasks.datasets.specs import BYTES, TEXT_SPECS, TextSpec
from celo_tasks.datasets.tfds_builders import directory, download, find_or_fetch, find_readable

TRAIN_BYTES = 50_000_000
"""Documents to train on are taken until they have so many bytes."""
VALID_BYTES = 1_000_000
"""Likewise for validation; at most a tenth of what is read."""
SUBWORD_BYTES = 20_000_000
"""The subwords are learned on the first documents to train on, until they have so many bytes."""
SEPARATOR = b"\0"
"""A byte that no text has."""

_CHUNK = 1024  # records decoded at a time


def _spec(name: str) -> TextSpec:
    spec = TEXT_SPECS.get(name)
    if spec is None or spec.tfds_name is None:
        known = ", ".join(each for each, its in TEXT_SPECS.items() if its.tfds_name)
        raise ValueError(f"Text {name!r} is not made from tensorflow-datasets: use one of {known}.")
    return spec


def _records(source: Any) -> Iterator[bytes]:
    for start in range(0, len(source), _CHUNK):
        for row in source.__getitems__(range(start, min(start + _CHUNK, len(source)))):
            yield row["text"]


def _until(documents: Sequence[bytes] | Iterator[bytes], size: int) -> list[bytes]:
    """The first documents, until they have ``size`` bytes."""
    taken, total = [], 0
    for document in documents:
        if total >= size:
            break
        taken.append(document)
        total += len(document)
    return taken


def _documents(builder: Any) -> tuple[list[bytes], list[bytes]]:
    """Documents to train and to validate on."""
    documents = _until(_records(builder.as_data_source("train")), TRAIN_BYTES + VALID_BYTES)
    valid = _until(documents, min(VALID_BYTES, sum(map(len, documents)) // 10))
    if not 0 < len(valid) < len(documents):
        raise ValueError(f"{builder.data_dir} has {len(documents)} documents, too few to train and to validate on.")
    return documents[len(valid) :], valid


def _join(documents: list[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(SEPARATOR.join(documents), np.uint8)


def _read_bytes(builder: Any) -> TextData:
    train, valid = _documents(builder)
    return TextData(_join(train), _join(valid))


def read_tfds_text(name: str, *, tfds_data_dir: str | os.PathLike[str] | None = None) -> TextData | None:
    """Reads the bytes of a text that tensorflow-datasets has prepared on this machine. Downloads nothing.

    Args:
        name: a name in ``TEXT_SPECS`` that has a ``tfds_name``.
        tfds_data_dir: the data directory of tensorflow-datasets; by default the environment variable
            TFDS_DATA_DIR, else its own default (~/tensorflow_datasets).

    Returns:
        About 50 MB to train and 1 MB to validate on, uint8 (N,), or None where the set does not lie there in array_record
        format.

    Raises:
        ValueError: for another name, or a set with too few documents.
    """
    builder = find_readable(str(_spec(name).tfds_name), directory(tfds_data_dir))
    return None if builder is None else _read_bytes(builder)


def _import_tokenizers(name: str) -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise RuntimeError(
            f"{name!r} needs the library tokenizers, to learn its subwords: run `pip install 'celo-tasks[prepare]'` and "
            "try again."
        ) from error
    return tokenizers


def _train_subwords(tokenizers: Any, documents: list[bytes], vocabulary: int) -> Any:
    """A byte-level BPE tokenizer whose token 0 is the separator."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    level = tokenizers.pre_tokenizers.ByteLevel
    tokenizer.pre_tokenizer = level(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[SEPARATOR.decode()],
        initial_alphabet=level.alphabet(),
        show_progress=False,
    )
    texts = (document.decode("utf-8", "replace") for document in _until(documents, SUBWORD_BYTES))
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _encode(tokenizer: Any, documents: list[bytes]) -> NDArray[np.uint16]:
    parts: list[NDArray[np.uint16]] = []
    for start in range(0, len(documents), _CHUNK):
        texts = [document.decode("utf-8", "replace") for document in documents[start : start + _CHUNK]]
        parts += [np.asarray([*one.ids, 0], np.uint16) for one in tokenizer.encode_batch(texts)]
    return np.concatenate(parts)[:-1]


def _fetch(tfds_name: str, data_dir: str | None) -> Any:
    """Downloads a set; what tensorflow-datasets needs for that and lacks is named in one sentence."""
    # Without tensorflow the sets of this module are unknown to tensorflow-datasets until it is imported.
    import tensorflow_datasets.text  # noqa: F401

    try:
        return download(tfds_name, data_dir)
    except ImportError as error:
        raise RuntimeError(
            f"tensorflow-datasets needs {error.name or 'another package'} once, to prepare {tfds_name!r}: install it and try "
            "again (what was downloaded is kept)."
        ) from error


def prepare_text(
    name: str, *, out_dir: str | os.PathLike[str], tfds_data_dir: str | os.PathLike[str] | None = None
) -> Path:
    """Downloads a text with tensorflow-datasets, converts it and writes ``<out_dir>/<name>.npz``.

    The file holds ``train`` and ``valid``, uint8 (N,); for subwords they are uint16 (N,), with the number of tokens as
    ``vocabulary`` and the tokenizer, in the JSON of the library tokenizers, as ``tokenizer``, uint8 (bytes,). It appears
    complete or not at all. What tensorflow-datasets has prepared before is not downloaded again.

    Args:
        name: a name in ``TEXT_SPECS`` that has a ``tfds_name``.
        out_dir: folder for the npz, to be given to ``load_text`` as ``data_dir``.
        tfds_data_dir: the data directory of tensorflow-datasets; by default the environment variable
            TFDS_DATA_DIR, else its own default (~/tensorflow_datasets).

    Returns:
        The path of the npz.

    Raises:
        ValueError: for another name, a set with too few documents, or one that lies there already in a format that
            cannot be read without tensorflow.
        RuntimeError: where a package that the preparation needs is not installed: tokenizers for subwords; for
            tensorflow-datasets tensorflow or, for Wikipedia, apache_beam.
    """
    spec, data_dir = _spec(name), directory(tfds_data_dir)
    tfds_name = str(spec.tfds_name)
    tokenizers = _import_tokenizers(name) if spec.vocabulary > BYTES else None
    builder = find_or_fetch(tfds_name, data_dir, _fetch)
    arrays: dict[str, Any]
    if tokenizers is None:
        text = _read_bytes(builder)
        arrays = {"train": text.train, "valid": text.valid}
    else:
        train, valid = _documents(builder)
        tokenizer = _train_subwords(tokenizers, train, spec.vocabulary)
        arrays = {
            "train": _encode(tokenizer, train),
            "valid": _encode(tokenizer, valid),
            "vocabulary": np.int32(spec.vocabulary),
            "tokenizer": np.frombuffer(tokenizer.to_str().encode(), np.uint8),
        }
    path = Path(out_dir).expanduser() / f"{name}.npz"
    write_arrays(path, arrays)
    return path
