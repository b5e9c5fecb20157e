"""The folder that a learned optimizer is stored in: reading it checks every byte, and writing it is atomic.

* model.safetensors: theta, float arrays named by their slash path
* config.json: see `celo_zoo.schema`
* README.md: model card
* checksums: SHA-256 of the other three, in the format of sha256sum

The SHA-256 of the checksums file covers every byte: it is the digest in references and the index.
"""

import hashlib
import os
import pathlib
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Mapping

from celo_zoo.errors import ChecksumError, ExistsError, FormatError, NotFoundError, WriteError, ZooError

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
CARD = "README.md"
CHECKSUMS = "checksums"

LISTED = (CARD, CONFIG, WEIGHTS)
"""The files that `CHECKSUMS` lists, in its order."""

LARGEST = {WEIGHTS: 64 * 2**20, CONFIG: 2**20, CARD: 2**20, CHECKSUMS: 2**12}
"""Maximum size in bytes of each file."""

_LINE = re.compile(r"([0-9a-f]{64})  ([\w.]+)", re.ASCII)


def expand(path: str | os.PathLike[str]) -> pathlib.Path:
    """The path with ``~`` and ``~user`` written out.

    Raises:
      NotFoundError: that user has no home directory.
    """
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError:
        raise NotFoundError(f"{os.fspath(path)!r} begins with an unknown home directory: write out the path.") from None


def is_there(path: pathlib.Path, what: Callable[[pathlib.Path], bool]) -> bool:
    """Whether ``what``, such as `pathlib.Path.is_dir`, is true of a path.

    Raises:
      NotFoundError: it cannot be determined, for lack of rights or because the path is too long.
    """
    try:
        return what(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise NotFoundError(
            f"{str(path)[:300]!r} cannot be accessed ({reason}): check the path and your rights."
        ) from None


def read_text(path: str | os.PathLike[str], what: str) -> str:
    """The text of a file.

    Args:
      path: the file.
      what: what the file holds, for messages.

    Raises:
      NotFoundError: there is no such file, or it cannot be read.
      FormatError: it is not UTF-8.
    """
    try:
        return expand(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{os.fspath(path)} is not UTF-8 ({error}): name another file of {what}.") from None
    except ZooError:
        raise
    except (OSError, ValueError) as error:
        raise unreadable(path, error, what) from None


def unreadable(path: str | os.PathLike[str], error: Exception, what: str) -> NotFoundError:
    """The error to raise for a file that could not be read.

    Args:
      path: the file.
      error: what reading it raised.
      what: what the file holds, for the message.
    """
    if isinstance(error, FileNotFoundError):
        return NotFoundError(f"there is no file {os.fspath(path)}: check the path of {what}.")
    reason = getattr(error, "strerror", None) or error
    return NotFoundError(f"{os.fspath(path)} cannot be read ({reason}): check the path of {what}, and your rights.")


def check_size(name: str, size: int, where: str) -> None:
    """Raises `FormatError` if a file of ``size`` bytes is larger than its name permits."""
    if size > LARGEST[name]:
        raise FormatError(
            f"{where}: {name} has {size:,} bytes, more than the {LARGEST[name]:,} allowed: it is no learned optimizer "
            "of this package."
        )


def digest_of(files: Mapping[str, bytes]) -> str:
    """SHA-256 of the checksums file, which covers every byte."""
    return hashlib.sha256(files[CHECKSUMS]).hexdigest()


def read(folder: pathlib.Path, where: str, *, digest: str | None = None) -> dict[str, bytes]:
    """The content of the four files, read once and checked before anything is parsed.

    Args:
      folder: the folder.
      where: name of the folder in messages.
      digest: SHA-256 that the checksums file itself must have.

    Raises:
      NotFoundError: a file is missing.
      ChecksumError: a file, or the checksums file, is altered.
      FormatError: a file is too large, or not a file.
    """
    files = {CHECKSUMS: _read_file(folder, CHECKSUMS, where)}
    if digest is not None and digest_of(files) != digest:
        raise ChecksumError(
            f"{where} has the digest {digest_of(files)}, not {digest} as expected, so these are other weights or altered "
            "ones: find out who changed them (or, for a name of the package, install it again)."
        )
    expected = parse_checksums(files[CHECKSUMS], where)
    for name in LISTED:
        files[name] = _read_file(folder, name, where)
        if hashlib.sha256(files[name]).hexdigest() != expected[name]:
            raise ChecksumError(
                f"{where}: {name} does not have the SHA-256 in {CHECKSUMS}, so it is damaged or altered: get it again."
            )
    return files


def _read_file(folder: pathlib.Path, name: str, where: str) -> bytes:
    try:
        # Not blocking, since reading a pipe of that name would wait for ever.
        descriptor = os.open(folder / name, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise FormatError(f"{where}: {name} is not a file: get it again.")
            check_size(name, status.st_size, where)
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(status.st_size)
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(
            f"{where}: there is no {name}; a learned optimizer's folder holds {', '.join((CHECKSUMS, *LISTED))}."
        ) from None
    except OSError as error:
        raise FormatError(f"{where}: {name} cannot be read ({error.strerror}): check the folder.") from None


def parse_checksums(data: bytes, where: str) -> dict[str, str]:
    """SHA-256 by file name.

    Raises:
      ChecksumError: malformed, or not exactly one line for each of `LISTED`.
    """
    lines = data.decode("ascii", "replace").split("\n")
    matches = [_LINE.fullmatch(line) for line in lines[:-1]]
    if lines[-1] != "" or None in matches:
        raise ChecksumError(
            f"{where}: {CHECKSUMS} is not in the format of sha256sum, so it is damaged or altered: get it again."
        )
    digests = {match[2]: match[1] for match in matches if match}
    if len(matches) != len(LISTED) or set(digests) != set(LISTED):
        raise ChecksumError(
            f"{where}: {CHECKSUMS} does not list exactly {', '.join(LISTED)}: get the folder again, or upgrade "
            "celo-zoo if it was written by a newer version."
        )
    return digests


def format_checksums(files: Mapping[str, bytes]) -> bytes:
    """The checksums file for the files of `LISTED`."""
    return "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in LISTED).encode()


def write(
    folder: str | os.PathLike[str],
    files: Mapping[str, bytes],
    *,
    overwrite: bool = False,
    check: Callable[[pathlib.Path], None] = lambda folder: None,
) -> pathlib.Path:
    """Writes the files and their checksums as a folder, atomically.

    Args:
      folder: path of the folder; missing parents are created.
      files: content by name, one for each of `LISTED`.
      overwrite: replace an existing folder, but only one that holds nothing but a learned optimizer. Between two renames
        neither the old nor the new one is there for a moment; if the second one fails, the old folder is put back.
      check: called with the finished temporary folder before it is renamed; an exception in it aborts the writing.

    Raises:
      ExistsError: the folder exists, and ``overwrite`` is off or it holds other files.
      WriteError: it could not be written; an older one is unchanged.
    """
    target = expand(folder)
    try:
        target = pathlib.Path(os.path.realpath(target))
        _check_replaceable(target, overwrite)
        _write(target, files, check)
    except OSError as error:
        if isinstance(error, ZooError):
            raise
        raise WriteError(
            f"{target} could not be written ({error.strerror or error}): check space and rights."
        ) from error
    return target


def _write(target: pathlib.Path, files: Mapping[str, bytes], check: Callable[[pathlib.Path], None]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = (target.with_name(f".{target.name}.{secrets.token_hex(4)}.{kind}") for kind in ("tmp", "old"))
    temporary.mkdir()
    try:
        for name, content in {**files, CHECKSUMS: format_checksums(files)}.items():
            with open(temporary / name, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        check(temporary)
        if target.exists():
            os.rename(target, old)
        try:
            os.rename(temporary, target)
        except BaseException:
            if old.exists():
                os.rename(old, target)
            raise
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _check_replaceable(target: pathlib.Path, overwrite: bool) -> None:
    if not target.exists():
        return
    if not overwrite:
        raise ExistsError(f"{target} exists: choose another folder, or pass overwrite=True (--overwrite).")
    if not target.is_dir():
        raise ExistsError(f"{target} is not a folder: choose another name.")
    if strange := sorted({entry.name for entry in target.iterdir()} - {CHECKSUMS, *LISTED}):
        raise ExistsError(
            f"{target} holds other files, such as {strange[0]!r}, and is not replaced: choose another folder."
        )
