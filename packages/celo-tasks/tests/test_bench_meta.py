"""The command `bench-meta` at the smallest settings: what it prints and writes, and mistakes in the input."""

import contextlib
import io
import json
import math
import os
import signal
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo_tasks.cli.main import main
from celo_tasks.families import ImageMLP, reparametrize
from celo_tasks.meta_training import bench as bench_meta
from celo_tasks.meta_training import bench_report

COMMAND = ["bench-meta", "--datasets", "digits_8x8", "--truncation", "3", "--seconds", "0.001", "--repeats", "2"]
PAIRS = (1, 2)
PARAMETERS = 64 * 32 + 32 + 32 * 10 + 10


class Measured(NamedTuple):
    """A run of the command with all that it can write."""

    out: str
    error: str
    folder: Path

    @property
    def record(self) -> dict[str, Any]:
        return json.loads(self.out.splitlines()[-1])

    def case(self, name: str, pairs: int) -> dict[str, Any]:
        (case,) = [one for one in self.record["cases"] if (one["name"], one["pairs"]) == (name, pairs)]
        return case


def run_with_all_outputs(folder: Path, pairs: str, default_pairs: int, **patches: Any) -> Measured:
    out, error = io.StringIO(), io.StringIO()
    files = ["--out", str(folder / "new" / "bench.json"), "--plot", str(folder / "bench.png")]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        patch.setattr(bench_meta, "DEFAULT_PAIRS", default_pairs)
        for name, value in patches.items():
            patch.setattr(bench_meta, name, value)
        assert main([*COMMAND, "--pairs", pairs, "--json", *files]) == 0
    return Measured(out.getvalue(), error.getvalue(), folder)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """A run in which meta-training is made up, since it takes long to compile; Adam's training is not.

    The default number of pairs is 2 here, and is measured though it is not asked for.
    """

    def made_up(name: str, family: Any, data: Any, pairs: int, *rest: Any) -> bench_meta._Program:
        step = jax.jit(lambda x: (x + 1, jnp.sum(x)))
        state = jnp.zeros((pairs, 25))
        return bench_meta._Program(step, lambda: step.lower(state), state, state.nbytes)

    return run_with_all_outputs(tmp_path_factory.mktemp("bench"), "1, 1", 2, _meta_training=made_up)


def test_the_last_line_is_json_with_all_that_is_documented(measured: Measured) -> None:
    record = measured.record
    documented = {
        "inner_steps_per_second", "adam_inner_steps_per_second", "rate_over_adam", "share_of_time_in_inner_gradients",
        "share_of_time_in_update_rule", "machine", "versions", "settings", "cases",
    }  # fmt: skip
    assert set(record) == documented
    assert record["versions"]["jax"] == jax.__version__
    expected = {"datasets": ["digits_8x8"], "pairs": [1, 2], "truncation": 3, "repeats": 2, "default_pairs": 2}
    assert expected.items() <= record["settings"].items()
    shares = record["share_of_time_in_inner_gradients"], record["share_of_time_in_update_rule"]
    assert sum(shares) == pytest.approx(1, abs=1e-9)


def test_cases(measured: Measured) -> None:
    found = [(case["pairs"], case["name"]) for case in measured.record["cases"]]
    assert found == [(1, "update_rule"), (1, "adam"), *((2, name) for name in bench_meta.TITLES)]
    for case in measured.record["cases"]:
        assert case["problems_at_once"] == 2 * case["pairs"]
        assert case["devices"] == max(n for n in range(1, jax.device_count() + 1) if case["pairs"] % n == 0)
        assert 0 < case["smallest"] <= case["inner_steps_per_second"] <= case["largest"] < math.inf
        assert all(0 < case[key] < math.inf for key in ("rate_over_adam", "first_call_seconds", "state_bytes_per_pair"))
        # A meta-iteration is 3 steps of both members of every pair; both numbers have four digits.
        steps = case["milliseconds_per_meta_iteration"] / 1e3 * case["inner_steps_per_second"]
        assert steps == pytest.approx(2 * case["pairs"] * 3, rel=2e-3)
        assert case["temporary_bytes_per_device"] is None or case["temporary_bytes_per_device"] >= 0


def test_what_is_said_first_is_that_of_the_default_case(measured: Measured) -> None:
    rule, adam = measured.case("update_rule", 2), measured.case("adam", 2)
    assert measured.record["inner_steps_per_second"] == rule["inner_steps_per_second"]
    assert measured.record["adam_inner_steps_per_second"] == adam["inner_steps_per_second"]
    assert measured.record["rate_over_adam"] == rule["rate_over_adam"]
    assert adam["rate_over_adam"] == 1


def test_state_of_a_pair_does_not_depend_on_their_number(measured: Measured) -> None:
    one, two = (measured.case("adam", pairs)["state_bytes_per_pair"] for pairs in PAIRS)
    assert one == two
    assert measured.case("update_rule", 2)["state_bytes_per_pair"] == 4 * 25  # as made up
    # Two networks with two moments, in float32, their step counts, and the scales of their problem.
    least = 4 * (2 * 3 + 1) * PARAMETERS
    assert least < one < least + 50


def test_files(measured: Measured) -> None:
    assert json.loads((measured.folder / "new" / "bench.json").read_text()) == measured.record
    assert (measured.folder / "bench.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert len(list(measured.folder.rglob("*"))) == 3  # and no temporary file


def test_progress_is_on_standard_error_alone(measured: Measured) -> None:
    assert len(measured.out.splitlines()) == 1
    assert "1 of 2 numbers of pairs | 2 pairs | compiling update rule" in measured.error
    assert measured.error.splitlines()[-1] == "measured at 1, 2 pairs"


def test_table_and_picture_of_a_record(measured: Measured) -> None:
    lines = bench_report.table(measured.record).splitlines()
    start = next(number for number, line in enumerate(lines) if "inner steps/s" in line)
    rows = lines[start + 1 : start + 1 + len(measured.record["cases"])]
    for row, case in zip(rows, measured.record["cases"], strict=True):
        assert row.startswith(bench_meta.TITLES[case["name"]])
        assert f"{case['inner_steps_per_second']:,.0f}" in row.split()
    assert len({len(row) for row in rows}) == 1
    # A backend may not tell what memory a program needs.
    for case in (record := measured.record)["cases"]:
        case["temporary_bytes_per_device"] = None
    assert "None" not in bench_report.table(record)
    assert bench_report.draw(record).startswith(b"\x89PNG")


def test_without_json_a_table_is_printed(
    measured: Measured, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[bench_meta.BenchSettings] = []

    def measure(settings: bench_meta.BenchSettings, **_: Any) -> dict[str, Any]:
        asked.append(settings)
        return measured.record

    monkeypatch.setattr(bench_meta, "measure", measure)
    assert main(COMMAND) == 0
    assert capsys.readouterr().out == bench_report.table(measured.record) + "\n"
    assert asked[0].pairs == bench_meta.default_pairs() and 32 in asked[0].pairs


def test_a_program_of_meta_training() -> None:
    family = reparametrize(ImageMLP(("digits_8x8",)), bench_meta.LEVELS)
    program = bench_meta._meta_training("gradient_descent", family, family.load(), 1, 2, jax.devices()[:1])
    program.run()  # on the state that the first call left
    assert program.first_call_seconds > 0
    # Two networks and the scales of their problem; theta's three numbers and the counts are next to nothing.
    assert 0 <= program.state_bytes - 4 * 3 * PARAMETERS < 100
    assert program.temporary_bytes is None or program.temporary_bytes > 0


@pytest.mark.slow
def test_celo_is_measured(tmp_path: Path) -> None:
    measured = run_with_all_outputs(tmp_path, "1", 1)
    assert [case["name"] for case in measured.record["cases"]] == list(bench_meta.TITLES)
    # Celo has three momenta and a second moment for Adam's two moments, and gradient descent has none.
    size = {case["name"]: case["state_bytes_per_pair"] for case in measured.record["cases"]}
    assert min(size["update_rule"], size["scheduler"]) > size["adam"] > size["gradient_descent"]


def test_a_phase_trains_its_own_part_of_theta() -> None:
    for name in ("update_rule", "scheduler"):
        assert set(bench_meta._architecture(name).init(jax.random.key(0))) == {name}
    assert bench_meta._architecture("update_rule").config.scheduler is None


@pytest.mark.parametrize(
    ("pairs", "available", "devices"), [(32, 2, 2), (9, 2, 1), (6, 4, 3), (8, 8, 8), (7, 8, 7), (1, 2, 1)]
)
def test_as_many_devices_as_divide_the_pairs(pairs: int, available: int, devices: int) -> None:
    assert bench_meta._most_devices(pairs, available) == devices


def test_what_was_measured_before_a_signal_is_shown(
    measured: Measured, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(settings: Any, *, on_case: Any) -> None:
        if (tmp_path / "again").exists():
            on_case(measured.record)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    monkeypatch.setattr(bench_meta, "measure", interrupted)
    command = [*COMMAND, "--json", "--out", str(tmp_path / "bench.json")]
    assert main(command) == 143
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err == "celo-tasks: stopped; what was measured, if anything, is shown.\n"
    (tmp_path / "again").touch()
    assert main(command) == 143
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "bench.json").read_text()) == measured.record


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--pairs", "0"], "pairs must be at least 1, not 0"),
        (["--pairs", "8,-2"], "pairs must be at least 1, not 8, -2"),
        (["--pairs", "8,many"], "integers with commas between them, not '8,many'"),
        (["--pairs", "2.5"], "integers with commas between them"),
        (["--pairs", ""], "integers with commas between them"),
        (["--truncation", "0"], "truncation and repeats must be at least 1"),
        (["--repeats", "0"], "truncation and repeats must be at least 1"),
        (["--seconds", "0"], "must be positive"),
        (["--seconds", "nan"], "must be positive"),
        (["--cpu-devices", "0"], "CPU devices must be at least 1"),
        (["--datasets", "no_such_set"], "no_such_set"),
        (["--datasets", "fashion_mnist_small_28"], "8x8 grey pictures of ten classes"),
        (["--out", "."], "is a folder"),
        (["--plot", "."], "is a folder"),
    ],
)
def test_mistakes_give_one_sentence(change: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMAND, *change]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("celo-tasks: ") and message in error


def test_prepared_arrays_of_other_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, labels = np.zeros((20, 8, 8), np.uint8), np.arange(20, dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    assert main([*COMMAND, "--datasets", "mine", "--data-dir", str(tmp_path)]) == 2
    assert "ten classes, unlike mine" in capsys.readouterr().err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["bench-meta", "--help"])
    assert stop.value.code == 0
    assert "examples:" in capsys.readouterr().out
