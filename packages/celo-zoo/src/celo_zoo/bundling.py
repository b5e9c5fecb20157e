"""Listing weights in this package's index, and putting them into the package, for those who release it."""

import dataclasses
import json
import os
import pathlib
import re
from typing import Any

from celo_core import files
from celo_zoo import folders, index, models, references
from celo_zoo.errors import FormatError, RefError

PROVENANCE = ("command", "commit", "data", "seeds", "seconds", "hardware")
"""What must be known of listed weights."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def bundle(
    weights: str | os.PathLike[str],
    name: str,
    package: pathlib.Path | None = None,
    *,
    published: str | None = None,
    bundled: bool = True,
    **options: Any,
) -> index.Entry:
    """Lists ``weights`` as ``name``; older ones of the same name are replaced.

    Args:
      weights: folder or reference, as of `celo_zoo.load`.
      name: to load them by.
      package: source of celo_zoo; ``None`` for this one.
      published: ``owner/repo@commit`` that holds the same bytes, which is checked by downloading them.
      bundled: copy them into the package.
      **options: of `celo_zoo.load`, for what is on the Hub.

    Returns:
      The index's entry.

    Raises:
      ZooError: the weights are altered or do not load (as `celo_zoo.load`), their provenance is incomplete, the name is unfit,
        or what is published is something else. Each is a ValueError or an OSError too.
      OSError: the package cannot be written.
    """
    package = index.ROOT if package is None else package
    if not _NAME.fullmatch(name):
        raise RefError(f"{name!r} is no name for weights: use lower-case letters, digits and underscores.")
    found = models.load(weights, **options)
    if missing := [field for field in PROVENANCE if not found.document["provenance"].get(field)]:
        raise FormatError(
            f"{weights}: the provenance lacks {', '.join(missing)}: save it with the metadata of its run."
        )
    repository, commit = None, None
    if published is not None:
        place = references.parse(published)
        if not isinstance(place, references.Hub) or not _COMMIT.fullmatch(place.revision):
            raise RefError(f"{published!r} is no owner/repo@commit: give all 40 digits of the commit.")
        models.load(f"{published}@sha256:{found.digest}", **{**options, "revision": None})
        repository, commit = place.repository, place.revision
    elif not bundled:
        raise RefError(f"{name} would be nowhere: say where it is published, or bundle it.")
    if bundled:
        content = found.read_files()
        folders.write(package / "weights" / name, {file: content[file] for file in folders.LISTED}, overwrite=True)
    entry = index.Entry(found.architecture.name, found.digest, repository, commit, bundled)
    index_file = package / "index.json"
    listed = json.loads(index_file.read_text()) | {name: dataclasses.asdict(entry)}
    files.write_json(index_file, dict(sorted(listed.items())))
    return entry
