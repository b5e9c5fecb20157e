"""Errors of this package: each is a `ZooError`, and one of Python's own kinds as well.

Each message is one sentence that says what was wrong and what to do next, and none contains a token.
"""

LONGEST = 1000
"""Maximum number of characters of a message; a longer one is cut in the middle, since the advice is at the end."""


class ZooError(Exception):
    """Base class of this package's errors."""

    def __init__(self, message: str) -> None:
        # It may quote a file or a server: reduced to one line of printable characters.
        text = " ".join("".join(letter if letter.isprintable() else " " for letter in message).split())
        super().__init__(text if len(text) <= LONGEST else f"{text[: LONGEST - 303]}...{text[-300:]}")


class FormatError(ZooError, ValueError):
    """Something is not the weights of a learned optimizer, or is damaged."""


class ChecksumError(FormatError):
    """A file's content does not match its checksum, or the digest in a reference."""


class NewerFormatError(FormatError):
    """Weights have a format, or need an architecture, that only a newer version has."""


class RefError(ZooError, ValueError):
    """A reference, or an argument that belongs to it, is invalid."""


class SettingError(ZooError, ValueError):
    """An environment variable that the Hub's client reads, or the file or folder that it names, is invalid."""


class BackendError(ZooError, RuntimeError):
    """JAX failed for a reason that is independent of the weights."""


class NotFoundError(ZooError, FileNotFoundError):
    """There is no such folder, file, repository or revision, or it is not in the cache, or cannot be read."""


class ExistsError(ZooError, FileExistsError):
    """Something exists already and is not replaced."""


class AccessError(ZooError, PermissionError):
    """The Hub does not permit this to the user."""


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
    """A folder, or the cache of the Hub's client, could not be written; what was there before is unchanged."""
