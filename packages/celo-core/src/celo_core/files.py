"""Files that appear whole or not at all."""

import contextlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO


@contextlib.contextmanager
def written_atomically(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a file for writing that takes the place of ``path`` when the block ends without an error.

    Folders are made. The new file lies in the same folder meanwhile, since a rename is atomic within one file system only.

    Raises:
      OSError: the file could not be written; an older one at ``path`` is still there.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's files are private to the user
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a whole file; errors as `written_atomically`."""
    with written_atomically(path) as file:
        file.write(content)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes JSON with two spaces of indentation; errors as `written_atomically`, and ValueError for NaN or infinity."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())
