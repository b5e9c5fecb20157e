"""Weights that the authors of Celo published (flax msgpack over a Haiku tree) in this package's form.

Every name and shape is checked. Unused parameters of the published optimizers are dropped, see `DROPPED`: an input
layer and a control layer that are never used, and the third output of the update rule.
"""

import hashlib
import logging
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from celo_core import LearnedOptimizer, get_architecture
from celo_zoo import folders, models
from celo_zoo.errors import FormatError, NotFoundError

_logger = logging.getLogger(__name__)

Path = tuple[str, ...]

LARGEST_FILE = 64 * 2**20
"""Bytes."""

PUBLISHED_SHA256 = {
    "celo": "35683c6123069c101d62ec1f8b2e6d70d50a43e67ebe09953b27620a7dcb836b",
    "celo_adam": "99c65fa0218a739c32eac4e8a99523b6fed92e2926d0c5d64e83835637b75d38",
}
"""The two files that the authors published: MIT licence, (c) 2025 Abhinav Moudgil."""

DROPPED: dict[str, tuple[str, ...]] = {
    "celo": (
        "rnn_params | linear",
        "rnn_params | rnn_to_controls",
        "ff_mod_stack | ~ | w2[..., 2]",
        "ff_mod_stack | ~ | b2[..., 2]",
    ),
    "celo_adam": ("rnn_params | linear",),
}
"""By architecture, unused parameters in the published trees, which are left out."""

_GROUP_SIZES = (1, 1, 1, 3, 1, 3, 1, 3, 1, 3, 3, 3, 3, 3)  # numbers per feature group, in order

_RNN = "rnn_params"
_MLP = ("ff_mod_stack", "~")

_SCHEDULER_SHAPES: dict[Path, tuple[int, ...]] = {
    ("lstm_init_state", "hidden"): (1, 64),
    ("lstm_init_state", "cell"): (1, 64),
    (_RNN, "rnn/linear", "w"): (128, 256),
    (_RNN, "rnn/linear", "b"): (256,),
    (_RNN, "step_size", "w"): (64, 1),
    (_RNN, "step_size", "b"): (1,),
}
for _layer in ("linear", "linear_1", "linear_2"):
    _SCHEDULER_SHAPES.update({(_RNN, _layer, "w"): (18, 64), (_RNN, _layer, "b"): (64,)})

_MLP_SHAPES: dict[Path, tuple[int, ...]] = {
    (*_MLP, "b0"): (1, 4),
    (*_MLP, "w1"): (1, 4, 4),
    (*_MLP, "b1"): (1, 4),
    (*_MLP, "w2"): (1, 4, 3),
    (*_MLP, "b2"): (1, 3),
}
_MLP_SHAPES.update({(*_MLP, f"w0__{group}"): (1, size, 4) for group, size in enumerate(_GROUP_SIZES)})

PUBLISHED_SHAPES: dict[str, dict[Path, tuple[int, ...]]] = {
    "celo": _SCHEDULER_SHAPES
    | _MLP_SHAPES
    | {(_RNN, "rnn_to_controls", "w"): (64, 1), (_RNN, "rnn_to_controls", "b"): (1,)},
    "celo_adam": _SCHEDULER_SHAPES,
}
"""By architecture, the published tree: path -> shape."""


def convert_published(path: str | os.PathLike[str], architecture: str | None = None) -> tuple[dict[str, Any], Any]:
    """Reads a published file and returns theta and config as `celo_zoo.load` does.

    Dropped parameters (see `DROPPED`) are logged at level INFO.

    Args:
      path: the published ``theta.state``. It is msgpack, which holds no code.
      architecture: ``"celo"`` or ``"celo_adam"``, an error if the file holds another one; ``None`` to infer it from the
        leaves.

    Returns:
      A nested dict of float32 arrays, and the architecture's config dataclass.

    Raises:
      NotFoundError: no such file; a FileNotFoundError.
      FormatError: a ValueError: not such a file, or of another architecture, or a leaf is missing, superfluous, of another
        shape or not finite.
    """
    if architecture is not None and architecture not in PUBLISHED_SHAPES:
        raise FormatError(
            f"weights of {architecture!r} cannot be converted: choose from {', '.join(sorted(PUBLISHED_SHAPES))}."
        )
    path = folders.expand(path)
    leaves = _read_leaves(path)
    architecture = architecture or _nearest(leaves)
    leaves = _check_leaves(leaves, architecture, path.name)
    theta: dict[str, Any] = {"scheduler": _scheduler(leaves)}
    if architecture == "celo":
        theta["update_rule"] = {"mlp": _mlp(leaves)}
    _logger.info("left out, as they are unused: %s", ", ".join(DROPPED[architecture]))
    target: LearnedOptimizer = get_architecture(architecture)
    models.check_theta(theta, target)
    return theta, target.config


def _nearest(leaves: dict[Path, np.ndarray]) -> str:
    """The architecture whose published tree has the most leaves in common, for error messages."""
    return min(PUBLISHED_SHAPES, key=lambda name: len(PUBLISHED_SHAPES[name].keys() ^ leaves.keys()))


def published_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Provenance of converted weights: the file's name and SHA-256, what was dropped, and the authors if known.

    Errors are those of `convert_published`.
    """
    path = folders.expand(path)
    architecture = _nearest(_read_leaves(path))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    known = digest == PUBLISHED_SHA256[architecture]
    return {
        "license": "mit" if known else "other",
        "source": "published by the authors of Celo (MIT, (c) 2025 Abhinav Moudgil)"
        if known
        else "converted, origin unknown",
        "converted_from": {"file": pathlib.Path(path).name, "sha256": digest, "left_out": list(DROPPED[architecture])},
    }


def _read_leaves(path: pathlib.Path) -> dict[Path, np.ndarray]:
    from flax import serialization

    if not folders.is_there(path, pathlib.Path.is_file):
        raise NotFoundError(f"there is no file {path}: check the path.")
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise folders.unreadable(path, error, "the published file") from None
    if len(data) > LARGEST_FILE:
        raise FormatError(
            f"{path.name} is larger than the {LARGEST_FILE:,} bytes allowed, so it is no published file of Celo."
        )
    try:
        tree = serialization.msgpack_restore(data)
    except MemoryError:  # the file is small
        raise
    except Exception as error:  # arbitrary bytes raise errors of many kinds here
        raise FormatError(
            f"{path.name} is not a whole flax msgpack file ({type(error).__name__}): download it again."
        ) from error
    leaves: dict[Path, np.ndarray] = {}
    _collect(tree, (), leaves, path.name)
    return leaves


def _collect(node: Any, at: Path, leaves: dict[Path, np.ndarray], file: str) -> None:
    """Collects the leaves of nested dicts; raises `FormatError` for anything else."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            if not isinstance(name, str):
                raise FormatError(
                    f"{file} has the key {name!r} where a name is expected, so it is no published file of Celo."
                )
            _collect(value, (*at, name), leaves, file)
        return
    where = _show(at) if at else "its content"
    if not isinstance(node, np.ndarray) or node.dtype != np.float32:
        kind = f"an array of {node.dtype}" if isinstance(node, np.ndarray) else f"of type {type(node).__name__}"
        raise FormatError(f"{file}: {where} is {kind}, not a float32 array, so it is no published file of Celo.")
    leaves[at] = node


def _show(path: Path) -> str:
    return " | ".join(path)  # some names have a slash in them


def _check_leaves(leaves: dict[Path, np.ndarray], architecture: str, file: str) -> dict[Path, np.ndarray]:
    expected = PUBLISHED_SHAPES[architecture]
    for other, shapes in PUBLISHED_SHAPES.items():
        if other != architecture and leaves.keys() == shapes.keys():
            raise FormatError(
                f"{file} holds weights of {other!r}, not of {architecture!r}: convert it with architecture={other!r}."
            )
    if missing := sorted(_show(path) for path in expected.keys() - leaves.keys()):
        raise FormatError(f"{file} is not a published file of {architecture!r}: it lacks {', '.join(missing)}.")
    if extra := sorted(_show(path) for path in leaves.keys() - expected.keys()):
        raise FormatError(
            f"{file} is not a published file of {architecture!r}: it has unknown leaves {', '.join(extra)}."
        )
    for path, leaf in leaves.items():
        if leaf.shape != expected[path]:
            raise FormatError(
                f"{file} is not a published file of {architecture!r}: {_show(path)} has shape {leaf.shape}, not "
                f"{expected[path]}."
            )
        if not np.isfinite(leaf).all():
            raise FormatError(
                f"{file}: {_show(path)} has numbers that are not finite, so it is damaged: download it again."
            )
    return leaves


def _scheduler(leaves: Mapping[Path, np.ndarray]) -> dict[str, Any]:
    # linear_2 is the direct input layer; the maximum over tensors was taken of the output of linear_1.
    layers = {"input": "linear_2", "pooled_input": "linear_1", "gates": "rnn/linear", "step_size": "step_size"}
    return {
        **{
            name: {"kernel": leaves[_RNN, published, "w"], "bias": leaves[_RNN, published, "b"]}
            for name, published in layers.items()
        },
        "initial_hidden": leaves["lstm_init_state", "hidden"][0],
        "initial_cell": leaves["lstm_init_state", "cell"][0],
    }


def _mlp(leaves: Mapping[Path, np.ndarray]) -> dict[str, Any]:
    first = [leaves[(*_MLP, f"w0__{group}")][0] for group in range(len(_GROUP_SIZES))]
    take = lambda name: leaves[(*_MLP, name)][0]
    return {
        "hidden_0": {"kernel": np.concatenate(first), "bias": take("b0")},
        "hidden_1": {"kernel": take("w1"), "bias": take("b1")},
        "output": {"kernel": take("w2")[:, :2], "bias": take("b2")[:2]},
    }
