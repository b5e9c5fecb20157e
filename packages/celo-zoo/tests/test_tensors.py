"""Named arrays survive safetensors bit for bit, and what is not such a file is refused."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import celo_zoo
from celo_zoo import tensors

# safetensors keeps one name for itself.
names = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="/"), min_size=1, max_size=8).filter(
    lambda name: name != "__metadata__"
)
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)


@st.composite
def arrays(draw):
    """Arrays of any stored dtype, any bits (NaN payloads, subnormals, -0.0), any memory layout and byte order."""
    shape, dtype = draw(shapes), draw(st.sampled_from(list(tensors.DTYPES.values())))
    size = int(np.prod(shape, dtype=int)) * dtype.itemsize
    array = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), dtype).reshape(shape)
    layout = draw(st.sampled_from(["plain", "transposed", "reversed", "strided", "fortran", "big-endian"]))
    if layout == "transposed":
        return array.T
    if layout == "fortran":
        return np.asfortranarray(array) if array.ndim else array
    if layout == "reversed" and array.ndim:
        return array[::-1]
    if layout == "strided" and array.ndim:
        return np.repeat(array, 2, axis=-1)[..., ::2]
    if layout == "big-endian" and dtype.kind == "f":
        return array.byteswap().view(dtype.newbyteorder(">"))
    return array


trees = st.recursive(
    st.dictionaries(names, arrays(), min_size=1, max_size=3),
    lambda inner: st.dictionaries(names, arrays() | inner, min_size=1, max_size=3),
    max_leaves=8,
)


def assert_same_tree(left, right):
    assert left.keys() == right.keys()
    for name, leaf in left.items():
        if isinstance(leaf, dict):
            assert_same_tree(leaf, right[name])
            continue
        assert right[name].shape == leaf.shape
        assert right[name].dtype == leaf.dtype.newbyteorder("<")
        native = leaf.byteswap().view(leaf.dtype.newbyteorder("<")) if leaf.dtype.byteorder == ">" else leaf
        assert right[name].tobytes() == native.tobytes()  # of an array of any layout: in C order


@settings(max_examples=300, deadline=None)
@given(trees)
def test_round_trip(tree):
    data = tensors.encode(tree)
    decoded = tensors.decode(data)
    assert_same_tree(tree, decoded)
    assert tensors.encode(decoded) == data


def test_decoded_arrays_cannot_be_changed():
    decoded = tensors.decode(tensors.encode({"a": np.zeros(3, np.float32)}))
    with pytest.raises(ValueError, match="read-only"):
        decoded["a"][0] = 1.0


@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64", "longdouble", "object", "U3", "float8_e4m3b11fnuz"])
def test_other_dtypes_are_refused(dtype):
    leaf = np.zeros(3).astype(getattr(ml_dtypes, dtype, dtype))
    with pytest.raises(celo_zoo.FormatError, match="theta leaf 'a/b' has dtype"):
        tensors.encode({"a": {"b": leaf}})


def deep(depth):
    tree = np.zeros(1, np.float32)
    for _ in range(depth):
        tree = {"a": tree}
    return tree


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"a": {}},
        {"a/b": np.zeros(1)},
        {"": np.zeros(1)},
        {1: np.zeros(1)},
        {"__metadata__": np.zeros(1)},
        np.zeros(1),
        [np.zeros(1)],
        deep(tensors.DEEPEST + 1),
        deep(100_000),
    ],
    ids=["empty", "empty inside", "slash", "no name", "number", "metadata", "array", "list", "deep", "very deep"],
)
def test_what_would_not_come_back_the_same_is_refused(tree):
    with pytest.raises(celo_zoo.FormatError, match="theta"):
        tensors.encode(tree)


def test_deepest_tree():
    assert_same_tree(deep(tensors.DEEPEST), tensors.decode(tensors.encode(deep(tensors.DEEPEST))))


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
    with pytest.raises(celo_zoo.WriteError, match="do not read back"):
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
    "integers": file_of({"a": ENTRY | {"dtype": "I32"}}, bytes(4)),
    "unknown dtype": file_of({"a": ENTRY | {"dtype": "F33"}}, bytes(4)),
    "path is part of another": file_of({"a": ENTRY, "a/b": ENTRY | {"data_offsets": [4, 8]}}, bytes(8)),
    "empty name in a path": file_of({"a//b": ENTRY}, bytes(4)),
    "path of a thousand names": file_of({"/".join("a" * 1000): ENTRY}, bytes(4)),
    "same name twice": file_of(
        b'{"a":%s,"a":%s}' % tuple(json.dumps(ENTRY | {"data_offsets": at}).encode() for at in ([0, 4], [4, 8])),
        bytes(8),
    ),
    "astronomic shape": file_of({"a": ENTRY | {"shape": [2**62, 2**62]}}, bytes(4)),
    "a thousand axes": file_of({"a": ENTRY | {"shape": [1] * 1000}}, bytes(4)),
    "negative shape": file_of({"a": ENTRY | {"shape": [-1]}}, bytes(4)),
    "not UTF-8": file_of(b'{"\xff":%s}' % json.dumps(ENTRY).encode(), bytes(4)),
    "dtype is no string": file_of({"a": ENTRY | {"dtype": ["F32"]}}, bytes(4)),
    "cut off": file_of({"a": ENTRY}, bytes(3)),
    "offsets outside": file_of({"a": ENTRY | {"data_offsets": [4, 8]}}, bytes(4)),
    "shape against offsets": file_of({"a": ENTRY | {"shape": [2]}}, bytes(4)),
    "trailing bytes": file_of({"a": ENTRY}, bytes(9)),
    "pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07builtins.",
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_broken_files_are_refused(data):
    with pytest.raises(celo_zoo.FormatError, match="weights"):
        tensors.decode(data)
