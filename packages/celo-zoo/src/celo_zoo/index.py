"""The optimizers that this version of the package has by name, and the digest of each.

``index.json`` holds, by name, ``architecture``, ``digest`` (SHA-256 of the checksums file), ``repository`` and ``commit`` on
the Hub (null while unpublished), and ``bundled``: whether the folder is inside this package, from which it is then read.
"""

import dataclasses
import json
import pathlib

ROOT = pathlib.Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Entry:
    """A known optimizer.

    Attributes:
      architecture: name in `celo_core.ARCHITECTURES`.
      digest: SHA-256 of the checksums file, hexadecimal.
      repository: ``owner/name`` on the Hub, if it is published.
      commit: of the repository, 40 hexadecimal digits.
      bundled: whether it is inside this package.
    """

    architecture: str
    digest: str
    repository: str | None
    commit: str | None
    bundled: bool


def entries() -> dict[str, Entry]:
    """The known optimizers by name, sorted."""
    listed = json.loads((ROOT / "index.json").read_text())
    return {name: Entry(**listed[name]) for name in sorted(listed)}


def names() -> list[str]:
    """Names of the known optimizers, sorted."""
    return list(entries())


def folder(name: str) -> pathlib.Path:
    """The folder of the bundled weights ``name``."""
    return ROOT / "weights" / name
