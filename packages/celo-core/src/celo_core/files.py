"""Atomic writing of files: a file appears whole or not at all."""

import contextlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO


@contextlib.contextmanager
def written_atomically(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a file for writing that replaces ``path`` when the block ends without an error.

    Missing folders are created. Until then the new file is in the same folder, since a rename is atomic within one file system
    only.

    Raises:
      OSError: the file could not be written; an older one at ``path`` is unchanged.
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


def check_room(folder: str | os.PathLike[str], num_bytes: int) -> None:
    """Creates a folder and checks, by writing and deleting a file, that this many bytes can be written there.

    Raises:
      OSError: they cannot be written; the message names the folder and says what to do.
    """
    path = pathlib.Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as file:
            for begin in range(0, num_bytes, 2**20):
                # Ones, since a file system may store zeros without allocating space for them.
                file.write(b"\xff" * min(2**20, num_bytes - begin))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(
            f"{path} has no room for {num_bytes / 2**20:.0f} MiB or cannot be written to ({error.strerror}): "
            "free some space there, or choose another folder."
        ) from error


def append_line(path: str | os.PathLike[str], value: Mapping[str, Any]) -> None:
    """Appends a line of JSON to a log."""
    with pathlib.Path(path).open("a") as file:
        file.write(json.dumps(value) + "\n")


def drop_lines_after(path: str | os.PathLike[str], iteration: int) -> None:
    """Drops a log's lines with an ``"iteration"`` beyond this one, which a killed run logged but did not save.

    Incomplete lines are dropped as well. A log that does not exist is not created.
    """
    path = pathlib.Path(path)
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["iteration"] <= iteration:
                kept.append(line)
        except (ValueError, KeyError):
            continue
    write_bytes(path, "".join(line + "\n" for line in kept).encode())
