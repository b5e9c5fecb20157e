"""Puts weights into celo-zoo: checks a folder that celo_zoo.save wrote, copies it and writes its digest to the index.

    python tools/bundle_weights.py FOLDER NAME

Weights are bundled only with a record of where they come from; an older bundle of the same name is replaced.
"""

import argparse
import json
import re
import sys
from pathlib import Path

from celo_core.files import write_json
from celo_zoo import folders, models

PACKAGE = Path(__file__).resolve().parents[1] / "packages/celo-zoo/src/celo_zoo"

PROVENANCE = ("command", "commit", "data", "seeds", "seconds", "hardware")
"""What must be known of bundled weights."""


def bundle(folder: Path, name: str, package: Path = PACKAGE) -> str:
    """Bundles ``folder`` as ``name``.

    Returns:
      The SHA-256 of its checksums file, as in the index.

    Raises:
      ValueError: the name is unfit, the folder is altered or does not load, or its provenance is incomplete.
      FileNotFoundError: there is no such folder, or a file is missing.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"{name!r} is no name for weights: use lower-case letters, digits and underscores.")
    model = models.load_model(folder)
    if missing := [field for field in PROVENANCE if not model.document["provenance"].get(field)]:
        raise ValueError(f"{folder}: the provenance lacks {', '.join(missing)}: save it with the metadata of its run.")
    files = folders.read(folder, str(folder))
    written = folders.write(package / "weights" / name, {file: files[file] for file in folders.LISTED}, overwrite=True)
    checksum = models.load_model(written).checksum
    index_file = package / "index.json"
    index = json.loads(index_file.read_text()) | {name: checksum}
    write_json(index_file, dict(sorted(index.items())))
    return checksum


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder that celo_zoo.save wrote")
    parser.add_argument("name", metavar="NAME", help="name to load them by")
    parser.add_argument("--package", type=Path, default=PACKAGE, help="source of celo_zoo (in this checkout)")
    options = parser.parse_args()
    try:
        print(f"{options.name}: {bundle(options.folder.absolute(), options.name, options.package)}")
    except (ValueError, OSError) as error:
        print(f"bundle_weights: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
