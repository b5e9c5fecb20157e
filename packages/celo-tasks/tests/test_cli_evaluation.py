"""The commands `evaluate` and `report`, with trainings that are made up: what they say, and what is left on disk."""

import dataclasses
import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from celo_tasks.cli.main import main
from celo_tasks.evaluation.loading import load_task
from celo_tasks.evaluation.optimizer_specs import resolve
from celo_tasks.evaluation.store import Run, RunKey, Store
from celo_tasks.evaluation.worker import Group, Worker

TASK = "small_vae"
COMMAND = ["evaluate", "--task", TASK, "--optimizer", "sgd", "--steps", "40", "--seeds", "2", "--jobs", "1"]
RATES = ["--learning-rates", "1e-3,1e-2", "--schedules", "constant"]


@pytest.fixture(autouse=True)
def trainings(monkeypatch: pytest.MonkeyPatch, make_run: Callable[..., Run]) -> None:
    """Trainings that take no time: SGD ends at 2, Adam at 1 plus its learning rate."""
    identity = load_task(TASK, None).identity

    def run(worker: Worker, group: Group, report: Callable[[float], None]) -> Iterator[list[Run]]:
        for setting, seed in group.members:
            level = 2.0 if group.spec.name == "sgd" else 1.0 + setting.learning_rate
            made = make_run(np.full(group.steps, level), base=group.base)
            key = RunKey(group.task, group.spec.name, setting, seed, group.steps)
            yield [
                dataclasses.replace(
                    made, key=key, task_identity=identity, optimizer_identity=resolve(group.spec).identity
                )
            ]

    monkeypatch.setattr(Worker, "run", run)


def test_evaluate_tunes_adam_where_the_package_has_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results"
    assert main([*COMMAND, *RATES, "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "Adam is tuned here on 1 of 1 tasks" in printed.err
    assert "| sgd " in printed.out and "| adam " in printed.out
    store = Store.read(out)
    assert len(store.runs) == 2 * 2 * 2
    assert {path.name for path in out.iterdir()} >= {"report.md", "report.json", "curves.png", "intervals.png"}
    sgd = next(line for line in printed.out.splitlines() if line.startswith(f"| {TASK} | sgd"))
    assert "| 0.50 " in sgd  # Adam's 1.001 over 2


def test_report_is_rebuilt_from_the_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results"
    main([*COMMAND, *RATES, "--out", str(out)])
    (out / "report.md").unlink()
    capsys.readouterr()
    assert main(["report", str(out), "--out", str(tmp_path / "elsewhere")]) == 0
    assert capsys.readouterr().out.strip() in (tmp_path / "elsewhere" / "report.md").read_text()
    assert main(["report", str(tmp_path)]) == 2
    assert "holds no evaluation: give the folder" in capsys.readouterr().err


def test_time_and_further_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results"
    assert main([*COMMAND, *RATES, "--out", str(out), "--minutes", "0"]) == 0
    assert "time is up; 1 runs are in" in capsys.readouterr().err
    assert len(Store.read(out).runs) == 1
    command = [*COMMAND, *RATES, "--out", str(out)]
    command[command.index("--seeds") + 1] = "3"
    assert main(command) == 0
    assert len(Store.read(out).runs) == 2 * 2 * 3


def test_a_full_disk_is_said_and_what_was_done_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    append, out = Store.append, tmp_path / "results"

    def full(store: Store, run: Run) -> None:
        if len(store.runs) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(store, run)

    monkeypatch.setattr(Store, "append", full)
    assert main([*COMMAND, *RATES, "--out", str(out)]) == 2
    assert "could not be written (No space left on device); the 2 runs in it are kept" in capsys.readouterr().err
    assert len(Store.read(out).runs) == 2


def test_what_failed_is_said_though_nothing_is_left_to_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(worker: Worker, group: Group, report: Callable[[float], None]) -> Iterator[list[Run]]:
        raise RuntimeError("out of memory")
        yield []  # a generator, as the method is

    monkeypatch.setattr(Worker, "run", broken)
    assert main([*COMMAND, *RATES, "--out", str(tmp_path / "results")]) == 2
    errors = capsys.readouterr().err
    assert f"sgd failed on {TASK}: RuntimeError: out of memory" in errors
    assert "holds no finished run yet" in errors.splitlines()[-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--suite", "small-8"], "say what to evaluate on"),
        (["--task", "small_mpl"], "did you mean small_mlp"),
        (["--optimizer", "sgdd"], "did you mean"),
        (["--optimizer", "adam=lion"], "give your optimizer another name"),
        (["--learning-rates", "1e-3,x"], "learning rates are numbers"),
        (["--learning-rates", "-1"], "must be positive"),
        (["--schedules", "linear"], "no schedule 'linear'"),
        (["--weights", "nowhere"], "there are no weights"),
        (["--steps", "5"], "steps must be at least 20"),
        (["--jobs", "-3"], "jobs must be at least 1"),
        (["--time-steps", "--jobs", "2"], "only with one process"),
        (["--learning-rates", "1e-3,1e-3"], "learning rates must be given, each once"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_no_store(
    change: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*COMMAND, *RATES, *change, "--out", str(tmp_path / "results")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("celo-tasks: ") and message in error
    assert not (tmp_path / "results").exists()


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("list", "evaluate", "report"):
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0
    assert "mymodule:make" in capsys.readouterr().out


def test_another_length_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results"
    main([*COMMAND, *RATES, "--out", str(out)])
    other: list[Any] = [*COMMAND, *RATES, "--out", str(out)]
    other[other.index("--steps") + 1] = "50"
    assert main(other) == 2
    assert "holds results with steps 40, not 50" in capsys.readouterr().err
    assert len(Store.read(out).runs) == 8
