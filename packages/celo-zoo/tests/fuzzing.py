"""Altered copies of a weights folder, and what must hold when one is loaded.

A copy is *plain* (its checksums are those of before), *signed* (whoever altered it made the checksums fit, so that parsers see
what they did) or *signed and expected* (signed, but asked for by the digest of the original). Then

* an expected copy, and a plain one, is refused, unless its bytes are the original's;
* a signed one is refused, or is a valid optimizer that holds just the numbers that an independent reader finds in its file.

Refusals are the package's own exceptions. `main` alters as many copies as asked for, and prints counts as JSON.
"""

import argparse
import collections
import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import struct
import tempfile
import time

import ml_dtypes
import numpy as np

import celo_zoo
from celo_core import CeloConfig, SchedulerConfig, get_architecture
from celo_core.directions import MLP
from celo_core.schedulers import LSTM
from celo_zoo import folders, schema, tensors
from celo_zoo.errors import LONGEST as LONGEST_MESSAGE

LONGEST = 30
"""Seconds after which a load counts as hanging."""

NASTY = [
    *(None, True, False, 0, -1, 1, 2**16, 2**16 + 1, 2**31, 2**63, 10**300, -(10**30), 0.5, -0.0, 1e308, float("nan")),
    *(
        float("inf"),
        "",
        "a" * 5000,
        "../../etc/passwd",
        "/etc/passwd",
        "\x00",
        "\ud800",
        "celo_adam",
        "ﬃ",
        [],
        {},
        [[]],
    ),
    *([1] * 3000, [2**40] * 3, {"a": 1}, {"__class__": "os.system"}, [None] * 40, ["gradient"] * 40),
]
"""JSON values, some of them only in Python's dialect, that stand in the place of others."""


def original(folder):
    """A small Celo, saved; its numbers are small so that one flipped bit rarely makes them infinite."""
    architecture = get_architecture(
        "celo", CeloConfig(directions=(MLP(hidden_sizes=(2,)),), scheduler=SchedulerConfig(network=LSTM(3)))
    )
    numbers = np.random.default_rng(0)
    theta = {}
    for path, leaf in tensors.flatten(schema.expected_shapes(architecture)).items():
        theta[path] = numbers.normal(0.0, 0.1, leaf.shape).astype(np.float32)
    return celo_zoo.save(tensors.unflatten(theta), architecture.config, folder, metadata={"seeds": [0], "notes": ["x"]})


# --- alterations: each takes the files and a random.Random, and changes the files ------------------------------------


def flip_bits(files, draw):
    """One to eight bits of a file."""
    name = draw.choice(sorted(files))
    data = bytearray(files[name])
    for _ in range(draw.randint(1, 8)):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    files[name] = bytes(data)


def cut(files, draw):
    """The end of a file, or a piece out of it."""
    name = draw.choice(sorted(files))
    data = files[name]
    start, end = sorted((draw.randrange(len(data)), draw.randrange(len(data) + 1)))
    files[name] = data[:start] + (data[end:] if draw.random() < 0.5 else b"")


def append(files, draw):
    """More bytes at an end, or a piece twice."""
    name = draw.choice(sorted(files))
    data = files[name]
    piece = data[: draw.randrange(len(data))] if draw.random() < 0.5 else draw.randbytes(draw.randint(1, 100))
    files[name] = data + piece if draw.random() < 0.5 else piece + data


def replace(files, draw):
    """Another kind of file: empty, zip, pickle, NumPy's, HTML, noise, or another of the four."""
    name = draw.choice(sorted(files))
    starts = [b"", b"PK\x03\x04", b"\x80\x04\x95", b"\x93NUMPY", b"<!doctype html>", b"version https://git-lfs\n"]
    files[name] = draw.choice([*starts, *files.values()]) + draw.randbytes(draw.choice([0, 7, 200]))


def not_utf8(files, draw):
    """Bytes that are no UTF-8 in the midst of text."""
    name = draw.choice(sorted(files))
    data = files[name]
    end = min(len(data), 8 + _length(data)) if name == folders.WEIGHTS else len(data)
    at = draw.randrange(8 if name == folders.WEIGHTS else 0, end)
    files[name] = data[:at] + draw.choice([b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf8"]) + data[at + 1 :]


def _length(data):
    return struct.unpack("<Q", data[:8])[0]


def _split(files):
    data = files[folders.WEIGHTS]
    end = 8 + _length(data)
    return json.loads(data[8:end]), data[end:]


def _join(files, header, body):
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    files[folders.WEIGHTS] = struct.pack("<Q", len(text)) + text + body


def swap_leaves(files, draw):
    """Two leaves change names, or all that describes them."""
    header, body = _split(files)
    left, right = draw.sample(sorted(header), 2)
    if draw.random() < 0.5:
        header[left], header[right] = header[right], header[left]
    else:
        field = draw.choice(["shape", "dtype", "data_offsets"])
        header[left][field], header[right][field] = header[right][field], header[left][field]
    _join(files, header, body)


def oversized_header(files, draw):
    """A header that claims, or has, more than it may."""
    header, body = _split(files)
    data = files[folders.WEIGHTS]
    if draw.random() < 0.7:
        claimed = draw.choice(
            [2**63, 2**64 - 1, 2**40, 2**31, len(data), len(data) - 8, 1, 0, tensors.LARGEST_HEADER + 1]
        )
        files[folders.WEIGHTS] = struct.pack("<Q", claimed) + data[8:]
    else:
        text = json.dumps(header).encode() + b" " * draw.choice([1, 8, 2**10, tensors.LARGEST_HEADER])
        files[folders.WEIGHTS] = struct.pack("<Q", len(text)) + text + body


def edit_header(files, draw):
    """Something else for a shape, a dtype, offsets, or an entry."""
    header, body = _split(files)
    name = draw.choice(sorted(header))
    field = draw.choice(["shape", "dtype", "data_offsets", None])
    others = [
        "F64",
        "F16",
        "BF16",
        "F8_E4M3",
        "I32",
        "BOOL",
        "X",
        [2**62, 2**62],
        [-1],
        [0],
        [len(body), 0],
        [0, 2**63],
    ]
    value = draw.choice(NASTY + others)
    if field is None:
        header[name] = value
    else:
        header[name][field] = value
    _join(files, header, body)


def rename_leaf(files, draw):
    """A leaf's name leads elsewhere, or is another Unicode spelling."""
    header, body = _split(files)
    name = draw.choice(sorted(header))
    others = [
        "../../../etc/passwd",
        "/etc/passwd",
        "..",
        ".",
        "",
        "a/../b",
        "a//b",
        "/" * 3000,
        "a/" * 400 + "b",
        "C:\\x",
    ]
    spellings = [
        name.upper(),
        name + "\u200b",
        name.replace("s", "\u017f"),
        name + "/x",
        name.rsplit("/", 1)[0],
        "\x00",
    ]
    header[draw.choice([*others, *spellings, "__metadata__"])] = header.pop(name)
    _join(files, header, body)


def not_finite(files, draw):
    """A number becomes NaN, an infinity, or a NaN with a payload."""
    header, body = _split(files)
    at = 4 * draw.randrange(len(body) // 4)
    bits = draw.choice([0x7FC00000, 0x7F800000, 0xFF800000, 0x7F800001, 0xFFFFFFFF])
    _join(files, header, body[:at] + struct.pack("<I", bits) + body[at + 4 :])


def edit_config(files, draw):
    """A value anywhere in config.json becomes another, goes, or gets company."""
    document = json.loads(files[folders.CONFIG])
    node = document
    while True:
        key = draw.choice(sorted(node) if isinstance(node, dict) else range(len(node)))
        if not isinstance(node[key], dict | list) or not node[key] or draw.random() < 0.3:
            break
        node = node[key]
    action = draw.random()
    if action < 0.15:
        del node[key]
    elif action < 0.25 and isinstance(node, dict):
        node[draw.choice(["", "surprise", "__proto__", "../x", "\x00"])] = draw.choice(NASTY)
    else:
        node[key] = draw.choice(NASTY)
    files[folders.CONFIG] = json.dumps(document).encode("utf-8", "surrogatepass")


def bomb_config(files, draw):
    """A config.json that is deep, wide, or has endless numbers."""
    many = draw.choice([10**3, 10**5, 2**20])
    bombs = [
        b"[" * many,
        b'{"a":' * many,
        b"[" + b"{}," * (many // 3) + b"1]",
        b"1" * many,
        b"1e999",
        b"-" + b"9" * 4000,
    ]
    text = draw.choice(bombs)
    where = draw.choice(
        [
            b'{"format_version":3,"architecture":"celo","config":%s}',
            b'{"format_version":2,"architecture":"celo","config":%s}',
            b'{"format_version":%s}',
            b"%s",
        ]
    )
    files[folders.CONFIG] = where % text


def edit_checksums(files, draw):
    """Lines of the checksums file go elsewhere, twice, or away. (A signed copy gets these too.)"""
    lines = folders.format_checksums(files).decode().splitlines(keepends=True)
    at = draw.randrange(len(lines))
    name = lines[at].split()[1]
    others = [f"../{name}", f"/{name}", f"./{name}", f"{name}\x00", "../../etc/passwd", "other.bin", f"*{name}", ""]
    edits = [
        lines[at].replace(name, draw.choice(others)),
        "",
        lines[at] * 2,
        lines[at].upper(),
        "0" * 64 + lines[at][64:],
    ]
    lines[at] = draw.choice(edits)
    files[folders.CHECKSUMS] = "".join(lines).encode()


ALTERATIONS = {
    function.__name__: function
    for function in (
        *(flip_bits, cut, append, replace, not_utf8, swap_leaves, oversized_header, edit_header, rename_leaf),
        *(not_finite, edit_config, bomb_config, edit_checksums),
    )
}


def odd_files(folder, draw):
    """A file becomes a folder, a pipe, a dangling link, a link to an endless or foreign file, or is unreadable by size."""
    path = folder / draw.choice([folders.CHECKSUMS, *folders.LISTED])
    path.unlink()
    kind = draw.choice(["folder", "pipe", "dangling", "loop", "device", "foreign", "sparse", "gone"])
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "sparse":
        path.touch()
        os.truncate(path, folders.LARGEST[path.name] + draw.choice([1, 2**40]))
    elif kind != "gone":
        targets = {"dangling": "nowhere", "loop": path.name, "device": "/dev/zero", "foreign": "/etc/passwd"}
        path.symlink_to(targets[kind])


# --- the properties --------------------------------------------------------------------------------------------------


def read_independently(data):
    """The arrays of a safetensors file by name, as NumPy reads them where the header says."""
    header, body = _split({folders.WEIGHTS: data})
    header.pop("__metadata__", None)
    dtypes = {"F64": "f8", "F32": "f4", "F16": "f2", "BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn}
    dtypes["F8_E5M2"] = ml_dtypes.float8_e5m2
    return {
        name: np.frombuffer(body[slice(*entry["data_offsets"])], dtypes[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in header.items()
    }


@contextlib.contextmanager
def peak_memory():
    """A list that gets the bytes by which the process's resident memory grew at its peak; Linux only."""

    def read(field):
        return 1024 * int(pathlib.Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0])

    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before, grown = read("VmRSS"), []
    yield grown
    grown.append(read("VmHWM") - before)


@contextlib.contextmanager
def watched():
    """Raises TimeoutError if it takes longer than `LONGEST`."""

    def stop(*_):
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, LONGEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def outcome(folder, digest, files):
    """Loads a copy; returns the name of the refusal, "identical", or "another valid optimizer".

    Raises:
      AssertionError: it loaded although it must not, or not what the file holds.
      Exception: what is not the package's own.
    """
    try:
        with watched():
            found = celo_zoo.load(f"{folder}@sha256:{digest}" if digest else folder)
    except celo_zoo.ZooError as error:
        assert str(error).isprintable() and 0 < len(str(error)) <= LONGEST_MESSAGE, error
        return type(error).__name__
    if all(files[name] == content for name, content in original_files.items()):
        return "identical"
    assert digest is None, "an altered copy passed as the one expected"
    leaves = tensors.flatten(found.theta)
    expected = read_independently(files[folders.WEIGHTS])
    assert tensors.same_bits(leaves, expected)
    assert all(np.isfinite(leaf).all() for leaf in leaves.values())
    assert json.loads(files[folders.CONFIG])["architecture"] == found.architecture.name
    return "another valid optimizer"


original_files = {}


def fuzz(copies, seed, scratch):
    """Alters and loads ``copies`` copies; returns how many had which outcome, by alteration and kind of copy."""
    draw = random.Random(seed)
    source = original(scratch / "original")
    original_files.update({name: (source / name).read_bytes() for name in (folders.CHECKSUMS, *folders.LISTED)})
    digest = folders.digest_of(original_files)
    counts = collections.defaultdict(collections.Counter)
    slowest = 0.0
    for number in range(copies):
        folder = scratch / f"copy{number % 7}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        files = dict(original_files)
        kind = draw.choices(["plain", "signed", "signed and expected"], [2, 7, 1])[0]
        name = draw.choice([*ALTERATIONS, "odd_files"])
        if name != "odd_files":
            for _ in range(draw.choice([1, 1, 1, 2])):
                with contextlib.suppress(
                    ValueError, KeyError, TypeError, IndexError, struct.error
                ):  # a second one may not fit
                    ALTERATIONS[name](files, draw)
        if kind != "plain" and name != "edit_checksums":
            files[folders.CHECKSUMS] = folders.format_checksums(files)
        for file, content in files.items():
            (folder / file).write_bytes(content)
        if name == "odd_files":
            odd_files(folder, draw)
        start = time.perf_counter()
        try:
            result = outcome(folder, digest if kind == "signed and expected" else None, files)
        except BaseException as error:
            error.add_note(f"copy {number} of seed {seed}: {name}, {kind}, kept in {folder}")
            raise
        slowest = max(slowest, time.perf_counter() - start)
        if kind == "plain":
            assert result != "another valid optimizer", (number, name)
        counts[f"{name}, {kind}"][result] += 1
    return {"counts": {key: dict(counts[key]) for key in sorted(counts)}, "slowest_seconds": round(slowest, 3)}


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=10_000, help="how many (10000)")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers (0)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        celo_zoo.load(original(pathlib.Path(scratch) / "warm"))
        with peak_memory() as grown:
            result = fuzz(options.copies, options.seed, pathlib.Path(scratch))
        result["peak_memory_growth_mib"] = round(grown[0] / 2**20, 1)
    totals = collections.Counter()
    for counted in result["counts"].values():
        totals.update(counted)
    print(
        json.dumps(
            {"copies": options.copies, "seed": options.seed, "totals": dict(totals.most_common()), **result}, indent=2
        )
    )


if __name__ == "__main__":
    main()
