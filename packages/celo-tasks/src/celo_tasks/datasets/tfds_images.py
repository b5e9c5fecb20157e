"""Picture data sets from tensorflow-datasets, read without tensorflow (array_record files)."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celo_tasks.datasets.arrays import ImageData, Uint8, check_images, check_labels, write_prepared
from celo_tasks.datasets.resize import area_average, to_grey
from celo_tasks.datasets.specs import IMAGE_SPECS, ImageSpec
from celo_tasks.datasets.tfds_builders import directory, download, find_or_fetch, find_readable

_CHUNK = 1024  # records decoded at a time: the full-size pictures never lie in memory all at once


def _convert(images: Uint8, spec: ImageSpec) -> Uint8:
    """Colours are kept where the spec has them; pictures are averaged to its height and width."""
    images = images if len(spec.shape) == 3 else to_grey(images)
    return images if images.shape[1:3] == spec.shape[:2] else area_average(images, spec.shape[0])


def _chunks(records: Any) -> Iterator[tuple[Uint8, NDArray[np.int64]]]:
    for start in range(0, len(records), _CHUNK):
        rows = records.__getitems__(range(start, min(start + _CHUNK, len(records))))
        yield np.stack([row["image"] for row in rows]), np.array([row["label"] for row in rows], np.int64)


def _read_split(records: Any, spec: ImageSpec, where: str) -> tuple[Uint8, Uint8]:
    """Pictures and labels of one split, in the order of the files; errors as `check_labels`."""
    images, labels = [np.empty((0, *spec.shape), np.uint8)], [np.empty(0, np.uint8)]
    for image, label in _chunks(records):
        # As they are stored: some sets have -1 for what has no label, which would be one in a uint8.
        check_labels(where, "label", label, (10 if spec.every_tenth_class else 1) * spec.num_classes)
        if spec.every_tenth_class:
            kept = label % 10 == 0
            image, label = image[kept], label[kept] // 10
        images.append(_convert(image, spec))
        labels.append(label.astype(np.uint8))
    return np.concatenate(images), np.concatenate(labels)


def _read(builder: Any, spec: ImageSpec) -> ImageData:
    where = str(builder.data_dir)
    splits = (_read_split(builder.as_data_source(split), spec, where) for split in ("train", "test"))
    (x_train, y_train), (x_test, y_test) = splits
    data = ImageData(x_train, y_train, x_test, y_test)
    check_images(where, data, spec.num_classes)
    return data


def _spec(name: str) -> ImageSpec:
    spec = IMAGE_SPECS.get(name)
    if spec is None or spec.tfds_name is None:
        known = ", ".join(each for each, its in IMAGE_SPECS.items() if its.tfds_name)
        raise ValueError(f"Data set {name!r} is not made from tensorflow-datasets: use one of {known}.")
    return spec


def read_tfds(name: str, *, tfds_data_dir: str | os.PathLike[str] | None = None) -> ImageData | None:
    """Reads a set that tensorflow-datasets has prepared on this machine. Downloads nothing.

    Args:
        name: a name in ``IMAGE_SPECS`` that has a ``tfds_name``.
        tfds_data_dir: the data directory of tensorflow-datasets; by default the environment variable
            TFDS_DATA_DIR, else its own default (~/tensorflow_datasets).

    Returns:
        The converted pictures, or None where the set does not lie there in array_record format.

    Raises:
        ValueError: for another name, or a set with labels of no class or without pictures.
    """
    spec = _spec(name)
    builder = find_readable(str(spec.tfds_name), directory(tfds_data_dir))
    return None if builder is None else _read(builder, spec)


def prepare(name: str, *, out_dir: str | os.PathLike[str], tfds_data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Downloads a data set with tensorflow-datasets, converts it and writes ``<out_dir>/<name>.npz``.

    What tensorflow-datasets has prepared before is not downloaded again. The file appears complete or not at all.

    Args:
        name: a name in ``IMAGE_SPECS`` that has a ``tfds_name``.
        out_dir: folder for the npz, to be given to ``load_images`` as ``data_dir``.
        tfds_data_dir: the data directory of tensorflow-datasets; by default the environment variable
            TFDS_DATA_DIR, else its own default (~/tensorflow_datasets).

    Returns:
        The path of the npz.

    Raises:
        ValueError: for another name, or where the set lies there already in a format that cannot be read
            without tensorflow.
        RuntimeError: where tensorflow-datasets itself needs tensorflow to prepare the set, and it is not installed.
    """
    spec, data_dir = _spec(name), directory(tfds_data_dir)
    tfds_name = str(spec.tfds_name)
    builder = find_or_fetch(tfds_name, data_dir, download)
    path = Path(out_dir).expanduser() / f"{name}.npz"
    write_prepared(path, _read(builder, spec))
    return path
