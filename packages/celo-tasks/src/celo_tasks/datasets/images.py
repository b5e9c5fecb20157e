"""Picture data sets by name: prepared arrays, tensorflow-datasets, or what the package brings along."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from celo_tasks.datasets.arrays import ImageData, check_images, read_prepared
from celo_tasks.datasets.resize import area_average
from celo_tasks.datasets.specs import IMAGE_SPECS, ImageSpec
from celo_tasks.datasets.tfds_builders import directory, lies_prepared
from celo_tasks.spelling import nearest

Source = Literal["auto", "prepared", "tfds", "embedded"]
SOURCES: tuple[Source, ...] = ("auto", "prepared", "tfds", "embedded")


def _from_prepared(name: str, spec: ImageSpec | None, data_dir: Path | None) -> ImageData | None:
    if data_dir is None:
        return None
    path = data_dir / f"{name}.npz"
    if path.is_file():
        return read_prepared(path, spec.shape if spec else None, spec.num_classes if spec else None)
    if spec is None or spec.made_from is None:
        return None
    large = _from_prepared(spec.made_from, IMAGE_SPECS[spec.made_from], data_dir)
    if large is None:
        return None
    shrink = lambda images: area_average(images, spec.shape[0])
    return large._replace(x_train=shrink(large.x_train), x_test=shrink(large.x_test))


def _has_prepared(name: str, spec: ImageSpec | None, data_dir: Path) -> bool:
    names = [name] if spec is None or spec.made_from is None else [name, spec.made_from]
    return any((data_dir / f"{each}.npz").is_file() for each in names)


def _from_tfds(name: str, spec: ImageSpec | None, data_dir: Path | None) -> ImageData | None:
    if spec is None or spec.tfds_name is None:
        return None
    from celo_tasks.datasets.tfds_images import read_tfds  # imports tensorflow-datasets, which is slow

    return read_tfds(name)


def _from_embedded(name: str, spec: ImageSpec | None, data_dir: Path | None) -> ImageData | None:
    if spec is None or not spec.embedded:
        return None
    from celo_tasks.datasets.embedded_images import load_embedded

    return load_embedded(name)


_READERS: Mapping[str, Callable[[str, ImageSpec | None, Path | None], ImageData | None]] = MappingProxyType(
    {"prepared": _from_prepared, "tfds": _from_tfds, "embedded": _from_embedded}
)


def _absent(name: str, source: Source, data_dir: Path | None) -> str:
    """One sentence: what was looked for, and how to get it."""
    looked = f"Data set {name!r} was not found"
    if source != "auto":
        looked += f" in source {source!r}"
    if data_dir is not None and source in ("auto", "prepared"):
        looked += f" ({data_dir / f'{name}.npz'} does not exist)"
    if name not in IMAGE_SPECS:
        meant = nearest(name, IMAGE_SPECS)
        return f"{looked}{meant}: give a --data-dir that has {name}.npz, or one of {', '.join(IMAGE_SPECS)}."
    spec = IMAGE_SPECS[name]
    if spec.embedded:
        return f"{looked}: it comes with the package, so use source='auto' or 'embedded'."
    if spec.tfds_name is None:
        arrays = " or ".join(f"{each}.npz" for each in (name, spec.made_from) if each)
        whole = name.removesuffix("_sub")
        return f"{looked}: give a --data-dir that has {arrays}, or use {whole!r}, which `celo-tasks prepare` can fetch."
    offline = ", ".join(known for known, spec in IMAGE_SPECS.items() if spec.embedded)
    return (
        f"{looked}: run `celo-tasks prepare {name}`, give a --data-dir that has {name}.npz, "
        f"or use a data set that needs no download ({offline})."
    )


def is_available(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> bool:
    """Whether ``load_images`` would find a set on this machine; reads no pictures.

    Args:
        name: as for ``load_images``.
        data_dir: as for ``load_images``.

    Returns:
        True where there is a source that has it. A prepared file is not looked into.
    """
    spec = IMAGE_SPECS.get(name)
    if data_dir is not None and _has_prepared(name, spec, Path(data_dir).expanduser()):
        return True
    if spec is None or spec.tfds_name is None:
        return spec is not None and spec.embedded
    return lies_prepared(spec.tfds_name, directory(None))


def load_images(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    source: Source = "auto",
    num_classes: int | None = None,
    num_pixels: int | None = None,
) -> ImageData:
    """Loads a picture data set. Never downloads.

    With ``source="auto"`` the first that has it is taken: ``<data_dir>/<name>.npz``; tensorflow-datasets, where the
    set lies prepared (in array_record format) in its data directory on this machine; what comes with the package.
    Of the prepared arrays NAME_16rgb is made from NAME_32rgb, by exact area averaging of each colour, where it has no
    file of its own.

    Args:
        name: a name in ``IMAGE_SPECS``, or that of any npz in ``data_dir``.
        data_dir: folder of prepared arrays: npz with x_train, y_train, x_test, y_test, all uint8.
        source: "auto", or the only place to look in: "prepared" (``data_dir``), "tfds" or "embedded".
        num_classes: how many classes a network tells apart: labels must be below. None for as many as the set has by name.
        num_pixels: how many numbers of a picture a network reads; None for any.

    Returns:
        The pictures, uint8 (N, H, W) or (N, H, W, 3), and the labels, uint8 (N,).

    Raises:
        FileNotFoundError: where no source has the set; the message says how to get it.
        ValueError: for an unknown source, a file that is not as it should be, or pictures or labels that do not fit.
    """
    if source not in SOURCES:
        raise ValueError(f"Unknown source {source!r}: use one of {', '.join(SOURCES)}.")
    folder = None if data_dir is None else Path(data_dir).expanduser()
    spec = IMAGE_SPECS.get(name)
    for reader_name, reader in _READERS.items():
        if source in ("auto", reader_name):
            data = reader(name, spec, folder)
            if data is not None:
                path = None if folder is None else folder / f"{name}.npz"
                where = str(path) if reader_name == "prepared" and path and path.is_file() else f"data set {name!r}"
                check_images(where, data, num_classes, num_pixels)
                return data
    raise FileNotFoundError(_absent(name, source, folder))
