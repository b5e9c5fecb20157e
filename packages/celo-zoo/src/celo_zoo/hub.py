"""Fetching a folder from the Hugging Face Hub, through its own client, which is imported when first needed."""

import os
import pathlib
from typing import Any

from celo_zoo import folders
from celo_zoo.references import Hub


def fetch(
    ref: Hub,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    endpoint: str | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> tuple[pathlib.Path, str]:
    """Downloads the four files, or finds them in the client's cache.

    The revision is resolved once, so that all files are of one commit, and a file's size is checked before it is
    downloaded. The content is not checked here, nor by the client: that is `celo_zoo.folders.read`.

    Args:
      ref: repository and revision.
      cache_dir: the client's cache; ``None`` for its default.
      token: access token; ``None`` for the login saved on this machine, ``False`` for none. A saved login is never sent
        to an ``endpoint`` other than the client's own.
      endpoint: address of another Hub.
      local_files_only: make no request.
      force_download: do not use cached files.

    Returns:
      The folder, and ``owner/repo@commit``.

    Raises:
      FileNotFoundError: no such repository, revision or file, or not in the cache and ``local_files_only``.
      PermissionError: the repository is gated.
      ConnectionError: the Hub could not be reached, or answered with an error.
      ValueError: a file is too large, or the token cannot be one.
    """
    from huggingface_hub import constants

    _check_token(token)
    if token is None and endpoint is not None and endpoint.rstrip("/") != constants.ENDPOINT.rstrip("/"):
        token = False
    options: dict[str, Any] = {
        "cache_dir": cache_dir,
        "token": token,
        "endpoint": endpoint,
        "local_files_only": local_files_only,
        "force_download": force_download,
        "library_name": "celo-zoo",
    }
    commit = ref.revision
    path = pathlib.Path()
    for name in (folders.CHECKSUMS, *folders.LISTED):
        offer = _download(ref, name, {**options, "revision": commit, "dry_run": True})
        if offer.file_size is None:
            raise ConnectionError(f"the Hub does not tell the size of {name} in {ref.repository}: try again later.")
        folders.check_size(name, offer.file_size, f"{ref.repository}@{offer.commit_hash}")
        commit = offer.commit_hash
        path = pathlib.Path(
            _download(ref, name, {**options, "revision": ref.revision if name == folders.CHECKSUMS else commit})
        )
        if path.parent.name != commit:
            raise ConnectionError(f"{ref.repository} changed while it was fetched: try again.")
    return path.parent, f"{ref.repository}@{commit}"


def _download(ref: Hub, name: str, options: dict[str, Any]) -> Any:
    import huggingface_hub

    try:
        return huggingface_hub.hf_hub_download(ref.repository, name, **options)
    except Exception as error:  # the client's errors have no common base class
        failure = _translate(error, ref, name, options)
    # Outside the except clause, so that it does not carry the client's error, which may quote the request.
    raise failure


def _check_token(token: str | bool | None) -> None:
    if isinstance(token, str) and not (token and token.isascii() and token.isprintable() and " " not in token):
        raise ValueError(
            "the token is empty or has characters that no token has: copy it again from your account's settings."
        )


def _translate(error: Exception, ref: Hub, name: str, options: dict[str, Any]) -> Exception:
    """One sentence in place of the client's pages; never with the token in it."""
    from huggingface_hub import errors

    where = f"{ref.repository}@{ref.revision}"
    if isinstance(error, errors.GatedRepoError):
        return PermissionError(f"{ref.repository} is gated: ask for access on its page, and log in with hf auth login.")
    if isinstance(error, errors.RepositoryNotFoundError):
        return FileNotFoundError(
            f"there is no folder {ref.repository} here and no such repository on the Hub that you may read: check the "
            "name, or log in with hf auth login if it is private."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return FileNotFoundError(
            f"{ref.repository} has no revision {ref.revision!r}: give a commit, tag or branch of it."
        )
    if isinstance(error, errors.LocalEntryNotFoundError):
        if options["local_files_only"]:
            return FileNotFoundError(f"{name} of {where} is not in the cache, and only that was asked: go online once.")
        return ConnectionError(
            f"{name} of {where} is not in the cache, and the Hub was not reached or answered with an error: check the "
            "connection and try again."
        )
    if isinstance(error, errors.EntryNotFoundError):
        return FileNotFoundError(
            f"{where} has no file {name}, so it holds no learned optimizer of this package: check the name."
        )
    if isinstance(error, errors.HFValidationError):
        return ValueError(f"{ref.repository!r} is no valid name of a repository on the Hub: give owner/repo.")
    text = " ".join(str(error).split())
    if isinstance(token := options["token"], str):
        text = text.replace(token, "***")
    return ConnectionError(
        f"{name} of {where} could not be fetched ({type(error).__name__}: {text}): check the connection and try again."
    )
