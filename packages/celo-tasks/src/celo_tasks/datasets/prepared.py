"""Prepared arrays on disk: one npz per data set, checked when read, written whole or not at all."""

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Uint8 = NDArray[np.uint8]


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


def read_prepared(path: Path, shape: tuple[int, ...] | None = None) -> ImageData:
    """Reads a prepared npz.

    Args:
        path: the file.
        shape: what one picture is to be, such as (8, 8); None accepts any grey or RGB picture.

    Returns:
        The four arrays.

    Raises:
        ValueError: where the file is no npz of plain arrays, or an array is missing or of the wrong dtype or shape.
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
    for split in ("train", "test"):
        pictures, labels = len(getattr(data, f"x_{split}")), len(getattr(data, f"y_{split}"))
        if pictures != labels or not pictures:
            raise ValueError(f"{path} has {pictures} pictures but {labels} labels in {split}; there must be as many.")
    return data


def write_prepared(path: Path, data: ImageData) -> None:
    """Writes a compressed npz atomically: ``path`` appears complete, or not at all.

    Args:
        path: the file; an existing one is replaced, missing folders are made.
        data: the arrays.
    """
    from celo_core import files  # and with it JAX, which reading needs not wait for

    with files.written_atomically(path) as file:
        np.savez_compressed(file, **data._asdict())
