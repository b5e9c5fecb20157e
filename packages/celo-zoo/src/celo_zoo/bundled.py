"""The weights inside this package. ``index.json`` holds, by name, the SHA-256 of each one's checksums file."""

import json
import pathlib

ROOT = pathlib.Path(__file__).parent


def index() -> dict[str, str]:
    """Name -> SHA-256 of the checksums file."""
    return dict(json.loads((ROOT / "index.json").read_text()))


def names() -> list[str]:
    """Names of the bundled weights, sorted."""
    return sorted(index())


def folder(name: str) -> pathlib.Path:
    """The folder of the bundled weights ``name``."""
    return ROOT / "weights" / name
