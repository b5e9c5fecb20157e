"""What is written for TensorBoard, read back record by record."""

import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from celo_tasks.meta_training.trackers import tensorboard


def records(path: Path) -> list[bytes]:
    """The records of an event file: each is its length (uint64), a checksum (uint32), the data and their checksum."""
    content, found, at = path.read_bytes(), [], 0
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        found.append(content[at + 12 : at + 12 + length])
        at += 12 + length + 4
    assert at == len(content), "no record is cut short"
    return found


def events(folder: Path) -> list[Any]:
    """All events of a folder's files, from the first to the last written."""
    proto = pytest.importorskip("tensorboardX.proto.event_pb2")
    files = sorted(folder.glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime_ns)
    return [proto.Event.FromString(record) for path in files for record in records(path)]


def written(folder: Path) -> list[tuple[int, str, float]]:
    return [(event.step, value.tag, value.simple_value) for event in events(folder) for value in event.summary.value]


def test_scalars_are_read_back_with_their_steps(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    with tensorboard(tmp_path / "deep" / "run") as write:
        write(10, {"meta_loss": 1.5, "validation/ratio": np.float32(0.25)})
        write(np.int64(20), {"meta_loss": 0.1})
    found = written(tmp_path / "deep" / "run")
    assert [(step, tag) for step, tag, _ in found] == [
        (10, "meta_loss"),
        (10, "validation/ratio"),
        (20, "meta_loss"),
    ]
    # TensorBoard's scalars are float32.
    np.testing.assert_array_equal([value for *_, value in found], np.float32([1.5, 0.25, 0.1]))


def test_what_is_not_finite_is_written_as_it_is(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    with tensorboard(tmp_path) as write:
        write(1, {"meta_loss": float("nan"), "step_size": float("inf")})
    (_, _, nan), (_, _, infinite) = written(tmp_path)
    assert np.isnan(nan) and np.isposinf(infinite)


def test_a_resumed_run_hides_the_steps_that_it_repeats(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    with tensorboard(tmp_path) as write:
        write(5, {"meta_loss": 1.0})
        write(7, {"meta_loss": 9.0})  # after the last checkpoint, which was at step 5; then the run was killed
    with tensorboard(tmp_path, resumed_at=5) as write:
        write(6, {"meta_loss": 2.0})
    assert [(step, value) for step, _, value in written(tmp_path)] == [(5, 1.0), (7, 9.0), (6, 2.0)]
    # TensorBoard drops what has this step or a later one and stands before this mark, SessionLog.START.
    marks = [event.step for event in events(tmp_path) if event.session_log.status == 1]
    assert marks == [6]


def test_without_tensorboardx_one_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ValueError, match=r"pip install 'celo-tasks\[tensorboard\]'"):
        tensorboard(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="give another folder"):
        tensorboard(tmp_path / "file" / "run")


def test_importing_asks_for_nothing() -> None:
    code = "import sys, celo_tasks.meta_training.trackers; sys.exit('tensorboardX' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
