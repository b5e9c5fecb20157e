"""Writing learned optimizers as folders, and copying them from any reference."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from celo_core import LearnedOptimizer, architecture_names, get_architecture
from celo_zoo import card as card_lib
from celo_zoo import evaluation as evaluation_lib
from celo_zoo import folders, models, references, schema, tensors
from celo_zoo.errors import FormatError, WriteError


def save(
    theta: Any,
    config: Any,
    folder: str | os.PathLike[str],
    *,
    metadata: Mapping[str, Any] | None = None,
    evaluation: Sequence[Mapping[str, Any]] = (),
    repository: str | None = None,
    card: str | None = None,
    overwrite: bool = False,
) -> pathlib.Path:
    """Writes a learned optimizer as a folder that `load` reads, atomically.

    Args:
      theta: meta-parameters of the config's architecture, a nested dict of float arrays; each is stored in its own dtype.
      config: the architecture's config dataclass, whose class determines the architecture.
      folder: path of the new folder.
      metadata: JSON-like provenance: ``command``, ``commit``, ``data``, ``seeds``, ``seconds``, ``hardware`` and more
        (what ``celo-tasks meta-train`` writes to run.json); ``license`` if it is not apache-2.0; ``notes``, a list of
        sentences for the card.
      evaluation: results, each from `celo_zoo.evaluation.from_report`.
      repository: ``owner/name`` on the Hub that it is meant for, for the card's example.
      card: text of the model card; written from the rest if left out.
      overwrite: replace an existing folder, provided it holds nothing but a learned optimizer.

    Returns:
      The folder's path.

    Raises:
      FormatError: theta does not fit the config or is not finite, or the metadata are not JSON; a ValueError.
      RefError: the repository's name is invalid; a ValueError.
      ExistsError: the folder exists; a FileExistsError.
      WriteError: it could not be written, and an older one is unchanged; an OSError.
    """
    files = render(theta, config, metadata=metadata, evaluation=evaluation, repository=repository, card=card)
    leaves = {path: np.asarray(leaf) for path, leaf in tensors.flatten(theta).items()}

    def check(written: pathlib.Path) -> None:
        stored = models.read_folder(written)
        if not tensors.same_bits(tensors.flatten(stored.theta), leaves) or stored.config != config:
            raise WriteError(f"{folder}: what was written does not read back the same: check the disk.")

    return folders.write(folder, files, overwrite=overwrite, check=check)


def render(
    theta: Any,
    config: Any,
    *,
    metadata: Mapping[str, Any] | None = None,
    evaluation: Sequence[Mapping[str, Any]] = (),
    repository: str | None = None,
    card: str | None = None,
) -> dict[str, bytes]:
    """The content of a folder by file name, without its checksums; arguments and errors as of `save`."""
    architecture = _architecture_of(config)
    models.check_theta(theta, architecture)
    if repository is not None:
        references.check_repository(repository)
    evaluation_lib.check_all(list(evaluation))
    document = schema.document(
        config,
        architecture.name,
        provenance=metadata,
        evaluation=[dict(record) for record in evaluation],
        repository=repository,
    )
    written = schema.encode(document)
    if card is None:
        card = write_card(document, theta)
    return {folders.WEIGHTS: tensors.encode(theta), folders.CONFIG: written, folders.CARD: card.encode()}


def write_card(document: Mapping[str, Any], theta: Any) -> str:
    """The model card of a document and its theta."""
    leaves = {path: np.asarray(leaf) for path, leaf in tensors.flatten(theta).items()}
    dtypes = ", ".join(sorted({leaf.dtype.name for leaf in leaves.values()}))
    return card_lib.write_card(document, {path: leaf.shape for path, leaf in leaves.items()}, dtype=dtypes)


def _architecture_of(config: Any) -> LearnedOptimizer:
    for name in architecture_names():
        if type(get_architecture(name).config) is type(config):
            return get_architecture(name, config)
    raise FormatError(
        f"no architecture has a config of type {type(config).__name__}: pass the config dataclass of one of "
        f"{', '.join(architecture_names())}, not its JSON form."
    )


def fetch(
    ref: str | os.PathLike[str], folder: str | os.PathLike[str], *, overwrite: bool = False, **options: Any
) -> models.Pretrained:
    """Copies weights into a folder, byte for byte, after the checks of `load`.

    Args:
      ref: as in `load`.
      folder: path of the new folder, which is written atomically.
      overwrite: replace an existing folder, provided it holds nothing but a learned optimizer.
      **options: ``revision``, ``cache_dir``, ``token``, ``endpoint`` and ``local_files_only`` of `load`.

    Returns:
      As `load`, with the copy as its ``folder``.

    Raises:
      ZooError: as `load` and `save`.
    """
    found = models.load(ref, **options)
    files = found.read_files()
    written = folders.write(folder, {name: files[name] for name in folders.LISTED}, overwrite=overwrite)
    return models.read_folder(written, where=found.source, digest=found.digest, commit=found.commit)
