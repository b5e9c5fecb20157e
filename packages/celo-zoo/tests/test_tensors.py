"""Named arrays survive safetensors bit for bit, and what is not such a file is refused."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celo_zoo import tensors

segments = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="/"), min_size=1, max_size=8)
# safetensors keeps one name for itself.
paths = st.lists(segments, min_size=1, max_size=4).map("/".join).filter(lambda path: path != "__metadata__")
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)


@st.composite
def arrays(draw):
    """float32 arrays of any bits (NaN payloads, subnormals, -0.0), in any memory layout."""
    shape = draw(shapes)
    size = int(np.prod(shape, dtype=int))
    array = np.frombuffer(draw(st.binary(min_size=4 * size, max_size=4 * size)), np.float32).reshape(shape)
    layout = draw(st.sampled_from(["plain", "transposed", "reversed", "strided", "fortran"]))
    if layout == "transposed":
        return array.T
    if layout == "fortran":
        return np.asfortranarray(array) if array.ndim else array
    if layout == "reversed" and array.ndim:
        return array[::-1]
    if layout == "strided" and array.ndim:
        return np.repeat(array, 2, axis=-1)[..., ::2]
    return array


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(paths, arrays(), max_size=5))
def test_round_trip(leaves):
    decoded = tensors.decode(tensors.encode(leaves))
    assert decoded.keys() == leaves.keys()
    for name, leaf in leaves.items():
        assert decoded[name].dtype == np.float32
        assert decoded[name].shape == leaf.shape
        assert decoded[name].tobytes() == leaf.tobytes()  # of an array of any layout: in C order


def test_other_dtypes_become_float32():
    leaves = {"f64": np.array([0.1, 2.0]), "f16": np.array([[0.5]], np.float16), "big_endian": np.array([1.5], ">f4")}
    decoded = tensors.decode(tensors.encode(leaves))
    for name, leaf in leaves.items():
        np.testing.assert_array_equal(decoded[name], leaf.astype(np.float32))


def test_same_bits_sees_differences():
    one = {"a": np.array([0.0, 1.0], np.float32)}
    assert tensors.same_bits(one, {"a": np.array([0.0, 1.0], np.float32)})
    assert not tensors.same_bits(one, {"a": np.array([-0.0, 1.0], np.float32)})
    assert not tensors.same_bits(one, {"a": np.array([[0.0, 1.0]], np.float32)})
    assert not tensors.same_bits(one, {"b": one["a"]})


def test_encode_notices_a_faulty_writer(monkeypatch):
    import safetensors.numpy

    honest = safetensors.numpy.save
    monkeypatch.setattr(safetensors.numpy, "save", lambda leaves: honest({k: v + 1 for k, v in leaves.items()}))
    with pytest.raises(RuntimeError, match="do not read back"):
        tensors.encode({"a": np.zeros(3, np.float32)})


def file_of(header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}

BROKEN = {
    "empty": b"",
    "short": b"1234567",
    "huge header": struct.pack("<Q", 2**40) + b"{}",
    "header just too large": file_of(b" " * (tensors.LARGEST_HEADER + 1)),
    "header longer than the file": struct.pack("<Q", 1000) + b"{}",
    "not JSON": file_of(b"{hello}"),
    "nested": file_of(b"[" * 100_000),
    "a list": file_of([]),
    "entry is no object": file_of({"a": 3}),
    "no dtype": file_of({"a": {}}),
    "float64": file_of({"a": ENTRY | {"dtype": "F64", "data_offsets": [0, 8]}}, bytes(8)),
    "dtype is no string": file_of({"a": ENTRY | {"dtype": ["F32"]}}, bytes(4)),
    "cut off": file_of({"a": ENTRY}, bytes(3)),
    "offsets outside": file_of({"a": ENTRY | {"data_offsets": [4, 8]}}, bytes(4)),
    "shape against offsets": file_of({"a": ENTRY | {"shape": [2]}}, bytes(4)),
    "trailing bytes": file_of({"a": ENTRY}, bytes(9)),
    "pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07builtins.",
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_broken_files_are_refused(data):
    with pytest.raises(ValueError, match="weights"):
        tensors.decode(data)
