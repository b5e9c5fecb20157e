"""What ``celo-tasks meta-train`` leaves in its folder: theta.npz, and run.json with the config and the provenance."""

import json
import os
import pathlib
from typing import Any

from celo_core import checkpoints, get_architecture
from celo_zoo import folders, models
from celo_zoo.errors import FormatError, NotFoundError

THETA = "theta.npz"
RECORD = "run.json"


def is_run(folder: str | os.PathLike[str]) -> bool:
    """Whether it is the folder of a finished meta-training, and not one of weights."""
    path = pathlib.Path(folder).expanduser()
    return (path / THETA).is_file() and (path / RECORD).is_file() and not (path / folders.CHECKSUMS).exists()


def load_run(folder: str | os.PathLike[str]) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    """Theta, config and provenance of a finished meta-training, for `celo_zoo.save` and `celo_zoo.publish`.

    Args:
      folder: ``--out`` of ``celo-tasks meta-train``.

    Returns:
      A nested dict of float32 arrays, the architecture's config dataclass, and the metadata.

    Raises:
      NotFoundError: it has no theta.npz or no run.json yet.
      FormatError: they are damaged, or do not belong together.
    """
    path = pathlib.Path(folder).expanduser()
    for name in (THETA, RECORD):
        if not (path / name).is_file():
            raise NotFoundError(f"{path} has no {name}: finish its meta-training first, or name another folder.")
    try:
        metadata = json.loads((path / RECORD).read_text())
        architecture = get_architecture(metadata.pop("architecture", "celo"), metadata.pop("config"))
        theta = checkpoints.load_theta(path / THETA)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"{path} is no folder of a meta-training ({error}): name another one.") from error
    models.check_theta(theta, architecture)
    return theta, architecture.config, metadata
