"""Prepared arrays on disk: one npz per data set, checked when read, written whole or not at all."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from celo_tasks.datasets.specs import BYTES

Uint8 = NDArray[np.uint8]
Tokens = NDArray[np.uint8] | NDArray[np.uint16]


class ImageData(NamedTuple):
    """Pictures and their classes, for training and for testing; all uint8."""

    x_train: Uint8
    """(N, H, W) grey or (N, H, W, 3) RGB, 0..255."""
    y_train: Uint8
    """(N,), classes from 0."""
    x_test: Uint8
    """(M, H, W) or (M, H, W, 3)."""
    y_test: Uint8
    """(M,)."""


class TextData(NamedTuple):
    """A text as tokens: uint8 where they are bytes, uint16 where they are subwords."""

    train: Tokens
    """(N,)."""
    valid: Tokens
    """(M,)."""
    vocabulary: int = BYTES
    """Number of tokens that there may be: every one is below it."""


def _fault(field: str, array: NDArray[np.generic], shape: tuple[int, ...] | None) -> str | None:
    """What is wrong with one array, or None."""
    found = f"found {array.dtype} {array.shape}"
    if field.startswith("y"):
        ok = array.dtype == np.uint8 and array.ndim == 1
        return None if ok else f"{field} must be uint8 (N,), {found}"
    if shape is not None:
        ok = array.dtype == np.uint8 and array.shape[1:] == shape and array.ndim == 1 + len(shape)
        return None if ok else f"{field} must be uint8 (N, {', '.join(map(str, shape))}), {found}"
    ok = array.dtype == np.uint8 and (array.ndim == 3 or (array.ndim == 4 and array.shape[-1] == 3))
    return None if ok else f"{field} must be uint8 (N, H, W) or (N, H, W, 3), {found}"


def check_images(where: str, data: ImageData, num_classes: int | None, num_pixels: int | None = None) -> None:
    """Checks that there are pictures, and that they and their labels fit what is to be trained on them.

    Args:
        where: the file or set, for messages.
        data: what is in it.
        num_classes: labels must be below it; None for no bound.
        num_pixels: numbers per picture, colours included; None for any.

    Raises:
        ValueError: where they do not fit; one sentence.
    """
    for split in ("train", "test"):
        pictures, labels = getattr(data, f"x_{split}"), getattr(data, f"y_{split}")
        if len(pictures) != len(labels):
            raise ValueError(
                f"{where} has {len(pictures)} pictures but {len(labels)} labels in {split}; there must be as many."
            )
        if not len(pictures):
            raise ValueError(f"{where} has no pictures in {split}; there must be at least one.")
        if num_pixels is not None and pictures[0].size != num_pixels:
            size = " x ".join(map(str, pictures.shape[1:]))
            raise ValueError(
                f"{where} has pictures of {size}, but the network reads {num_pixels} numbers of each: name a set of the "
                "size that the task is for."
            )
        check_labels(where, f"y_{split}", labels, num_classes)


def check_labels(where: str, field: str, labels: NDArray[np.integer], num_classes: int | None) -> None:
    """Checks that labels are from 0 to below ``num_classes`` (None for no bound); errors as `check_images`."""
    if num_classes is None or not len(labels):
        return
    for label in (int(labels.max()), int(labels.min())):
        if not 0 <= label < num_classes:
            raise ValueError(
                f"{where}: {field} has the label {label}, but there are {num_classes} classes: number them from 0 to "
                f"{num_classes - 1}, or name a set of as many classes as the task has."
            )


def read_prepared(path: Path, shape: tuple[int, ...] | None = None, num_classes: int | None = None) -> ImageData:
    """Reads a prepared npz.

    Args:
        path: the file.
        shape: what one picture is to be, such as (8, 8); None accepts any grey or RGB picture.
        num_classes: labels must be below it; None accepts any.

    Returns:
        The four arrays.

    Raises:
        ValueError: where the file is no npz of plain arrays, an array is missing, empty or of the wrong dtype or shape, or a
            label is of no class.
    """
    layout = f"x_train, x_test: uint8 {'(N, H, W)' if shape is None else ('N', *shape)}; y_train, y_test: uint8 (N,)"
    layout = layout.replace("'", "")
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [field for field in ImageData._fields if field not in file.files]
            data = None if missing else ImageData(*(file[field] for field in ImageData._fields))
    except (zipfile.BadZipFile, ValueError, EOFError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is not an npz of plain arrays ({error}); it must hold {layout}.") from error
    if data is None:
        raise ValueError(f"{path} lacks {', '.join(missing)}; it must hold {layout}.")
    for field, array in zip(ImageData._fields, data, strict=True):
        if fault := _fault(field, array, shape):
            raise ValueError(f"{path}: {fault}; the file must hold {layout}.")
    check_images(str(path), data, num_classes)
    return data


def write_prepared(path: Path, data: ImageData) -> None:
    """Writes pictures and labels as `write_arrays`."""
    write_arrays(path, data._asdict())


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Writes a compressed npz atomically: ``path`` appears complete, or not at all.

    Args:
        path: the file; an existing one is replaced, missing folders are made.
        arrays: what it is to hold, by name.
    """
    from celo_core import files  # and with it JAX, which reading needs not wait for

    with files.written_atomically(path) as file:
        np.savez_compressed(file, **arrays)


def read_text_arrays(path: Path, vocabulary: int | None = None) -> TextData:
    """Reads a text's prepared npz.

    Args:
        path: the file.
        vocabulary: the number of tokens that it must name as its own; None accepts any.

    Returns:
        The tokens.

    Raises:
        ValueError: where the file is no npz of plain arrays, an array is missing, empty or of the wrong dtype or shape, or a
            token is not below the vocabulary.
    """
    layout = "train and valid, uint8 (N,) for bytes, or uint16 (N,) with their number of tokens as vocabulary"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {field: file[field] for field in TextData._fields if field in file.files}
    except (zipfile.BadZipFile, ValueError, EOFError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is not an npz of plain arrays ({error}); it must hold {layout}.") from error
    if missing := [field for field in ("train", "valid") if field not in arrays]:
        raise ValueError(f"{path} lacks {', '.join(missing)}; it must hold {layout}.")
    train, valid = arrays["train"], arrays["valid"]
    fits = train.dtype == valid.dtype and train.dtype in (np.uint8, np.uint16) and train.ndim == valid.ndim == 1
    number = arrays.get("vocabulary", np.asarray(BYTES if train.dtype == np.uint8 else 0))
    if not fits or number.shape != () or not np.issubdtype(number.dtype, np.integer) or not 1 <= number <= 2**16:
        found = ", ".join(f"{field}: {array.dtype} {array.shape}" for field, array in arrays.items())
        raise ValueError(f"{path} holds {found}; it must hold {layout}.")
    if vocabulary is not None and number != vocabulary:
        raise ValueError(
            f"{path} has a vocabulary of {number}, not {vocabulary}: run `celo-tasks prepare {path.stem}`."
        )
    if not train.size or not valid.size:
        raise ValueError(f"{path} must hold at least one token to train and one to validate on.")
    if (largest := max(train.max(), valid.max())) >= number:
        raise ValueError(
            f"{path} holds the token {largest}, but tokens must be all below {number}, its vocabulary: cut the text into tokens "
            "again, or correct the vocabulary."
        )
    return TextData(train, valid, int(number))
