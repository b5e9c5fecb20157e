"""Loading learned optimizers: theta and the config that belongs to it, with their source."""

import dataclasses
import hashlib
import json
import logging
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import optax

from celo_core import LearnedOptimizer, configs
from celo_core.checks import check_theta_shapes
from celo_zoo import folders, hub, index, references, schema, tensors
from celo_zoo.errors import ChecksumError, FormatError, ZooError

MEMORY_PER_BYTE = 3
"""Bytes of memory that reading a folder takes at most, for each byte of its files, and"""

MEMORY = 64 * 2**20
"""this many in addition. With the largest files that are read (`folders.LARGEST`) that is 262 MiB."""

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A checked learned optimizer, which unpacks as ``theta, config = pretrained``.

    Attributes:
      theta: nested dict of read-only NumPy arrays, in the dtype they were stored in.
      architecture: the learned optimizer to which theta belongs, with its config.
      document: the content of config.json in the present version, see `celo_zoo.schema`.
      source: what it was loaded from: a known name, a folder, or ``owner/repo@commit``.
      commit: of the repository on the Hub, 40 hexadecimal digits; ``None`` for other sources.
      digest: SHA-256 of the checksums file, which covers every byte.
      folder: where the files are; in the cache of the Hub's client if they came from there.
    """

    theta: dict[str, Any]
    architecture: LearnedOptimizer
    document: dict[str, Any]
    source: str
    commit: str | None
    digest: str
    folder: pathlib.Path

    def __iter__(self) -> Iterator[Any]:
        """Theta, then the config."""
        return iter((self.theta, self.config))

    @property
    def config(self) -> Any:
        """The architecture's frozen config dataclass."""
        return self.architecture.config

    @property
    def reference(self) -> str:
        """The reference with which `load` returns exactly these bytes or raises an error: source, commit and digest."""
        return f"{self.source}@sha256:{self.digest}"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what determines its updates, i.e. weights, architecture and config: a new card or new results keep it.

        So does a field that a later version adds to the config, at its default.
        """
        decides = {"architecture": self.architecture.name, "config": configs.to_json(self.config, defaults=False)}
        return hashlib.sha256(tensors.encode(self.theta) + json.dumps(decides, sort_keys=True).encode()).hexdigest()

    @property
    def num_values(self) -> int:
        """Number of values in theta."""
        return sum(leaf.size for leaf in tensors.flatten(self.theta).values())

    def read_files(self) -> dict[str, bytes]:
        """The content of its files by name, checksums included, read once more; raises `ChecksumError` if they have changed."""
        return folders.read(self.folder, self.source, digest=self.digest)

    def optimizer(
        self,
        num_steps: Any,
        *,
        weight_decay: Any = 0.0,
        mask: Any = None,
        step_multiplier: Any = 1.0,
        accumulator_dtype: Any = "float32",
        task_embedding: Any = None,
        num_stacked_axes: Any = None,
        implementation: str = "auto",
    ) -> optax.GradientTransformationExtraArgs:
        """The optimizer for a training of ``num_steps`` steps; arguments as of `celo_zoo.optimizer`."""
        options = {
            "weight_decay": (weight_decay, 0.0),
            "mask": (mask, None),
            "step_multiplier": (step_multiplier, 1.0),
            "accumulator_dtype": (accumulator_dtype, "float32"),
            "task_embedding": (task_embedding, None),
            "num_stacked_axes": (num_stacked_axes, None),
            "implementation": (implementation, "auto"),
        }
        # Options at their defaults are not passed on, since an architecture of another package may lack them.
        given = {name: value for name, (value, default) in options.items() if not _is(value, default)}
        return self.architecture.build(self.theta, num_steps, **given)


def _is(value: Any, default: Any) -> bool:
    return value is default or (isinstance(value, (str, int, float)) and value == default)


def load(
    ref: str | os.PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    endpoint: str | None = None,
    local_files_only: bool = False,
) -> Pretrained:
    """A meta-trained theta and its config, with their provenance.

    The SHA-256 of every file is compared before any of it is parsed, and only safetensors and JSON are ever parsed.

    Args:
      ref: a known name (see `names`), a folder that `save` wrote, or a repository on the Hugging Face Hub as
        ``owner/repo`` or ``owner/repo@revision``. Each may end in ``@sha256:`` and the digest that it must have. For a
        folder named like a known one write ``./celo``.
      revision: commit, tag or branch on the Hub; give a commit to always get the same weights.
      cache_dir: cache of the Hub's client (by default under ``HF_HOME``).
      token: access token; ``None`` for the login saved on this machine or in ``HF_TOKEN``, ``False`` for none.
      endpoint: address of another Hub; a saved login is not sent there.
      local_files_only: make no request; so does the environment variable ``HF_HUB_OFFLINE=1``.

    Returns:
      A `Pretrained`, which unpacks as ``theta, config``.

    Raises:
      ZooError: one of `celo_zoo.errors`, each also one of Python's kinds: ValueError for something that is not a learned
        optimizer or damaged (`ChecksumError` if altered), FileNotFoundError, PermissionError, ConnectionError.

    Example:
      >>> import celo_core, celo_zoo
      >>> theta, config = celo_zoo.load("celo")
      >>> tx = celo_core.celo(theta, num_steps=1000)  # with config=config for weights of other configs than those in celo-zoo
    """
    options = hub.Options(cache_dir, token, endpoint, local_files_only)
    reference = references.parse(ref, revision)
    if isinstance(reference, references.Hub):
        return from_hub(reference, options)
    if isinstance(reference, references.Folder):
        return read_folder(reference.path, digest=reference.digest)
    entry, name = index.entries()[reference.name], reference.name
    if reference.digest not in (None, entry.digest):
        raise ChecksumError(
            f"{name!r} has the digest {entry.digest} in this version of celo-zoo, not {reference.digest}: install the "
            "version that you took the digest from, or give the repository and commit."
        )
    if entry.bundled:
        return read_folder(index.folder(name), where=name, digest=entry.digest)
    if entry.repository is None or entry.commit is None:
        raise FormatError(f"the index of this celo-zoo has no source for {name!r}: install it again.")
    return from_hub(references.Hub(entry.repository, entry.commit, entry.digest), options)


def info(ref: str | os.PathLike[str], **options: Any) -> dict[str, Any]:
    """What is known about weights: the content of config.json, see `celo_zoo.schema`.

    Arguments, checks and errors are those of `load`.
    """
    return load(ref, **options).document


def optimizer(
    ref: str | os.PathLike[str],
    num_steps: Any,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    endpoint: str | None = None,
    local_files_only: bool = False,
    weight_decay: Any = 0.0,
    mask: Any = None,
    step_multiplier: Any = 1.0,
    accumulator_dtype: Any = "float32",
    task_embedding: Any = None,
    num_stacked_axes: Any = None,
    implementation: str = "auto",
) -> optax.GradientTransformationExtraArgs:
    """A meta-trained optimizer, ready to use.

    Args:
      ref: as in `load`.
      num_steps: planned number of updates, at least 1; may be traced. Inside `optax.MultiSteps` that is the number of
        updates, not of gradients.
      revision: as in `load`.
      cache_dir: as in `load`.
      token: as in `load`.
      endpoint: as in `load`.
      local_files_only: as in `load`.
      weight_decay: as in `celo_core.celo`, as all that follow.
      mask: which leaves decay.
      step_multiplier: factor on every step; a number or a schedule.
      accumulator_dtype: dtype in which moments are kept.
      task_embedding: for weights whose scheduler reads it.
      num_stacked_axes: which leading axes are stacks of layers.
      implementation: of the fused update.

    Returns:
      An optimizer whose ``update(grads, state, params, value=loss)`` returns updates for `optax.apply_updates`. For weights
      that do not read the loss, such as "celo", ``value`` may be left out.

    Raises:
      ZooError: as `load`.
      ValueError: num_steps is less than 1, or another argument is invalid.
    """
    pretrained = load(
        ref,
        revision=revision,
        cache_dir=cache_dir,
        token=token,
        endpoint=endpoint,
        local_files_only=local_files_only,
    )
    return pretrained.optimizer(
        num_steps,
        weight_decay=weight_decay,
        mask=mask,
        step_multiplier=step_multiplier,
        accumulator_dtype=accumulator_dtype,
        task_embedding=task_embedding,
        num_stacked_axes=num_stacked_axes,
        implementation=implementation,
    )


def read_folder(
    folder: pathlib.Path, *, where: str | None = None, digest: str | None = None, commit: str | None = None
) -> Pretrained:
    """The learned optimizer in a folder, every byte checked.

    Args:
      folder: the folder.
      where: its source, ``None`` for its path.
      digest: SHA-256 that the checksums file must have.
      commit: for `Pretrained`.

    Raises:
      ZooError: as `load`.
    """
    where = str(folder) if where is None else where
    files = folders.read(folder, where, digest=digest)
    try:
        theta = tensors.decode(files[folders.WEIGHTS])
    except FormatError as error:
        raise FormatError(f"{where}: {error}") from error
    document, architecture, theta = schema.decode(files[folders.CONFIG], theta, where)
    try:
        check_theta(theta, architecture)
    except FormatError as error:
        raise FormatError(f"{where}: {error}") from error
    return Pretrained(theta, architecture, document, where, commit, folders.digest_of(files), folder)


def check_theta(theta: Any, architecture: LearnedOptimizer) -> None:
    """Raises `FormatError` unless theta has the architecture's names and shapes, is floating point and finite."""
    shapes = schema.expected_shapes(architecture)
    try:
        check_theta_shapes(theta, shapes, architecture.name)
    except (ValueError, TypeError) as error:
        raise FormatError(str(error)) from error
    for path, leaf in tensors.flatten(theta).items():
        if not np.isfinite(np.asarray(leaf)).all():
            raise FormatError(
                f"theta leaf {path!r} has numbers that are not finite: meta-train again from before that."
            )


def from_hub(reference: references.Hub, options: hub.Options) -> Pretrained:
    """As `load`, from a repository. A damaged download is repeated once, without the client's cache."""

    def read(folder: pathlib.Path, commit: str) -> Pretrained:
        where = f"{reference.repository}@{commit}"
        _logger.info("using %s", where)
        return read_folder(folder, where=where, digest=reference.digest, commit=commit)

    try:
        return read(*hub.download(reference, options))
    except ChecksumError as error:
        if options.local_files_only:
            raise
        damage = error
    # The Hub's client compares sizes only, so its cache may hold damaged files.
    try:
        return read(*hub.download(reference, options, force_download=True))
    except FormatError:
        raise
    except ZooError as error:  # the repeated download failed
        failure = ChecksumError(f"{damage} It could not be downloaded anew: {error}")
    raise failure
