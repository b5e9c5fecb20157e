"""What names weights: a bundled name, a folder, or a repository on the Hub."""

import dataclasses
import os
import pathlib
import re

from celo_zoo import bundled

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w./+-]*", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Bundled:
    """Weights inside this package."""

    name: str


@dataclasses.dataclass(frozen=True)
class Folder:
    """Weights in a folder."""

    path: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Hub:
    """Weights in a repository on the Hub; ``revision`` is a commit, tag or branch."""

    repository: str
    revision: str


def parse(ref: str | os.PathLike[str], revision: str | None = None) -> Bundled | Folder | Hub:
    """Tells what ``ref`` means: a bundled name comes first, then a folder that exists, then a repository.

    Raises:
      ValueError: it is none of them, or a revision does not fit.
      FileNotFoundError: it is a path, and there is no such folder.
    """
    text = os.fspath(ref)
    is_path = not isinstance(ref, str) or text.startswith((".", "~", os.sep))
    path = pathlib.Path(text).expanduser()
    found: Bundled | Folder | None = None
    if not is_path and text in bundled.names():
        found = Bundled(text)
    elif text and path.is_dir():
        found = Folder(path)
    elif is_path:
        raise FileNotFoundError(f"there is no folder {text}: check the path.")
    if found is None:
        return _parse_repository(text, revision)
    if revision is not None:
        raise ValueError(f"{text!r} is no repository on the Hub, so it has no revision {revision!r}: leave it out.")
    return found


def _parse_repository(text: str, revision: str | None) -> Hub:
    repository, at, inline = text.partition("@")
    if not _REPOSITORY.fullmatch(repository):
        choice = ", ".join(bundled.names()) or "none in this version"
        raise ValueError(
            f"unknown weights {text!r}: give a bundled name ({choice}), a folder, or a repository as "
            "owner/repo[@revision]."
        )
    if at and revision is not None and revision != inline:
        raise ValueError(f"two revisions are given for {repository}, {inline!r} and {revision!r}: leave one out.")
    chosen = inline if at else "main" if revision is None else revision
    if not _REVISION.fullmatch(chosen) or ".." in chosen:
        raise ValueError(f"{chosen!r} is not a revision of {repository}: give a commit, tag or branch.")
    return Hub(repository, chosen)
