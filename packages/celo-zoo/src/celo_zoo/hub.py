"""The Hugging Face Hub through its own client, which is imported on first use: options, errors and downloads."""

import dataclasses
import importlib
import os
import pathlib
from collections.abc import Callable
from typing import Any, TypeVar

from celo_zoo import environment, folders
from celo_zoo.errors import AccessError, ConflictError, HubError, NotFoundError, RefError, SettingError, ZooError
from celo_zoo.references import Hub

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of requests to the Hub.

    Attributes:
      cache_dir: cache of the Hub's client, ``None`` for its default.
      token: access token, ``None`` for the login saved on this machine, ``False`` for none.
      endpoint: address of another Hub; a saved login is not sent there.
      local_files_only: make no request.
    """

    cache_dir: str | os.PathLike[str] | None = None
    token: str | bool | None = dataclasses.field(default=None, repr=False)
    endpoint: str | None = None
    local_files_only: bool = False

    def sent_token(self) -> str | bool | None:
        """The token as passed to the client: a saved login is for the client's own Hub only.

        Raises:
          RefError: the given text cannot be a token.
        """
        token = self.token
        if isinstance(token, str) and not environment.is_token(token):
            raise RefError(
                "the token is empty or has characters that no token has: copy it again from your account's settings."
            )
        if token is None and self.endpoint is not None:
            own = client("constants").ENDPOINT.rstrip("/")
            return None if self.endpoint.rstrip("/") == own else False
        return token


def client(module: str) -> Any:
    """A module of huggingface_hub, which reads its environment when it is imported.

    Raises:
      SettingError: something in the environment prevents the import.
      ImportError: it is not installed, or not completely.
    """
    try:
        # By its full name: the package's own lazy import prints to standard error.
        return importlib.import_module(f"huggingface_hub.{module}")
    except ImportError:
        raise
    except Exception as error:  # reading a variable may raise any kind
        failure = environment.explain(error, endpoint=None, cache_dir=None, sends_login=False) or SettingError(
            f"huggingface_hub cannot be imported here ({type(error).__name__}: {error}): check the environment variables that "
            "it reads, or install it again."
        )
    raise failure


def download(reference: Hub, options: Options = Options(), *, force_download: bool = False) -> tuple[pathlib.Path, str]:
    """Downloads the four files, or finds them in the client's cache.

    The revision is resolved once, so that all files are of one commit, and a file's size is checked before it is
    downloaded. The content is checked neither here nor by the client, but by `celo_zoo.folders.read`.

    Args:
      reference: repository and revision.
      options: of the requests.
      force_download: do not use cached files.

    Returns:
      The folder, and the commit.

    Raises:
      NotFoundError: no such repository, revision or file, or it is not in the cache and no request may be made.
      AccessError: the repository is gated.
      HubError: the Hub could not be reached, or answered with an error.
      FormatError: a file is too large.
      RefError: the token is invalid, or the client rejects the repository's name.
      SettingError: a variable that the client reads is invalid.
      WriteError: its cache cannot be written.
    """
    fetch = client("file_download").hf_hub_download
    keywords: dict[str, Any] = {
        "cache_dir": options.cache_dir,
        "token": options.sent_token(),
        "endpoint": options.endpoint,
        "local_files_only": options.local_files_only,
        "force_download": force_download,
        "library_name": "celo-zoo",
    }
    where = f"{reference.repository}@{reference.revision}"
    commit = reference.revision
    path = pathlib.Path()
    for name in (folders.CHECKSUMS, *folders.LISTED):

        def get(name: str = name, **changes: Any) -> Any:
            return call(
                lambda: fetch(reference.repository, name, **{**keywords, **changes}),
                reference.repository,
                options,
                doing=f"{name} of {where} could not be fetched",
                file=f"{name} of {where}",
                revision=reference.revision,
            )

        offer = get(revision=commit, dry_run=True)
        if offer.file_size is None:
            raise HubError(f"the Hub does not report the size of {name} in {reference.repository}: try again later.")
        folders.check_size(name, offer.file_size, f"{reference.repository}@{offer.commit_hash}")
        commit = offer.commit_hash
        path = pathlib.Path(get(revision=reference.revision if name == folders.CHECKSUMS else commit))
        if path.parent.name != commit:
            raise HubError(f"{reference.repository} changed while it was fetched: try again.")
    return path.parent, commit


def call(
    function: Callable[[], T],
    repository: str,
    options: Options,
    *,
    doing: str,
    file: str = "",
    revision: str = "",
) -> T:
    """The result of ``function``; errors of the client become this package's, one sentence each, never with a token.

    Args:
      function: calls the client.
      repository: that the call is about.
      options: that the call uses.
      doing: beginning of the sentence, such as ``"x could not be fetched"``.
      file: file and reference, for a download.
      revision: that was requested.
    """
    try:
        return function()
    except ZooError:
        raise
    except Exception as error:  # the client's errors have no common base class
        failure = _translate(error, repository, options, doing, file, revision)
    # Outside the except clause, so that the client's error, which may quote the request, is not its context.
    raise failure


def _translate(error: Exception, repository: str, options: Options, doing: str, file: str, revision: str) -> ZooError:
    constants, errors = client("constants"), client("errors")
    if isinstance(error, errors.GatedRepoError):
        return AccessError(f"{repository} is gated: ask for access on its page, and log in with hf auth login.")
    if isinstance(error, errors.RepositoryNotFoundError):
        if not file:
            return AccessError(
                f"{doing}: there is no repository {repository} that this token may change; {_login(options)}, with a token "
                "that may write."
            )
        return NotFoundError(
            f"there is no folder {repository} here and no such repository on the Hub that you may read: check the "
            "name, or log in with hf auth login if it is private."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return NotFoundError(f"{repository} has no revision {revision!r}: give a commit, tag or branch of it.")
    if isinstance(error, errors.LocalEntryNotFoundError):
        if options.local_files_only:
            return NotFoundError(
                f"{file} is not in the cache, and local_files_only allows no request: load it online once."
            )
        if constants.HF_HUB_OFFLINE:
            by = environment.offline_by()
            return NotFoundError(f"{file} is not in the cache, and {by} is set: unset it once.")
        cause = error.__cause__ or error  # the error of the request for the file
        return _blamed(cause, options) or HubError(
            f"{file} is not in the cache, and the Hub was not reached or answered with an error "
            f"({_quoted(cause, options)}): {_check(cause, options)}."
        )
    if isinstance(error, errors.EntryNotFoundError):
        return NotFoundError(
            f"there is no {file}, so {repository} holds no learned optimizer of this package there: check the name."
        )
    if isinstance(error, errors.HFValidationError):
        return RefError(f"{repository!r} is no valid name of a repository on the Hub: give owner/repo.")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return HubError(f"{doing}: {environment.offline_by()} is set, so no request is made; unset it.")
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return AccessError(f"{doing}: the Hub rejected the token, or got none; {_login(options)}.")
    if status == 403:
        return AccessError(
            f"{doing}: the token may not do that to {repository}; make one with write access to it in your account's "
            "settings."
        )
    if status == 412:
        return ConflictError(
            f"{doing}: somebody else changed {repository} in the meantime; look at it, and try again.", status
        )
    if status is None and (failure := _blamed(error, options)):
        return failure
    return HubError(f"{doing} ({_quoted(error, options)}): {_check(error, options)}.", status)


def _blamed(error: BaseException, options: Options) -> ZooError | None:
    """The cause in the environment of an error that is not an answer of the Hub."""
    if getattr(error, "response", None) is not None:
        return None
    sends_login = options.token is True or (options.token is None and options.sent_token() is None)
    failure = environment.explain(
        error, endpoint=options.endpoint, cache_dir=options.cache_dir, sends_login=sends_login
    )
    return None if failure is None else type(failure)(redact(str(failure), options))


def _check(error: BaseException, options: Options) -> str:
    by = environment.in_effect(error, options.endpoint)
    return f"check the connection{f', which goes by {by},' if by else ''} and try again"


def _quoted(error: BaseException, options: Options) -> str:
    return f"{type(error).__name__}: {redact(' '.join(str(error).split()), options)[:300]}"


def _login(options: Options) -> str:
    if options.token is None and options.sent_token() is False:
        return "a saved login is not sent to another Hub, so pass its token, or set HF_ENDPOINT to that Hub"
    return "log in with hf auth login, or set HF_TOKEN"


def redact(text: str, options: Options) -> str:
    """``text`` without the token that was passed, and without the saved one."""
    try:
        saved = client("utils").get_token()
    except Exception:  # it cannot be read, and so is in no text
        saved = None
    for secret in (options.token, saved, *environment.tokens()):
        if isinstance(secret, str) and secret:
            text = text.replace(secret, "***")
    return text
