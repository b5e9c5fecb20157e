"""One repository on the Hub: its content, and the few changes that publishing makes to it."""

import dataclasses
import hashlib
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from celo_zoo import hub
from celo_zoo.errors import ConflictError, HubError, SettingError, WriteError, ZooError

T = TypeVar("T")

BRANCH = "main"

_PAUSES = (0.5, 1.0, 2.0)
"""Seconds between attempts at requests that may be repeated."""


@dataclasses.dataclass(frozen=True)
class State:
    """The state of a repository.

    Attributes:
      head: commit of `BRANCH`.
      files: path -> identifier of its content, see `identities`.
      tags: name -> commit.
    """

    head: str
    files: dict[str, str]
    tags: dict[str, str]

    def holds(self, files: Mapping[str, bytes]) -> bool:
        """Whether all of ``files`` are in it, with this content."""
        return all(self.files.get(name) in identities(content) for name, content in files.items())


def identities(content: bytes) -> tuple[str, str]:
    """Identifiers of a content on the Hub: SHA-256 in large-file storage, else the id of a Git blob."""
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    return hashlib.sha256(content).hexdigest(), blob


class Remote:
    """A repository on the Hub, through the real client; errors are this package's.

    Attributes:
      repository: ``owner/name``.
    """

    def __init__(self, repository: str, options: hub.Options) -> None:
        self.repository = repository
        self._options = options
        api = hub.client("hf_api").HfApi
        self._api = api(endpoint=options.endpoint, token=options.sent_token(), library_name="celo-zoo")

    @property
    def url(self) -> str:
        """Its page."""
        return f"{self._api.endpoint}/{self.repository}"

    def state(self) -> State | None:
        """Its state, or None if there is no repository, or none that the token may read.

        Raises:
          HubError: the Hub could not be reached.
        """
        return self._call(self._state, "could not be read")

    def _state(self) -> State | None:
        errors, repo_file = hub.client("errors"), hub.client("hf_api").RepoFile
        try:
            head = self._api.model_info(self.repository, revision=BRANCH).sha
        except errors.RepositoryNotFoundError as error:
            if isinstance(error, errors.GatedRepoError):
                raise
            return None
        tree = self._api.list_repo_tree(self.repository, revision=head, recursive=True)
        files = {
            entry.path: entry.lfs.sha256 if entry.lfs else entry.blob_id
            for entry in tree
            if isinstance(entry, repo_file)
        }
        refs = self._api.list_repo_refs(self.repository)
        return State(str(head), files, {tag.name: tag.target_commit for tag in refs.tags})

    def create(self, *, private: bool) -> bool:
        """Creates it; returns whether this call did, rather than somebody else or an earlier call whose answer was lost.

        Raises:
          ZooError: it could not be created, and does not exist.
        """
        try:
            self._call(lambda: self._api.create_repo(self.repository, private=private), "could not be created")
        except HubError:
            if self.state() is None:
                raise
            return False
        return True

    def remove_empty(self) -> bool:
        """Removes it if it holds nothing yet; returns whether it is gone."""
        try:
            state = self.state()
            if state is not None and (state.tags or set(state.files) - {".gitattributes"}):
                return False
            if state is not None:
                self._call(lambda: self._api.delete_repo(self.repository), "could not be removed")
            return True
        except ZooError:
            return False

    def commit(self, files: Mapping[str, bytes], message: str, parent: str) -> str:
        """Commits all files at once onto ``parent``; returns the commit.

        If the answer is lost, the repository's state shows whether the commit was made.

        Raises:
          ConflictError: the branch is no longer at ``parent``; nothing was committed.
          ZooError: nothing was committed, or, if the message says so, it is unknown.
        """
        from huggingface_hub import CommitOperationAdd

        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        send = lambda: self._api.create_commit(
            self.repository, operations, commit_message=message, parent_commit=parent, revision=BRANCH
        )
        try:
            return self._call(send, "was not changed").oid
        except (HubError, SettingError, WriteError) as error:
            status = getattr(error, "status", None)
            if status is not None and 400 <= status < 500:
                raise
            failure: ZooError = error
        return self._landed(files, parent, failure)

    def _landed(self, files: Mapping[str, bytes], parent: str, failure: ZooError) -> str:
        """The commit, if it was made although the call ended with ``failure``."""
        state: State | None = None
        for pause in (0.0, *_PAUSES):
            time.sleep(pause)
            try:
                state = self.state()
            except ZooError:
                continue
            if state is not None and state.head != parent:
                break
        if state is None:
            raise HubError(
                f"{failure} It is unknown whether the commit was made nevertheless: look at {self.url}, or "
                "publish again, which completes what is missing."
            ) from None
        if state.head == parent:
            raise failure
        if not state.holds(files):
            raise ConflictError(
                f"{self.repository} was not changed: somebody else changed it in the meantime; look at it, and try again."
            )
        return state.head

    def tag(self, name: str, commit: str) -> None:
        """Tags a commit; tries again where the Hub fails.

        Raises:
          ZooError: it could not be tagged.
        """
        for pause in (*_PAUSES, None):
            try:
                return self._call(
                    lambda: self._api.create_tag(self.repository, tag=name, revision=commit), f"got no tag {name}"
                )
            except HubError:
                # It may exist already, from a call whose answer was lost.
                if self._tag_of(name) == commit:
                    return None
                if pause is None:
                    raise
                time.sleep(pause)
        return None

    def _tag_of(self, name: str) -> str | None:
        try:
            state = self.state()
        except ZooError:
            return None
        return None if state is None else state.tags.get(name)

    def _call(self, function: Callable[[], T], doing: str) -> T:
        return hub.call(function, self.repository, self._options, doing=f"{self.repository} {doing}")
