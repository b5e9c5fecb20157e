"""Loading and saving learned optimizers: theta and the config that belongs to it, with where they come from."""

import dataclasses
import functools
import hashlib
import json
import logging
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax

from celo_core import ARCHITECTURES, LearnedOptimizer, configs, get_architecture
from celo_core.checks import check_theta, flatten_theta
from celo_zoo import bundled, folders, hub, references, tensors
from celo_zoo import card as card_lib

FORMAT_VERSION = 1

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Source:
    """Where to look for weights; the keywords of `load` as one value.

    Attributes:
      revision: commit, tag or branch of a repository on the Hub (instead of ``@revision`` in its name).
      cache_dir: cache of the Hub's client, ``None`` for its default.
      token: access token, ``None`` for the login saved on this machine, ``False`` for none.
      endpoint: address of another Hub; a saved login is not sent there.
      local_files_only: make no request.
    """

    revision: str | None = None
    cache_dir: str | os.PathLike[str] | None = None
    token: str | bool | None = dataclasses.field(default=None, repr=False)
    endpoint: str | None = None
    local_files_only: bool = False


@dataclasses.dataclass(frozen=True)
class Model:
    """A checked and parsed folder.

    Attributes:
      theta: nested dict of float32 arrays.
      architecture: with the config.
      document: the parsed config.json.
      source: bundled name, folder, or ``owner/repo@commit``.
      checksum: SHA-256 of the checksums file, which stands for everything.
    """

    theta: dict[str, Any]
    architecture: LearnedOptimizer
    document: dict[str, Any]
    source: str
    checksum: str


def load(
    ref: str | os.PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    endpoint: str | None = None,
    local_files_only: bool = False,
) -> tuple[dict[str, Any], Any]:
    """Meta-trained theta and its config.

    The SHA-256 of every file is compared before any of it is parsed, and only safetensors and JSON are ever parsed.

    Args:
      ref: a bundled name (see `names`), a folder that `save` wrote, or a repository on the Hugging Face Hub as
        ``owner/repo`` or ``owner/repo@revision``. For a folder named like a bundled one write ``./celo``.
      revision: commit, tag or branch on the Hub; give a commit to always get the same weights.
      cache_dir: cache of the Hub's client.
      token: access token; ``None`` for the login saved on this machine, ``False`` for none.
      endpoint: address of another Hub; a saved login is not sent there.
      local_files_only: make no request.

    Returns:
      ``(theta, config)``: a nested dict of float32 arrays and the architecture's frozen config dataclass.

    Raises:
      ValueError: unknown name, or something that is not, or not quite, a learned optimizer; `ChecksumError` if altered.
      FileNotFoundError: no such folder, file, repository or revision.
      ConnectionError, PermissionError: the Hub could not be reached, or does not let this user in.

    Example:
      >>> import celo_core, celo_zoo
      >>> theta, config = celo_zoo.load("celo")  # doctest: +SKIP
      >>> tx = celo_core.celo(theta, num_steps=1000, config=config)  # doctest: +SKIP
    """
    model = load_model(ref, Source(revision, cache_dir, token, endpoint, local_files_only))
    return model.theta, model.architecture.config


def info(
    ref: str | os.PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    endpoint: str | None = None,
    local_files_only: bool = False,
) -> dict[str, Any]:
    """What is known about weights: ``format_version``, ``architecture``, ``config`` and ``provenance``.

    Arguments, checks and errors are those of `load`.
    """
    return load_model(ref, Source(revision, cache_dir, token, endpoint, local_files_only)).document


def optimizer(
    ref: str | os.PathLike[str],
    num_steps: Any,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    endpoint: str | None = None,
    local_files_only: bool = False,
    **kwargs: Any,
) -> optax.GradientTransformationExtraArgs:
    """A meta-trained optimizer, ready to use.

    Args:
      ref: as in `load`.
      num_steps: planned number of training steps, at least 1; may be traced.
      revision: as in `load`.
      cache_dir: as in `load`.
      token: as in `load`.
      endpoint: as in `load`.
      local_files_only: as in `load`.
      **kwargs: of the architecture, such as ``weight_decay``, ``mask`` and ``accumulator_dtype``.

    Returns:
      An optimizer whose ``update(grads, state, params, value=loss)`` returns updates for `optax.apply_updates`.
    """
    model = load_model(ref, Source(revision, cache_dir, token, endpoint, local_files_only))
    return model.architecture.build(model.theta, num_steps, **kwargs)


def load_model(ref: str | os.PathLike[str], source: Source = Source()) -> Model:
    """As `load`, with all that is known."""
    where, files = _read(references.parse(ref, source.revision), source)
    document, architecture = _parse_config(files[folders.CONFIG], where)
    leaves = tensors.decode(files[folders.WEIGHTS])
    theta = _checked_theta(leaves, architecture, where)
    return Model(theta, architecture, document, where, hashlib.sha256(files[folders.CHECKSUMS]).hexdigest())


def _read(ref: references.Bundled | references.Folder | references.Hub, source: Source) -> tuple[str, dict[str, bytes]]:
    if isinstance(ref, references.Bundled):
        return ref.name, folders.read(bundled.folder(ref.name), ref.name, digest=bundled.index()[ref.name])
    if isinstance(ref, references.Folder):
        return str(ref.path), folders.read(ref.path, str(ref.path))
    options: dict[str, Any] = {
        "cache_dir": source.cache_dir,
        "token": source.token,
        "endpoint": source.endpoint,
        "local_files_only": source.local_files_only,
    }
    folder, where = hub.fetch(ref, **options)
    _logger.info("using %s", where)
    try:
        return where, folders.read(folder, where)
    except folders.ChecksumError as error:
        if source.local_files_only:
            raise
        damage = error
    # The Hub's client compares sizes only, so its cache may hold a damaged download: once more, without the cache.
    try:
        folder, where = hub.fetch(ref, **options, force_download=True)
    except OSError:
        raise damage from None
    return where, folders.read(folder, where)


def _parse_config(data: bytes, where: str) -> tuple[dict[str, Any], LearnedOptimizer]:
    try:
        document = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: {folders.CONFIG} is not JSON ({error}): get it again.") from error
    version = document.get("format_version") if isinstance(document, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError(
            f"{where}: {folders.CONFIG} has no format_version, so it is no learned optimizer of this package."
        )
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{where} has format version {version} and this celo-zoo reads up to {FORMAT_VERSION}: upgrade celo-zoo "
            "(pip install -U celo-zoo)."
        )
    name, config = document.get("architecture"), document.get("config")
    if (
        not isinstance(name, str)
        or not isinstance(config, Mapping)
        or not isinstance(document.get("provenance"), Mapping)
    ):
        raise ValueError(f"{where}: {folders.CONFIG} lacks an architecture, a config or a provenance: get it again.")
    try:
        architecture = get_architecture(name, config)
        expected_shapes(architecture)
    except Exception as error:  # the config may be anything: whatever building from it raises is a fault of it
        raise ValueError(
            f"{where}: {folders.CONFIG} does not fit this version of celo-core ({error}): upgrade it."
        ) from error
    return document, architecture


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def expected_shapes(architecture: LearnedOptimizer) -> Any:
    """Shapes of the architecture's theta, computed without making one."""
    return _expected_shapes(type(architecture), architecture.config)


@functools.lru_cache(maxsize=16)
def _expected_shapes(architecture: Any, config: Any) -> Any:
    return jax.eval_shape(architecture(config).init, jax.random.key(0))


def _checked_theta(theta: Any, architecture: LearnedOptimizer, where: str) -> dict[str, Any]:
    """Theta as float32 arrays, of the architecture's names and shapes and finite."""
    try:
        # Weights are constants: under jit too, where an optimizer may be made, they are read now.
        with jax.ensure_compile_time_eval():
            checked = check_theta(theta, expected_shapes(architecture), architecture.name)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    for path, leaf in flatten_theta(checked).items():
        if not np.isfinite(leaf).all():
            raise ValueError(
                f"{where}: theta leaf {path!r} has numbers that are not finite: meta-train again from before that."
            )
    return checked


def save(
    theta: Any,
    config: Any,
    folder: str | os.PathLike[str],
    *,
    metadata: Mapping[str, Any] | None = None,
    card: str | None = None,
    overwrite: bool = False,
) -> pathlib.Path:
    """Writes a learned optimizer as a folder that `load` reads; it appears whole or not at all.

    Args:
      theta: meta-parameters of the config's architecture; stored as float32.
      config: the architecture's config dataclass, which also tells the architecture.
      folder: where to.
      metadata: JSON-like provenance: ``command``, ``commit``, ``data``, ``seeds``, ``seconds``, ``hardware`` and more
        (what ``celo-tasks meta-train`` writes to run.json); ``license`` if it is not apache-2.0.
      card: text of the model card; written from the metadata if left out.
      overwrite: replace an existing folder, provided it holds nothing but a learned optimizer.

    Returns:
      The folder's path.

    Raises:
      ValueError: theta does not fit the config or is not finite, or the metadata are not JSON.
      FileExistsError: the folder exists.
      OSError: it could not be written; an older one is still there.
    """
    architecture = _architecture_of(config)
    leaves = {
        path: np.asarray(leaf) for path, leaf in flatten_theta(_checked_theta(theta, architecture, "not saved")).items()
    }
    document = {
        "format_version": FORMAT_VERSION,
        "architecture": architecture.name,
        "config": configs.to_json(config),
        "provenance": dict(metadata or {}),
    }
    try:
        text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the metadata are not JSON ({error}): use dicts, lists, strings and finite numbers."
        ) from error
    if card is None:
        card = card_lib.write_card(document, {path: leaf.shape for path, leaf in leaves.items()})
    files = {folders.WEIGHTS: tensors.encode(leaves), folders.CONFIG: text.encode(), folders.CARD: card.encode()}

    def check(written: pathlib.Path) -> None:
        model = load_model(written)
        stored = {path: np.asarray(leaf) for path, leaf in flatten_theta(model.theta).items()}
        if not tensors.same_bits(stored, leaves) or model.architecture.config != config:
            raise OSError(f"{folder}: what was written does not read back the same: check the disk.")

    return folders.write(folder, files, overwrite=overwrite, check=check)


def _architecture_of(config: Any) -> LearnedOptimizer:
    for name in ARCHITECTURES:
        if type(get_architecture(name).config) is type(config):
            return get_architecture(name, config)
    raise ValueError(
        f"no architecture has a config of type {type(config).__name__}: pass the config dataclass of one of "
        f"{', '.join(sorted(ARCHITECTURES))}, not its JSON form."
    )
