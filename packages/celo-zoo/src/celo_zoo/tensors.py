"""Conversion of trees of named float arrays to safetensors bytes and back, bit for bit."""

import struct
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from celo_zoo.errors import FormatError, WriteError

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}
"""Dtypes that are stored, by their names in safetensors."""

LARGEST_HEADER = 1024 * 1024
"""Bytes; the header of a learned optimizer's weights has a few thousand."""

DEEPEST = 32
"""Maximum number of names in a leaf's path, and of axes of a leaf."""

_LENGTH = struct.Struct("<Q")


def flatten(tree: Any) -> dict[str, Any]:
    """Leaves of a nested mapping by slash path, e.g. ``{"update_rule/output/bias": array}``.

    Raises:
      FormatError: a name is not a non-empty string without a slash, or a mapping is empty, so that the result would not
        determine the tree; or it is deeper than `DEEPEST`.
    """
    leaves: dict[str, Any] = {}

    def collect(node: Any, path: str, depth: int) -> None:
        if not isinstance(node, Mapping):
            leaves[path] = node
            return
        if depth == DEEPEST:
            raise FormatError(f"theta is nested more than {DEEPEST} deep: flatten it.")
        if not node:
            raise FormatError(f"theta has nothing in {path or 'it'}: leave empty mappings out.")
        for name, value in node.items():
            # This name is reserved by safetensors.
            if not isinstance(name, str) or not name or "/" in name or name == "__metadata__":
                raise FormatError(f"theta has the name {name!r}: use non-empty strings without a slash.")
            collect(value, f"{path}/{name}" if path else name, depth + 1)

    if not isinstance(tree, Mapping):
        raise FormatError(f"theta is of type {type(tree).__name__}: pass a nested dict of arrays.")
    collect(tree, "", 0)
    return leaves


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `flatten`.

    Raises:
      FormatError: a path has an empty name or more than `DEEPEST` names, or is the beginning of another one.
    """
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        node: Any = tree if all((name, *parents)) and len(parents) < DEEPEST else None
        for parent in parents:
            node = node.setdefault(parent, {}) if isinstance(node, dict) else None
        if not isinstance(node, dict) or name in node:
            raise FormatError(f"the weights have no place for an array named {path[:200]!r}: get them again.")
        node[name] = leaf
    return tree


def encode(tree: Any) -> bytes:
    """The safetensors form of a nested mapping of float arrays, each in its own dtype.

    Raises:
      FormatError: a leaf has a dtype that is not one of `DTYPES`, or see `flatten`.
      WriteError: the result does not read back as the same bits; it should not be stored.
    """
    import safetensors.numpy

    # safetensors writes the memory of a strided array as if it were contiguous. np.ascontiguousarray would turn a
    # scalar into shape (1,), hence order="C".
    arrays = {path: np.asarray(leaf, order="C") for path, leaf in flatten(tree).items()}
    for path, array in arrays.items():
        arrays[path] = array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        if array.dtype not in DTYPES.values():
            stored = ", ".join(dtype.name for dtype in DTYPES.values())
            raise FormatError(f"theta leaf {path!r} has dtype {array.dtype}: convert it to one of {stored}.")
    data: bytes = safetensors.numpy.save(arrays)
    if not same_bits(flatten(decode(data)), arrays):
        raise WriteError("the weights do not read back as they were written: install another version of safetensors.")
    return data


def decode(data: bytes) -> dict[str, Any]:
    """The nested dict of arrays in ``data``, read-only and sorted by name; copies it once.

    Raises:
      FormatError: not a safetensors file, damaged, or with a header that is too large or an array that is not float.
    """
    import safetensors

    if len(data) < _LENGTH.size:
        raise FormatError(f"the weights are not a safetensors file: they have only {len(data)} bytes; get them again.")
    (length,) = _LENGTH.unpack_from(data)
    if length > LARGEST_HEADER:
        raise FormatError(
            f"the weights' safetensors header claims {length:,} bytes, more than the {LARGEST_HEADER:,} allowed: "
            "this is no learned optimizer of this package."
        )
    try:
        entries = safetensors.deserialize(data)
    except (safetensors.SafetensorError, ValueError) as error:
        raise FormatError(f"the weights are not a readable safetensors file ({error}): get them again.") from error
    leaves = {}
    for path, entry in sorted(entries):  # they come in random order
        if (dtype := DTYPES.get(entry["dtype"])) is None:
            raise FormatError(
                f"the weights' array {path[:200]!r} is of type {entry['dtype']!r}, not float: get them again."
            )
        if len(entry["shape"]) > DEEPEST:  # NumPy's own limit is 64
            raise FormatError(f"the weights' array {path[:200]!r} has {len(entry['shape'])} axes: get them again.")
        array: np.ndarray = np.ndarray(entry["shape"], dtype, buffer=entry["data"] or None)
        array.flags.writeable = False
        leaves[path] = array
    return unflatten(leaves)


def same_bits(left: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray]) -> bool:
    """Whether both hold the same names, shapes, dtypes and bits: a NaN equals the same NaN, -0.0 differs from 0.0."""
    return left.keys() == right.keys() and all(
        left[name].shape == right[name].shape
        and left[name].dtype == right[name].dtype
        and left[name].tobytes() == right[name].tobytes()
        for name in left
    )
