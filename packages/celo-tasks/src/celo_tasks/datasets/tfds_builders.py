"""Builders of tensorflow-datasets: finding what is prepared on this machine, and preparing it, in array_record files."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

FILE_FORMAT = "array_record"
"""The file format that is read without tensorflow."""


def directory(given: str | os.PathLike[str] | None) -> str | None:
    """The directory to hand to tfds, which itself reads the variable only when it is first imported."""
    return os.fspath(given) if given is not None else os.environ.get("TFDS_DATA_DIR")


def find(name: str, data_dir: str | None) -> Any | None:
    """The builder of a set that lies prepared on this machine, in whatever file format; None where there is none."""
    import tensorflow_datasets as tfds

    try:
        return tfds.core.read_only_builder.builder_from_files(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        return None


def lies_prepared(name: str, data_dir: str | None) -> bool:
    """Whether `find_readable` would find a set, told by its files, without the seconds that tensorflow-datasets takes to import.

    Args:
      name: as tensorflow-datasets calls it, with the config where there is one.
      data_dir: as `directory` returns it.
    """
    if data_dir is not None and "://" in data_dir:
        return find_readable(name, data_dir) is not None  # in a cloud, which tensorflow-datasets knows how to look into
    folder = Path(data_dir or "~/tensorflow_datasets").expanduser() / name
    try:
        versions = [path for path in folder.iterdir() if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]
        latest = max(versions, key=lambda path: [int(part) for part in path.name.split(".")])
        info = json.loads((latest / "dataset_info.json").read_text())
        return (latest / "features.json").exists() and info.get("fileFormat") == FILE_FORMAT
    except (OSError, ValueError):  # there is none, or what is there is damaged
        return False


def is_readable(builder: Any) -> bool:
    """Whether a prepared set is in the format that is read without tensorflow."""
    return bool(builder.info.file_format.value == FILE_FORMAT)


def find_readable(name: str, data_dir: str | None) -> Any | None:
    """As `find`; also None where it lies there in a format that needs tensorflow."""
    builder = find(name, data_dir)
    return builder if builder is not None and is_readable(builder) else None


def _lacks_tensorflow(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, is that tensorflow is not installed."""
    while error is not None:
        if isinstance(error, ImportError) and (error.name or "").partition(".")[0] == "tensorflow":
            return True
        error = error.__cause__ or error.__context__
    return False


def download(tfds_name: str, data_dir: str | None) -> Any:
    """Downloads a set and writes it as array_record files; shows tfds's own progress bars."""
    import tensorflow_datasets as tfds

    builder = tfds.builder(tfds_name, data_dir=data_dir)
    config = tfds.download.DownloadConfig(try_download_gcs=False)  # the bucket's ready-made files are tfrecord
    try:
        builder.download_and_prepare(file_format=FILE_FORMAT, download_config=config)
    except Exception as error:
        if _lacks_tensorflow(error):
            raise RuntimeError(
                f"tensorflow-datasets needs tensorflow once, to prepare {tfds_name!r}: run "
                "`pip install 'celo-tasks[prepare]'` and try again (what was downloaded is kept)."
            ) from error
        raise
    return builder


def find_or_fetch(name: str, data_dir: str | None, fetch: Callable[[str, str | None], Any]) -> Any:
    """The builder of a set, readable without tensorflow; ``fetch(name, data_dir)`` prepares it where it lies nowhere yet.

    Raises:
      ValueError: the set lies there already in a format that needs tensorflow.
    """
    builder = find(name, data_dir)
    if builder is None:
        builder = fetch(name, data_dir)
    if not is_readable(builder):
        raise ValueError(
            f"{builder.data_dir} holds {name!r} as {builder.info.file_format.value}, not {FILE_FORMAT}: "
            "give another directory for tensorflow-datasets (--tfds-data-dir), to prepare it there again."
        )
    return builder
