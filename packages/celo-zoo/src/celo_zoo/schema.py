"""config.json: everything besides theta that is needed to rebuild a learned optimizer; older versions stay readable.

Version 3 has the keys

* ``format_version``: 3
* ``requires``: lowest versions that read it, ``{"celo-zoo": "0.1.0", "celo-core": "0.1.0"}``
* ``architecture``: name for `celo_core.get_architecture`
* ``config``: JSON form of the architecture's config dataclass, see `celo_core.configs`
* ``provenance``: object; see `celo_zoo.save`
* ``evaluation``: list of results, see `celo_zoo.evaluation`
* ``repository``: ``owner/name`` on the Hub that the folder is meant for, or null

Version 2 had configs of flags, and other names in theta, see `celo_zoo.upgrades`. Version 1 had neither ``requires``,
``evaluation`` nor ``repository``, and float32 weights only.
"""

import functools
import json
import math
import re
from collections.abc import Mapping
from typing import Any

import jax

import celo_core
from celo_core import LearnedOptimizer, architecture_names, configs, get_architecture
from celo_zoo import evaluation as evaluation_lib
from celo_zoo import folders, tensors, upgrades
from celo_zoo.errors import BackendError, FormatError, NewerFormatError

FORMAT_VERSION = 3

READABLE_SINCE = "0.1.0"
"""The first version of celo-zoo that reads `FORMAT_VERSION`."""

LARGEST_NUMBER = 2**16
"""Largest whole number that is accepted in a config: nothing larger is built to check it."""

LONGEST_LIST = 256
"""Longest list that is accepted in a config."""

_VERSION = re.compile(r"\d{1,5}(\.\d{1,5}){0,3}")


def document(
    config: Any,
    architecture: str,
    *,
    provenance: Mapping[str, Any] | None = None,
    evaluation: list[dict[str, Any]] | None = None,
    repository: str | None = None,
) -> dict[str, Any]:
    """The content of config.json in the present version."""
    return {
        "format_version": FORMAT_VERSION,
        "requires": {"celo-zoo": READABLE_SINCE, "celo-core": celo_core.__version__},
        "architecture": architecture,
        "config": configs.to_json(config),
        "provenance": dict(provenance or {}),
        "evaluation": list(evaluation or []),
        "repository": repository,
    }


def encode(document: Mapping[str, Any]) -> bytes:
    """The bytes of config.json.

    Raises:
      FormatError: the provenance is not JSON, or too large.
    """
    try:
        data = (json.dumps(document, indent=2, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise FormatError(
            f"the metadata are not JSON ({error}): use dicts, lists, strings and finite numbers."
        ) from error
    if len(data) > folders.LARGEST[folders.CONFIG]:
        raise FormatError(
            f"the metadata have {len(data):,} bytes, more than the {folders.LARGEST[folders.CONFIG]:,} allowed: keep "
            "what is large elsewhere, and name it."
        )
    return data


def decode(data: bytes, theta: Any, where: str) -> tuple[dict[str, Any], LearnedOptimizer, Any]:
    """The document, upgraded to the present version, the architecture that it describes, and theta with its present names.

    ``data`` is untrusted: what is built from it is bounded by `LARGEST_NUMBER` and `LONGEST_LIST`.

    Args:
      data: content of config.json, of any version up to `FORMAT_VERSION`.
      theta: nested dict of arrays.
      where: name of the folder in messages.

    Raises:
      NewerFormatError: of a newer version, or of an architecture that the installed celo-core does not have.
      FormatError: not such a file.
    """
    parsed = _parse(data, where)
    document, theta = _upgraded(parsed, theta, where)
    name, config = document.get("architecture"), document.get("config")
    if (
        not isinstance(name, str)
        or not isinstance(config, Mapping)
        or not isinstance(document.get("provenance"), Mapping)
        or not isinstance(document.get("evaluation"), list)
        or not isinstance(document.get("repository"), str | None)
    ):
        raise FormatError(
            f"{where}: {folders.CONFIG} lacks an architecture, a config, a provenance or another field: get it again."
        )
    _check_sizes(config, where)
    try:
        evaluation_lib.check_all(document["evaluation"])
    except ValueError as error:
        raise FormatError(f"{where}: {folders.CONFIG} has an unfit evaluation ({error}): get it again.") from error
    try:
        architecture = get_architecture(name, config)
        _expected_shapes(type(architecture), architecture.config)
    except MemoryError:  # what is built is small, so the machine is out of memory
        raise
    except Exception as error:  # the config may be anything, and so may the error
        _check_backend(name, error)
        text = " ".join(str(error).split())[:300]
        message = f"{where}: {folders.CONFIG} does not fit the installed celo-core {celo_core.__version__} ({text})"
        if name not in architecture_names() or _is_newer(_required(document, "celo-core"), celo_core.__version__):
            raise NewerFormatError(f"{message}: {_advice(document, 'celo-core')}.") from error
        raise FormatError(f"{message}: get it again.") from error
    if parsed["format_version"] < FORMAT_VERSION:
        document = {**document, "config": configs.to_json(architecture.config)}
    return document, architecture, theta


def is_meant_for(data: bytes, repository: str) -> bool:
    """Whether a checked config.json is of the present version and names this repository."""
    document = json.loads(data)
    return bool(document["format_version"] == FORMAT_VERSION and document["repository"] == repository)


def _parse(data: bytes, where: str) -> dict[str, Any]:
    try:
        document = json.loads(data, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: {folders.CONFIG} is not JSON ({error}): get it again.") from error
    version = document.get("format_version") if isinstance(document, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise FormatError(
            f"{where}: {folders.CONFIG} has no format_version, so it is no learned optimizer of this package."
        )
    if version > FORMAT_VERSION:
        raise NewerFormatError(
            f"{where} has format version {str(version)[:20]} and this celo-zoo reads up to {FORMAT_VERSION}: "
            f"{_advice(document, 'celo-zoo')}."
        )
    return dict(document)


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text[:40]} is too large a number")
    return number


def _required(document: Mapping[str, Any], package: str) -> str | None:
    """The version of ``package`` that the untrusted document requires."""
    requires = document.get("requires")
    needed = requires.get(package) if isinstance(requires, Mapping) else None
    return needed if isinstance(needed, str) and _VERSION.fullmatch(needed) else None


def _is_newer(version: str | None, installed: str) -> bool:
    numbers = [tuple(int(part) for part in re.findall(r"\d+", text)[:3]) for text in (version or "0", installed)]
    return numbers[0] > numbers[1]


def _advice(document: Mapping[str, Any], package: str) -> str:
    if needed := _required(document, package):
        return f'install {package} {needed} or newer (pip install "{package}>={needed}")'
    return f"upgrade {package} (pip install -U {package})"


def _upgraded(document: dict[str, Any], theta: Any, where: str) -> tuple[dict[str, Any], Any]:
    if document["format_version"] == FORMAT_VERSION:
        return document, theta
    _check_sizes(document.get("config"), where)  # before anything is built from it
    leaves = tensors.flatten(theta)
    for version in range(document["format_version"], FORMAT_VERSION):
        try:
            document, leaves = upgrades.UPGRADES[version](document, leaves)
        except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
            raise FormatError(
                f"{where}: {folders.CONFIG} does not fit format {version} ({error}): get it again."
            ) from error
        document = {**document, "format_version": version + 1}
    return document, tensors.unflatten(leaves)


def _check_sizes(value: Any, where: str) -> None:
    """Raises `FormatError` for a config that would take much time or memory, before anything is built from it."""
    try:
        _check_size(value, where)
    except RecursionError:
        raise FormatError(f"{where}: {folders.CONFIG} has a config that is nested too deep: get it again.") from None


def _check_size(value: Any, where: str) -> None:
    if isinstance(value, Mapping | list):
        if len(value) > LONGEST_LIST:
            raise FormatError(f"{where}: {folders.CONFIG} has a config with {len(value):,} entries: get it again.")
        for item in value.values() if isinstance(value, Mapping) else value:
            _check_size(item, where)
    elif isinstance(value, int) and abs(value) > LARGEST_NUMBER:
        raise FormatError(
            f"{where}: {folders.CONFIG} has a config with the size {str(value)[:40]}, more than the {LARGEST_NUMBER:,} "
            "allowed: get it again."
        )


def _check_backend(name: Any, error: Exception) -> None:
    """Raises `BackendError` if JAX fails with the default config too, and so for a reason independent of the config."""
    if name not in architecture_names():
        return
    if not isinstance(error, jax.errors.JaxRuntimeError):
        try:
            architecture = get_architecture(name)
            _expected_shapes.__wrapped__(type(architecture), architecture.config)
            return
        except Exception as again:
            error = again
    text = " ".join(str(error).split())[:300] or type(error).__name__
    raise BackendError(
        f"JAX failed at the shapes of {name} weights, whatever their config ({text}): check the installation of JAX and "
        "its variables, such as JAX_PLATFORMS."
    ) from error


def expected_shapes(architecture: LearnedOptimizer) -> Any:
    """Shapes of the architecture's theta, computed without making one, and without a device of JAX.

    Raises:
      FormatError: the architecture has no theta for this config.
      BackendError: JAX fails with any config.
    """
    try:
        return _expected_shapes(type(architecture), architecture.config)
    except MemoryError:
        raise
    except Exception as error:  # a config may have any values
        _check_backend(architecture.name, error)
        text = " ".join(str(error).split())[:300]
        raise FormatError(f"no weights of {architecture.name} are of this config ({text}): correct it.") from error


@functools.lru_cache(maxsize=16)
def _expected_shapes(architecture: Any, config: Any) -> Any:
    # The key is made inside the traced function: outside it would be made on a device, and start JAX's back end.
    return jax.eval_shape(lambda: architecture(config).init(jax.random.key(0)))
