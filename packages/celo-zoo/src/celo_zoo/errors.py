"""What this package raises: every error is a `ZooError`, and one of Python's own kinds as well.

Each message is one sentence that says what was wrong and what to do next, and none has a token in it.
"""

LONGEST = 1000
"""Letters of a message at most; what is left out of a longer one is in its middle, as advice is at the end."""


class ZooError(Exception):
    """Whatever this package refuses or fails to do."""

    def __init__(self, message: str) -> None:
        # It may quote what a file or a server says: kept to one line that any terminal can show.
        text = " ".join("".join(letter if letter.isprintable() else " " for letter in message).split())
        super().__init__(text if len(text) <= LONGEST else f"{text[: LONGEST - 303]}...{text[-300:]}")


class FormatError(ZooError, ValueError):
    """Something is not, or not quite, the weights of a learned optimizer."""


class ChecksumError(FormatError):
    """A file's content is not what its checksum, or the digest in a reference, promises."""


class NewerFormatError(FormatError):
    """Weights are of a schema, or need an architecture, that only a newer version knows."""


class RefError(ZooError, ValueError):
    """A reference, or an argument that goes with it, cannot be understood."""


class SettingError(ZooError, ValueError):
    """An environment variable that the Hub's client reads, or what it names, is unfit."""


class BackendError(ZooError, RuntimeError):
    """JAX failed, at what has nothing to do with the weights."""


class NotFoundError(ZooError, FileNotFoundError):
    """There is no such folder, file, repository or revision, or it is not in the cache, or cannot be read."""


class ExistsError(ZooError, FileExistsError):
    """Something is in the way and is not replaced."""


class AccessError(ZooError, PermissionError):
    """The Hub does not let this user do that."""


class HubError(ZooError, ConnectionError):
    """The Hub could not be reached, or answered with an error.

    Attributes:
      status: HTTP status of its answer; ``None`` if there was none.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ConflictError(HubError):
    """Somebody else changed the repository in the meantime."""


class WriteError(ZooError, OSError):
    """A folder, or the cache of the Hub's client, could not be written; what was there before still is."""
