"""Files that ``celo-tasks meta-train`` writes to its folder: theta.npz, and run.json with the config and the provenance."""

import json
import os
import pathlib
from typing import Any

from celo_core import get_architecture
from celo_core.meta_training import checkpoints
from celo_zoo import folders, models, schema, tensors, upgrades
from celo_zoo.errors import FormatError, NotFoundError

THETA = "theta.npz"
RECORD = "run.json"


def is_run(folder: str | os.PathLike[str]) -> bool:
    """Whether it is the folder of a finished meta-training, and not one of weights."""
    path = folders.expand(folder)
    try:
        is_file = [folders.is_there(path / name, pathlib.Path.is_file) for name in (THETA, RECORD)]
        return all(is_file) and not folders.is_there(path / folders.CHECKSUMS, pathlib.Path.exists)
    except NotFoundError:
        return False


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
    path = folders.expand(folder)
    for name in (THETA, RECORD):
        if not folders.is_there(path / name, pathlib.Path.is_file):
            raise NotFoundError(f"{path} has no {name}: finish its meta-training first, or name another folder.")
    try:
        metadata = json.loads(folders.read_text(path / RECORD, "the record of a meta-training"))
        name, config = metadata.pop("architecture", "celo"), metadata.pop("config")
        theta = checkpoints.load_theta(path / THETA)
        if metadata.pop("format_version", 2) < schema.FORMAT_VERSION:
            config, leaves = upgrades.upgrade_config(name, config, tensors.flatten(theta))
            theta = tensors.unflatten(leaves)
        architecture = get_architecture(name, config)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"{path} is no folder of a meta-training ({error}): name another one.") from error
    except OSError as error:
        if isinstance(error, NotFoundError):
            raise
        raise folders.unreadable(path / THETA, error, "a meta-training") from None
    models.check_theta(theta, architecture)
    return theta, architecture.config, metadata
