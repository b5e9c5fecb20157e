"""Publishing a learned optimizer on the Hugging Face Hub: one commit with all files, or none."""

import contextlib
import dataclasses
import hashlib
import logging
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from celo_zoo import card as card_lib
from celo_zoo import folders, hub, models, references, runs, saving, schema
from celo_zoo.errors import ExistsError, FormatError, HubError, RefError, WriteError, ZooError
from celo_zoo.remote import Remote, State, identities

_logger = logging.getLogger(__name__)

_NUMBERED = re.compile(r"v(\d{1,9})")


@dataclasses.dataclass(frozen=True)
class Change:
    """The change to one file in a publication.

    Attributes:
      path: in the repository.
      kind: ``"added"``, ``"changed"`` or ``"unchanged"``.
      size: bytes.
      sha256: of the content, hexadecimal.
    """

    path: str
    kind: str
    size: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Publication:
    """What was published, or would be.

    Attributes:
      repository: ``owner/name``.
      url: page of the repository.
      digest: SHA-256 of the checksums file, which covers every byte.
      changes: by file.
      parent: commit that the repository was at; ``None`` if it did not exist.
      commit: the one that holds the weights; ``None`` in a dry run.
      tag: of the commit; ``None`` without.
      dry_run: whether nothing was sent.
    """

    repository: str
    url: str
    digest: str
    changes: tuple[Change, ...]
    parent: str | None
    commit: str | None
    tag: str | None
    dry_run: bool

    @property
    def reference(self) -> str | None:
        """The reference with which `celo_zoo.load` returns exactly these bytes."""
        return f"{self.repository}@{self.commit}@sha256:{self.digest}" if self.commit else None


def publish(
    weights: Any,
    repository: str,
    *,
    config: Any = None,
    metadata: Mapping[str, Any] | None = None,
    evaluation: Sequence[Mapping[str, Any]] = (),
    card: str | None = None,
    tag: str | None = "auto",
    message: str | None = None,
    private: bool = False,
    token: str | bool | None = None,
    endpoint: str | None = None,
    dry_run: bool = False,
    progress: Callable[[str], None] = _logger.info,
) -> Publication:
    """Publishes a learned optimizer: builds its card, validates it, commits it at once, downloads it anew, and tags it.

    Before the commit nothing is changed, except that a missing repository is created, which is removed again if the commit
    fails. The commit holds all files or is not made, and only if the repository has not changed since it was read. What
    comes after it (the download that verifies it, the tag) is completed by publishing the same again, which commits
    nothing twice.

    Args:
      weights: a folder of `save` or of a finished ``celo-tasks meta-train``, a known name or another reference of `load`,
        or a theta, with its ``config``.
      repository: ``owner/name`` on the Hub; made if there is none.
      config: the architecture's config dataclass, for a theta.
      metadata: provenance, see `save`; replaces single entries of what a folder has.
      evaluation: results, each from `celo_zoo.evaluation.from_report`; replaces those that a folder has.
      card: text of the model card. Left out, a card of its own that a folder has is kept, and otherwise one is written.
      tag: name for this version; ``"auto"`` for the next of v1, v2, ...; ``None`` for no tag.
      message: of the commit.
      private: makes a missing repository a private one.
      token: access token that may write; ``None`` for the login saved on this machine or in ``HF_TOKEN``.
      endpoint: address of another Hub; a saved login is not sent there. Set ``HF_HUB_DISABLE_XET=1`` for it.
      dry_run: send nothing, and return what would be committed.
      progress: called with a line on every step.

    Returns:
      A `Publication`.

    Raises:
      FormatError, RefError: the weights, the card or a name are invalid; nothing was sent.
      ExistsError: the tag exists already, on another commit; nothing was sent.
      AccessError: the token may not do that.
      ConflictError: somebody else changed the repository meanwhile; it is as they left it.
      HubError: the Hub could not be reached or failed; the message says whether anything was changed.
      ChecksumError: the download differs from what was sent.
    """
    references.check_repository(repository)
    if tag is not None and (not references.is_revision(tag) or re.fullmatch(r"[0-9a-f]{40}|main", tag)):
        raise RefError(f"{tag!r} is no name for a tag: use letters, digits, dots and dashes, such as v1.")
    files = _files(weights, repository, config, metadata, evaluation, card)
    files = {**files, folders.CHECKSUMS: folders.format_checksums(files)}
    digest = folders.digest_of(files)
    options = hub.Options(token=token, endpoint=endpoint)
    with _scratch() as scratch:
        progress("checking what will be published")
        written = folders.write(pathlib.Path(scratch) / "weights", {name: files[name] for name in folders.LISTED})
        card_lib.read_metadata(_text(files[folders.CARD]))
        checked = models.read_folder(written, where="the folder as it would be published", digest=digest)
        remote = Remote(repository, options)
        progress(f"looking at {remote.url}")
        state = remote.state()
        tag = _choose_tag(tag, state, files, repository)
        planned = Publication(
            repository,
            remote.url,
            digest,
            _changes(files, state),
            None if state is None else state.head,
            None,
            tag,
            dry_run,
        )
        if dry_run:
            return planned
        commit = _commit(
            remote, state, files, message or f"Publish {checked.architecture.name} weights", private, progress
        )
        progress("downloading it anew to verify it")
        unverified = (
            f"{repository} has the commit {commit}, but it could not be verified by downloading it, and got no tag"
        )
        with _committed(unverified, "verifies it once more"):
            fresh = dataclasses.replace(options, cache_dir=pathlib.Path(scratch) / "cache")
            models.from_hub(references.Hub(repository, commit, digest), fresh)
        if tag is not None and (state is None or tag not in state.tags):
            progress(f"tagging it {tag}")
            with _committed(
                f"the weights are published and verified as commit {commit}, but without the tag", "sets it"
            ):
                remote.tag(tag, commit)
    return dataclasses.replace(planned, commit=commit)


@contextlib.contextmanager
def _scratch() -> Iterator[str]:
    """A temporary folder; raises `WriteError` if none can be made."""
    try:
        # A failure to remove it is ignored.
        folder = tempfile.TemporaryDirectory(prefix="celo-zoo-", ignore_cleanup_errors=True)
    except OSError as error:
        raise WriteError(
            f"no temporary folder can be made ({error.strerror or error}): free some space, or set TMPDIR to another folder."
        ) from None
    with folder as path:
        yield path


def _files(
    weights: Any,
    repository: str,
    config: Any,
    metadata: Mapping[str, Any] | None,
    evaluation: Sequence[Mapping[str, Any]],
    card: str | None,
) -> dict[str, bytes]:
    """The files to publish, without checksums."""
    theta: Any = weights
    provenance: Mapping[str, Any] = {}
    results = list(evaluation)
    if isinstance(weights, Mapping):
        pass
    elif config is not None:
        raise RefError("a config belongs to a theta, and a folder has its own: leave it out.")
    elif runs.is_run(weights):
        theta, config, provenance = runs.load_run(weights)
    else:
        found = models.load(weights)
        stored = found.read_files()
        if not (metadata or evaluation or card) and schema.is_meant_for(stored[folders.CONFIG], repository):
            return {name: stored[name] for name in folders.LISTED}
        theta, config = found
        provenance = found.document["provenance"]
        results = results or found.document["evaluation"]
        card = _own_card(found, stored[folders.CARD]) if card is None else card
        if card is not None and evaluation:
            _logger.warning("the model card is not rewritten, so the results are in config.json only")
    return saving.render(
        theta,
        config,
        metadata={**provenance, **(metadata or {})},
        evaluation=results,
        repository=repository,
        card=card,
    )


def _own_card(found: models.Pretrained, stored: bytes) -> str | None:
    """The card of a folder, if it differs from the one that would be written for it."""
    text = _text(stored)
    written = saving.write_card(found.document, found.theta)
    return None if text == written else text


def _text(card: bytes) -> str:
    try:
        return card.decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"the model card is not UTF-8 ({error}): write it anew.") from error


def _changes(files: Mapping[str, bytes], state: State | None) -> tuple[Change, ...]:
    def kind(name: str, content: bytes) -> str:
        if state is None or name not in state.files:
            return "added"
        return "unchanged" if state.files[name] in identities(content) else "changed"

    return tuple(
        Change(name, kind(name, content), len(content), hashlib.sha256(content).hexdigest())
        for name, content in files.items()
    )


def _choose_tag(tag: str | None, state: State | None, files: Mapping[str, bytes], repository: str) -> str | None:
    """The tag to set, or an existing one for the same content."""
    tags = {} if state is None else state.tags
    published = state is not None and state.holds(files)
    if tag == "auto":
        if published and state is not None and (same := sorted(name for name in tags if tags[name] == state.head)):
            return same[-1]
        return f"v{1 + max((int(match[1]) for name in tags if (match := _NUMBERED.fullmatch(name))), default=0)}"
    if tag in tags and not (published and state is not None and tags[tag] == state.head):
        raise ExistsError(f"{repository} has a tag {tag!r} on other weights: choose another one.")
    return tag


def _commit(
    remote: Remote,
    state: State | None,
    files: Mapping[str, bytes],
    message: str,
    private: bool,
    progress: Callable[[str], None],
) -> str:
    if state is not None and state.holds(files):
        progress(f"it is there already, as commit {state.head}")
        return state.head
    created = False
    try:
        if state is None:
            progress(f"creating {remote.repository}{' (private)' if private else ''}")
            created = remote.create(private=private)
            state = remote.state()
            if state is None:
                raise HubError(f"{remote.repository} was created and is not there: try again.")
        progress(f"committing {len(files)} files")
        return remote.commit(files, message, state.head)
    except BaseException:
        if created and not remote.remove_empty():
            progress(
                f"{remote.url} was created and could not be removed again: it is empty, and publishing again uses it"
            )
        raise


@contextlib.contextmanager
def _committed(so_far: str, again: str) -> Iterator[None]:
    """Adds to an error that the commit was made: ``so_far``, and what publishing the same ``again`` does."""
    try:
        yield
    except ZooError as error:
        raise type(error)(f"{so_far}: {error} Publishing the same again {again}.") from None
