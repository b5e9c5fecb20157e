"""Puts weights into celo-zoo's index, and into the package unless they are only to be on the Hub.

    python tools/bundle_weights.py WEIGHTS NAME [--published owner/repo@COMMIT] [--not-bundled]

WEIGHTS is a folder of weights, or a repository on the Hub. They must have a record of where they come from; older ones of the
same name are replaced. --published says where on the Hub the very same bytes are, which is checked by downloading them.
"""

import argparse
import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

import celo_zoo
from celo_core.files import write_json
from celo_zoo import folders, index, references

PACKAGE = Path(__file__).resolve().parents[1] / "packages/celo-zoo/src/celo_zoo"

PROVENANCE = ("command", "commit", "data", "seeds", "seconds", "hardware")
"""What must be known of listed weights."""


def bundle(
    weights: str | Path,
    name: str,
    package: Path = PACKAGE,
    *,
    published: str | None = None,
    bundled: bool = True,
    **options: Any,
) -> index.Entry:
    """Lists ``weights`` as ``name``.

    Args:
      weights: folder or reference, as of `celo_zoo.load`.
      name: to load them by.
      package: source of celo_zoo.
      published: ``owner/repo@commit`` that holds the same bytes.
      bundled: copy them into the package.
      **options: of `celo_zoo.load`, for what is on the Hub.

    Returns:
      The index's entry.

    Raises:
      ValueError: the name is unfit, the weights are altered or do not load, their provenance is incomplete, or what is
        published is something else.
      OSError: something is missing, or the Hub could not be reached.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"{name!r} is no name for weights: use lower-case letters, digits and underscores.")
    found = celo_zoo.load(weights, **(options if isinstance(weights, str) else {}))
    if missing := [field for field in PROVENANCE if not found.document["provenance"].get(field)]:
        raise ValueError(f"{weights}: the provenance lacks {', '.join(missing)}: save it with the metadata of its run.")
    repository, commit = None, None
    if published is not None:
        place = references.parse(published)
        if not isinstance(place, references.Hub) or not re.fullmatch(r"[0-9a-f]{40}", place.revision):
            raise ValueError(f"{published!r} is no owner/repo@commit: give all 40 digits of the commit.")
        celo_zoo.load(f"{published}@sha256:{found.digest}", **options)
        repository, commit = place.repository, place.revision
    elif not bundled:
        raise ValueError(f"{name} would be nowhere: say where it is published, or bundle it.")
    if bundled:
        files = found.read_files()
        folders.write(package / "weights" / name, {file: files[file] for file in folders.LISTED}, overwrite=True)
    entry = index.Entry(found.architecture.name, found.digest, repository, commit, bundled)
    index_file = package / "index.json"
    listed = json.loads(index_file.read_text()) | {name: dataclasses.asdict(entry)}
    write_json(index_file, dict(sorted(listed.items())))
    return entry


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", metavar="WEIGHTS", help="folder of weights, or owner/repo@commit")
    parser.add_argument("name", metavar="NAME", help="name to load them by")
    parser.add_argument("--published", metavar="REF", help="owner/repo@commit with the same bytes")
    parser.add_argument("--not-bundled", action="store_true", help="list them only")
    parser.add_argument("--package", type=Path, default=PACKAGE, help="source of celo_zoo (in this checkout)")
    options = parser.parse_args()
    try:
        entry = bundle(
            options.weights, options.name, options.package, published=options.published, bundled=not options.not_bundled
        )
    except (ValueError, OSError) as error:
        print(f"bundle_weights: {error}", file=sys.stderr)
        return 2
    print(f"{options.name}: {entry}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
