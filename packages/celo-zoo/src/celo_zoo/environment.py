"""Finds what in the environment made the Hub's client fail: its variables, and the files and folders that they name.

The client reads some thirty variables when it is imported or used, and few of its errors name the variable at fault. Nothing
here is checked before something has failed, since an invalid variable may have no effect.
"""

import errno
import importlib.util
import os
import pathlib
import re
import ssl
import urllib.parse
import urllib.request
from collections.abc import Iterator

from celo_zoo.errors import RefError, SettingError, WriteError, ZooError

_TIMEOUTS = ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT")
_LONGEST = 10**9  # seconds; timeouts of a socket cannot be much longer
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_CACHES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "HOME")
"""Variables that set the cache's folder; the first that is set counts."""

_LOGINS = ("HF_TOKEN_PATH", "HF_HOME", "XDG_CACHE_HOME", "HOME")
"""Variables that set the file of the saved login; the first that is set counts."""

_PREFIXES = ("HF_", "HUGGING", "TQDM_", "SSL", "FSSPEC_")
_PROXIES = ("http", "https", "all")
_LOCAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO, errno.EACCES, errno.EPERM, errno.EMFILE}
"""Error codes that concern a file even where Python does not name it."""


def explain(
    error: BaseException, *, endpoint: str | None, cache_dir: str | os.PathLike[str] | None, sends_login: bool
) -> ZooError | None:
    """The cause in the environment of the client's ``error``, in one sentence; ``None`` if there is none.

    Args:
      error: of the client, not an answer of the Hub.
      endpoint: the address that was passed; ``None`` if it came from the environment.
      cache_dir: the cache that was passed; ``None`` if it came from the environment.
      sends_login: whether the saved login was to be sent.
    """
    if endpoint is not None and not _is_address(endpoint):
        return RefError(f"the endpoint {_shown(endpoint)} is no address of a Hub: give one like https://HOST:PORT.")
    for text in _unfit(error, endpoint, sends_login):
        return SettingError(text)
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError | ssl.SSLError):
        return _of_file(error, cache_dir)
    return None


def in_effect(error: BaseException, endpoint: str | None) -> str:
    """The variables that applied to a failed connection, joined with ``and``; empty if there are none."""
    moved = () if endpoint is not None else ("HUGGINGFACE_CO_STAGING", "HF_ENDPOINT")
    names = [name for name in moved if _is_set(name)]
    address = urllib.parse.urlsplit(endpoint or os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    if not urllib.request.proxy_bypass(address.hostname or ""):
        names += filter(None, [_proxy(address.scheme) or _proxy("all")])
    if "CERTIFICATE" in str(error) or "SSL" in str(error):
        names += [name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if _is_set(name)]
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def offline_by() -> str:
    """The variable that forbids requests."""
    return next((name for name in _OFFLINE if _is_set(name)), _OFFLINE[0])


def tokens() -> list[str]:
    """Tokens in variables, as they are set and as the client sends them."""
    found = [value for name in _TOKENS if (value := os.environ.get(name))]
    return found + [_sent(value) for value in found if _sent(value)]


def is_token(text: str) -> bool:
    """Whether a text can be a token: no blanks, and only characters that are valid in an HTTP header."""
    return bool(text) and _fits_header(text) and " " not in text


def _fits_header(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _is_set(name: str) -> bool:
    return bool(os.environ.get(name))


def _sent(token: str) -> str:
    """A token in a variable or a file as the client sends it."""
    return token.replace("\r", "").replace("\n", "").strip()


def _shown(value: str) -> str:
    """A value for a message, without the password that an address may contain."""
    return repr(re.sub(r"^(\w+://)?.*@", r"\1***@", value, flags=re.DOTALL)[:80])


def _is_address(value: str, schemes: tuple[str, ...] = ("http", "https")) -> bool:
    try:
        parts = urllib.parse.urlsplit(value)
        _ = parts.port  # ValueError for an invalid one
    except ValueError:
        return False
    host = parts.hostname or ""
    return parts.scheme in schemes and bool(host) and host.isprintable() and " " not in host


def _proxy(scheme: str) -> str | None:
    """The variable with the proxy for a scheme; as in urllib, lower case comes first."""
    return next((name for name in (f"{scheme}_proxy", f"{scheme}_proxy".upper()) if _is_set(name)), None)


def _unfit(error: BaseException, endpoint: str | None, sends_login: bool) -> Iterator[str]:
    """Sentences about variables that the client cannot use, in the order in which it reads them."""
    for name in _TIMEOUTS:
        seconds = os.environ.get(name)
        if seconds is not None and isinstance(error, ValueError | OverflowError) and not _is_seconds(seconds):
            yield f"{name} is {_shown(seconds)}: set it to a whole number of seconds, or unset it."
    address = os.environ.get("HF_ENDPOINT")
    if endpoint is None and address is not None and not _is_address(address):
        yield f"HF_ENDPOINT is {_shown(address)}: set it to the address of a Hub, such as https://HOST:PORT, or unset it."
    for proxy in filter(None, map(_proxy, _PROXIES)):
        yield from _unfit_proxy(proxy, os.environ[proxy])
    yield from _unfit_certificates(error)
    if origin := os.environ.get("HF_HUB_USER_AGENT_ORIGIN"):
        if not _fits_header(origin):
            yield "HF_HUB_USER_AGENT_ORIGIN has characters that no header may have: use letters and digits, or unset it."
    if sends_login:
        yield from _unfit_login(error)
    # A value that the error quotes is the one at which the client failed.
    for name, value in () if isinstance(error, OSError) else sorted(os.environ.items()):
        if name.startswith(_PREFIXES) and name not in _TOKENS and value and repr(value) in str(error):
            yield f"{name} is {_shown(value)}, which cannot be used ({type(error).__name__}): set it right, or unset it."


def _is_seconds(value: str) -> bool:
    try:
        return 0 <= int(value) <= _LONGEST
    except ValueError:
        return False


def _unfit_proxy(name: str, value: str) -> Iterator[str]:
    # It often contains a password, so it is not shown.
    address = value if "://" in value else f"http://{value}"
    if not _is_address(address, ("http", "https", "socks5", "socks5h")):
        yield f"{name} is no address of a proxy: set it to one like http://HOST:PORT, or unset it."
    elif address.startswith("socks") and importlib.util.find_spec("socksio") is None:
        yield f"{name} names a SOCKS proxy, which needs the package socksio: pip install socksio, or unset it."


def _unfit_certificates(error: BaseException) -> Iterator[str]:
    if not isinstance(error, OSError):  # the client got as far as trying to connect to the server
        folder = os.environ.get("SSL_CERT_DIR")
        if folder and "CERTIFICATE_VERIFY_FAILED" in str(error) and not os.path.isdir(folder):
            yield f"SSL_CERT_DIR names {folder!r}, which is no folder: set it to one with certificates, or unset it."
        return
    if error.filename and error.filename == os.environ.get("SSLKEYLOGFILE"):
        yield f"SSLKEYLOGFILE names {error.filename!r}, which cannot be written ({error.strerror}): unset it."
    elif path := os.environ.get("SSL_CERT_FILE"):
        try:
            ssl.create_default_context(cafile=path)
        except OSError as failure:
            reason = "it holds none" if isinstance(failure, ssl.SSLError) else failure.strerror
            yield f"SSL_CERT_FILE names {path!r}, which has no certificates to read ({reason}): set it right, or unset it."


def _unfit_login(error: BaseException) -> Iterator[str]:
    if os.environ.get("HF_OIDC_RESOURCE") and type(error).__name__ == "OIDCError":
        yield f"HF_OIDC_RESOURCE gives no login ({error}): unset it, or check its token."
        return
    for name in _TOKENS:
        if value := os.environ.get(name):
            if not _fits_header(_sent(value)):
                yield f"{name} has characters that no token has: copy it again from your account's settings, or unset it."
            return
    path = _login_file()
    try:
        if path is None or _fits_header(_sent(path.read_text())):
            return
        reason = "it has characters that no token has"
    except FileNotFoundError:
        return
    except NotADirectoryError:
        name = next((name for name in _LOGINS if _is_set(name)), "HF_HOME")
        place = "HF_HOME" if name == "HOME" else name
        yield f"{name} is {os.environ.get(name)!r}, where no folder can be: set {place} to another place."
        return
    except (OSError, ValueError) as failure:
        reason = getattr(failure, "strerror", None) or "it is no text"
    yield (
        f"the saved login in {str(path)!r}{_set_by(_LOGINS)} cannot be read ({reason}): log in again with hf auth "
        "login, or name another file by HF_TOKEN_PATH."
    )


def _login_file() -> pathlib.Path | None:
    try:
        from huggingface_hub import constants
    except Exception:  # then the login is not at fault
        return None
    return pathlib.Path(constants.HF_TOKEN_PATH)


def _set_by(names: tuple[str, ...]) -> str:
    """Which variable set a path, as part of a sentence."""
    name = next((name for name in names if _is_set(name)), None)
    return "" if name in (None, "HOME") else f", where {name} puts it,"


def _of_file(error: OSError, cache_dir: str | os.PathLike[str] | None) -> ZooError | None:
    """The error about a file or folder of the client: no space, no rights, or another reason."""
    if error.filename is None and error.errno not in _LOCAL:
        return None
    setting = "cache_dir" if cache_dir is not None else next((name for name in _CACHES if _is_set(name)), "HF_HOME")
    where = os.fspath(cache_dir) if cache_dir is not None else os.environ.get(setting, "")
    path = str(error.filename or where)
    return WriteError(
        f"the cache of the Hub's client cannot be used: {path!r} fails with {error.strerror!r}, where {setting} is "
        f"{where!r}; check space and rights there, or set {'HF_HOME' if setting == 'HOME' else setting} to another folder."
    )
