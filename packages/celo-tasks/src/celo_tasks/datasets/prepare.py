"""Downloading and converting a data set, of pictures or of text."""

import os
from pathlib import Path

from celo_tasks.datasets.specs import IMAGE_SPECS, TEXT_SPECS
from celo_tasks.spelling import nearest


def prepare(name: str, *, out_dir: str | os.PathLike[str], tfds_data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Downloads a data set with tensorflow-datasets, converts it and writes ``<out_dir>/<name>.npz``.

    What tensorflow-datasets has prepared before is not downloaded again. The file appears complete or not at all.

    Args:
        name: a name in ``IMAGE_SPECS`` or ``TEXT_SPECS`` that has a ``tfds_name``.
        out_dir: folder for the npz, to be given to ``load_images`` or ``load_text`` as ``data_dir``.
        tfds_data_dir: the data directory of tensorflow-datasets; by default the environment variable
            TFDS_DATA_DIR, else its own default (~/tensorflow_datasets).

    Returns:
        The path of the npz.

    Raises:
        ValueError: for another name, or where the set lies there already in a format that cannot be read
            without tensorflow.
        RuntimeError: where a package that the preparation needs is not installed.
    """
    known = [each for specs in (IMAGE_SPECS, TEXT_SPECS) for each, spec in specs.items() if spec.tfds_name]
    if name not in known:
        raise ValueError(
            f"Data set {name!r} is not made from tensorflow-datasets{nearest(name, known)}: use one of {', '.join(known)}."
        )
    if name in TEXT_SPECS:
        from celo_tasks.datasets.tfds_text import prepare_text as function
    else:
        from celo_tasks.datasets.tfds_images import prepare as function
    return function(name, out_dir=out_dir, tfds_data_dir=tfds_data_dir)
