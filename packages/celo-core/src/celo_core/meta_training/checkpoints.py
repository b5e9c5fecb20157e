"""Checkpoints of a run: one npz file, written atomically, read without pickle.

The leaves of a tree are stored in order. The tree's structure is not stored: the reader passes an example (as
``jax.eval_shape`` returns), and every shape and dtype is checked against it.
"""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from celo_core import files
from celo_core.checks import flatten_theta, unflatten_theta


def save_checkpoint(path: str | os.PathLike[str], tree: Any, metadata: Mapping[str, Any]) -> None:
    """Writes a tree of arrays and JSON metadata; the file appears whole or not at all.

    Raises:
      OSError: the file could not be written; an older one at ``path`` is unchanged.
    """
    arrays = {f"leaf_{i:05d}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}
    header = np.frombuffer(json.dumps(dict(metadata), sort_keys=True).encode(), np.uint8)
    with files.written_atomically(path) as file:
        np.savez(file, metadata=header, **arrays)  # type: ignore[arg-type]


def load_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON metadata of a checkpoint.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not a checkpoint, or is damaged.
    """
    with _open(path) as archive:
        return json.loads(archive["metadata"].tobytes())


def load_checkpoint(path: str | os.PathLike[str], example: Any) -> Any:
    """The tree of a checkpoint, as NumPy arrays in the structure of ``example``.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is damaged, or holds other shapes or dtypes than ``example``.
    """
    leaves = jax.tree.leaves(example)
    with _open(path) as archive:
        if len(archive.files) != len(leaves) + 1:
            raise ValueError(
                f"checkpoint {path} holds {len(archive.files) - 1} arrays, not the {len(leaves)} of this run: "
                "resume with the settings that it was written with, or start in another folder."
            )
    return load_part(path, 0, example)


def load_part(path: str | os.PathLike[str], first: int, example: Any) -> Any:
    """A part of a checkpoint's tree: the leaves from number ``first`` on, in the structure of ``example``.

    Raises:
      As `load_checkpoint`.
    """
    treedef: Any
    leaves, treedef = jax.tree.flatten(example)
    names = [f"leaf_{i:05d}" for i in range(first, first + len(leaves))]
    with _open(path) as archive:
        if missing := [name for name in names if name not in archive.files]:
            raise ValueError(f"checkpoint {path} has no array {missing[0]}: it is of another kind of run.")
        arrays = [archive[name] for name in names]
    for index, (array, leaf) in enumerate(zip(arrays, leaves, strict=True)):
        if array.shape != leaf.shape or array.dtype != leaf.dtype:
            raise ValueError(
                f"checkpoint {path}: array {index} is {array.dtype}{array.shape}, not {leaf.dtype}{leaf.shape}: "
                "resume with the settings that it was written with, or start in another folder."
            )
    return treedef.unflatten(arrays)


def save_theta(path: str | os.PathLike[str], theta: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """Writes theta atomically, with its leaves' paths and shapes."""
    leaves = dict(sorted(flatten_theta(theta).items()))  # the order in which the metadata list them
    shapes = {name: list(np.shape(leaf)) for name, leaf in leaves.items()}
    save_checkpoint(path, list(leaves.values()), {**metadata, "leaves": shapes})


def load_theta(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads what `save_theta` wrote; errors as `load_checkpoint`."""
    shapes = load_metadata(path)["leaves"]
    example = [jax.ShapeDtypeStruct(tuple(shape), np.float32) for shape in shapes.values()]
    return unflatten_theta(dict(zip(shapes, load_checkpoint(path, example), strict=True)))


def _open(path: str | os.PathLike[str]) -> Any:
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}: check the folder, or start a new run.")
    try:
        archive = np.load(path, allow_pickle=False)
        archive["metadata"]
        return archive
    except Exception as error:
        raise ValueError(f"{path} is not a readable checkpoint ({error}): delete it to start anew.") from error
