"""Altered copies are refused or load as what they hold; reading is bounded in memory."""

import json
import os
import pathlib
import struct
import subprocess
import sys
import tracemalloc

import pytest
from fuzzing import ALTERATIONS, fuzz, original

import celo_zoo
from celo_zoo import folders, models, tensors


@pytest.mark.slow
def test_ten_thousand_altered_copies(tmp_path):
    result = fuzz(10_000, 7, tmp_path)
    counts = result["counts"]
    assert sum(sum(counted.values()) for counted in counts.values()) == 10_000
    for name in [*ALTERATIONS, "odd_files"]:
        # That each alteration came to be, in each kind of copy, and was refused at least once.
        for kind in ("plain", "signed", "signed and expected"):
            assert any(outcome.endswith("Error") for outcome in counts[f"{name}, {kind}"]), (name, kind)
    # Flipped bits in signed weights make other numbers: only an expected digest tells.
    assert counts["flip_bits, signed"]["another valid optimizer"] > 0
    assert "another valid optimizer" not in counts["flip_bits, signed and expected"]


def bombs(files):
    """The same folder with as much in one file as may be."""
    room = folders.LARGEST[folders.CONFIG]
    document = json.loads(files[folders.CONFIG])
    start = json.dumps(document)[:-1] + ', "more": ['
    for filler in ("{},", "[],", '"",', "1.5,", '{"a":[]},'):
        text = start + filler * ((room - len(start) - 10) // len(filler)) + "0]}"
        yield files | {folders.CONFIG: text.encode()}
    entry = '"{:x}":{{"dtype":"F32","shape":[],"data_offsets":[{},{}]}},'
    header = "{" + "".join(entry.format(i, 4 * i, 4 * i + 4) for i in range(14_000)).rstrip(",") + "}"
    assert 0.8 * tensors.LARGEST_HEADER < len(header) <= tensors.LARGEST_HEADER
    yield files | {folders.WEIGHTS: struct.pack("<Q", len(header)) + header.encode() + bytes(4 * 14_000)}
    header = '{"a":{"dtype":"F32","shape":[15728640],"data_offsets":[0,62914560]}}'
    yield files | {folders.WEIGHTS: struct.pack("<Q", len(header)) + header.encode() + bytes(62_914_560)}


def test_memory_is_bounded(tmp_path):
    """By what `celo_zoo.models` documents; of the parser in Rust only what it hands over is seen here."""
    source = original(tmp_path / "original")
    files = {name: (source / name).read_bytes() for name in folders.LISTED}
    celo_zoo.load(source)
    for number, altered in enumerate(bombs(files)):
        folder = folders.write(tmp_path / str(number), altered)
        size = sum(path.stat().st_size for path in folder.iterdir())
        tracemalloc.start()
        try:
            celo_zoo.load(folder)
        except celo_zoo.FormatError:
            pass
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak <= models.MEMORY_PER_BYTE * size + models.MEMORY, (number, peak, size)


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's count of peak memory")
def test_memory_of_the_process_is_bounded(tmp_path):
    """All that the process takes, the parser in Rust included, for the largest weights of no use."""
    source = original(tmp_path / "original")
    files = {name: (source / name).read_bytes() for name in folders.LISTED}
    *_, header_bomb, large = bombs(files)
    code = (
        "import sys, celo_zoo, fuzzing\n"
        "celo_zoo.load(sys.argv[1])\n"
        "with fuzzing.peak_memory() as grown:\n"
        "    try:\n        celo_zoo.load(sys.argv[2])\n"
        "    except celo_zoo.FormatError:\n        pass\n"
        "print(grown[0])\n"
    )
    for number, altered in enumerate((header_bomb, large)):
        folder = folders.write(tmp_path / str(number), altered)
        size = sum(path.stat().st_size for path in folder.iterdir())
        command = [sys.executable, "-c", code, str(source), str(folder)]
        environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parent)}
        grown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120).stdout
        assert int(grown) >= 0.5 * size  # so that what is measured is there
        assert int(grown) <= models.MEMORY_PER_BYTE * size + models.MEMORY
