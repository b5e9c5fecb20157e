"""References to weights: a name in the package's index, a folder, or a repository on the Hub, and a required digest."""

import dataclasses
import difflib
import os
import pathlib
import re
from typing import Any

from celo_zoo import folders, index
from celo_zoo.errors import NotFoundError, RefError

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w./+-]*", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class Known:
    """Weights in the package's index; ``digest`` is the one that the caller requires, if any."""

    name: str
    digest: str | None = None


@dataclasses.dataclass(frozen=True)
class Folder:
    """Weights in a folder."""

    path: pathlib.Path
    digest: str | None = None


@dataclasses.dataclass(frozen=True)
class Hub:
    """Weights in a repository on the Hub; ``revision`` is a commit, tag or branch."""

    repository: str
    revision: str
    digest: str | None = None


def parse(ref: str | os.PathLike[str], revision: str | None = None) -> Known | Folder | Hub:
    """Parses ``ref``: as a known name first, then as a folder that exists, then as a repository.

    Each may end in ``@sha256:`` and 64 hexadecimal digits, the digest that the weights must have.

    Raises:
      RefError: it is none of them, or a revision does not fit it.
      NotFoundError: it is a path, and there is no such folder.
    """
    text, digest = _split_digest(os.fspath(ref))
    is_path = not isinstance(ref, str) or text.startswith((".", "~", os.sep))
    path = folders.expand(text)
    found: Known | Folder | None = None
    if not is_path and text in index.names():
        found = Known(text, digest)
    elif text and _is_folder(path, is_path):
        found = Folder(path, digest)
    elif is_path:
        raise NotFoundError(f"there is no folder {text}: check the path.")
    if found is None:
        return _parse_repository(text, revision, digest)
    if revision is not None:
        raise RefError(f"{text!r} is no repository on the Hub, so it has no revision {revision!r}: leave it out.")
    return found


def _is_folder(path: pathlib.Path, is_path: bool) -> bool:
    try:
        return folders.is_there(path, pathlib.Path.is_dir)
    except NotFoundError:
        if is_path or "/" in str(path):
            raise
        return False


def _split_digest(text: str) -> tuple[str, str | None]:
    before, mark, digest = text.partition("@sha256:")
    if not mark:
        return text, None
    if not _DIGEST.fullmatch(digest.lower()):
        raise RefError(f"{digest[:80]!r} is no SHA-256: give its 64 hexadecimal digits after @sha256:.")
    return before, digest.lower()


def is_repository(text: Any) -> bool:
    """Whether it is a string of the form ``owner/name``."""
    return isinstance(text, str) and bool(_REPOSITORY.fullmatch(text))


def check_repository(repository: str) -> None:
    """Raises `RefError` unless it has the form ``owner/name``."""
    if not is_repository(repository):
        raise RefError(f"{repository!r} is no name of a repository on the Hub: give owner/name.")


def is_revision(text: str) -> bool:
    """Whether it can be the name of a commit, tag or branch."""
    return bool(_REVISION.fullmatch(text)) and ".." not in text


def _parse_repository(text: str, revision: str | None, digest: str | None) -> Hub:
    repository, at, inline = text.partition("@")
    if not is_repository(repository):
        known = index.names()
        choice = ", ".join(known) or "none in this version"
        near = difflib.get_close_matches(text, known, n=1)
        meant = f"did you mean {near[0]!r}? Else " if near else ""
        raise RefError(
            f"unknown weights {text[:200]!r}: {meant}give a known name ({choice}), a folder, or a repository as "
            "owner/repo[@revision]."
        )
    if at and revision is not None and revision != inline:
        raise RefError(f"two revisions are given for {repository}, {inline!r} and {revision!r}: leave one out.")
    chosen = inline if at else "main" if revision is None else revision
    if not is_revision(chosen):
        raise RefError(f"{chosen!r} is not a revision of {repository}: give a commit, tag or branch.")
    return Hub(repository, chosen, digest)
