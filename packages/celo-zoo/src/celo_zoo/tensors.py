"""Named float32 arrays as safetensors bytes, and back, bit for bit."""

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

LARGEST_HEADER = 1024 * 1024
"""Bytes; the header of a learned optimizer's weights has a few thousand."""

_LENGTH = struct.Struct("<Q")


def encode(leaves: Mapping[str, Any]) -> bytes:
    """The safetensors form of named arrays, as float32.

    Raises:
      RuntimeError: what was written does not read back as the same bits; nothing should be stored then.
    """
    import safetensors.numpy

    # safetensors writes the memory of a strided array as if it were contiguous. np.ascontiguousarray would turn a
    # scalar into shape (1,), hence order="C".
    arrays = {name: np.asarray(leaf, np.float32, order="C") for name, leaf in leaves.items()}
    data = safetensors.numpy.save(arrays)
    if not same_bits(decode(data), arrays):
        raise RuntimeError("the weights do not read back as they were written: install another version of safetensors.")
    return data


def decode(data: bytes) -> dict[str, np.ndarray]:
    """The float32 arrays in ``data``; read-only views of it.

    Raises:
      ValueError: not a safetensors file, damaged, or with a header that is too large or an array that is not float32.
    """
    import safetensors
    import safetensors.numpy

    _check_header(data)
    try:
        return dict(sorted(safetensors.numpy.load(data).items()))  # it returns them in random order
    except (safetensors.SafetensorError, ValueError) as error:
        raise ValueError(f"the weights are not a readable safetensors file ({error}): get them again.") from error


def _check_header(data: bytes) -> None:
    if len(data) < _LENGTH.size:
        raise ValueError(f"the weights are not a safetensors file: they have only {len(data)} bytes; get them again.")
    (length,) = _LENGTH.unpack_from(data)
    if length > LARGEST_HEADER:
        raise ValueError(
            f"the weights' safetensors header claims {length:,} bytes, more than the {LARGEST_HEADER:,} allowed: "
            "this is no learned optimizer of this package."
        )
    try:
        header = json.loads(data[_LENGTH.size : _LENGTH.size + length])
        dtypes = {name: entry["dtype"] for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"the weights' safetensors header is unreadable ({error}): get them again.") from error
    if wrong := sorted(name for name, dtype in dtypes.items() if dtype != "F32"):
        raise ValueError(
            f"the weights' array {wrong[0]!r} is of type {dtypes[wrong[0]]!r}, not float32: save them as such."
        )


def same_bits(left: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray]) -> bool:
    """Whether both hold the same names, shapes, dtypes and bits: a NaN equals the same NaN, -0.0 differs from 0.0."""
    return left.keys() == right.keys() and all(
        left[name].shape == right[name].shape
        and left[name].dtype == right[name].dtype
        and left[name].tobytes() == right[name].tobytes()
        for name in left
    )
