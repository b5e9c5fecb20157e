"""The command from end to end, with a stand-in for the pretrained optimizer."""

import io
import json
import os
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import optax
import pytest

from celo_core import TaskFamily, files
from celo_core.progress import ProgressLine
from celo_tasks import plots, quickstart
from celo_tasks.cli import main as cli
from celo_tasks.families import MLP, ImageClassifier
from celo_tasks.quickstart import Settings


def stand_in(num_steps: int) -> optax.GradientTransformationExtraArgs:
    """Momentum, but insists on the loss as a learned optimizer does."""
    inner = optax.sgd(optax.linear_schedule(0.3, 0.0, num_steps), momentum=0.9)

    def update(updates: Any, state: Any, params: Any = None, *, value: Any, **_: Any) -> tuple[Any, Any]:
        assert value.shape == ()
        return inner.update(updates, state, params)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def small() -> TaskFamily:
    return ImageClassifier("small", MLP((8,), 10), "fashion_mnist_small_8x8", (64,), batch_size=16)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    tasks = {"first": ("a small MLP", small), "second": ("the same again", small)}
    monkeypatch.setattr(quickstart, "TASKS", tasks)

    def run(out: Path, **settings: Any) -> Any:
        given = {"tasks": ("first",), "steps": 60, "learning_rates": (3e-3, 3e-2, 1e30), **settings}
        return quickstart.run(Settings(**given), out, find=lambda _: stand_in, progress=ProgressLine(io.StringIO()))

    return run


def test_a_signal_leaves_the_tasks_that_are_done(
    run: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    compare, done = quickstart.compare, []

    def interrupted(*arguments: Any, **settings: Any) -> Any:
        if done:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
        done.append(compare(*arguments, **settings))
        return done[0]

    monkeypatch.setattr(quickstart, "compare", interrupted)
    command = ["quickstart", "--out", str(tmp_path / "out"), "--tasks", "first,second", "--optimizers", "adam"]
    assert cli.main([*command, "--steps", "20", "--learning-rates", "1e-2"]) == 130
    errors = capsys.readouterr().err
    assert errors.splitlines()[-1].startswith("celo-tasks: stopped; the results of the tasks that were finished are in")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert not results["complete"] and len(results["tasks"]) == 1


def test_table_json_and_picture(run: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "results"
    comparisons = run(out)
    assert sorted(path.name for path in out.iterdir()) == ["curves.png", "results.json", "results.md"]

    printed = capsys.readouterr().out
    table = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 3 and len({len(line) for line in table}) == 1  # aligned
    assert [line.split("|")[2].strip() for line in table[2:]] == ["celo", "adam", "adamw"]
    assert "in all" in printed and "speed-up" in printed
    assert table == [line for line in (out / "results.md").read_text().splitlines() if line.startswith("|")]

    results = json.loads((out / "results.json").read_text(), parse_constant=pytest.fail)  # no NaN, no Infinity
    assert results["complete"] and results["versions"]["jax"] == jax.__version__ and results["seconds"] > 0
    assert results["settings"]["steps"] == 60 and results["machine"]
    assert [task["description"] for task in results["tasks"]] == ["a small MLP"]
    for task, comparison in zip(results["tasks"], comparisons, strict=True):
        assert task["parameters"] == 64 * 8 + 8 + 8 * 10 + 10
        celo, adam, _ = task["optimizers"]
        assert celo["learning_rate"] is None and adam["learning_rate"] == 3e-2 and not adam["learning_rate_at_edge"]
        assert 0.2 < celo["held_out"]["accuracy"] <= 1
        assert celo["final_loss"] == pytest.approx(comparison.outcome("celo").best.final_loss, rel=1e-5)
        assert celo["seconds_per_step"] > 0 and celo["time_over_adam"] > 0 and adam["time_over_adam"] == 1
        assert 0 < celo["speedup_over_adam"]["factor"] <= 1 and adam["speedup_over_adam"] is None
        diverged = adam["candidates"][2]
        assert diverged["learning_rate"] == 1e30 and diverged["held_out"]["loss"] is None
        assert len(celo["curve_steps"]) == len(celo["candidates"][0]["smoothed_curve"]) == 60

    png = (out / "curves.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", png[16:24])
    assert width > 500 and height > 400


def test_a_crash_leaves_whole_files_only(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    draw = plots.draw

    def draw_once(comparisons: Any) -> bytes:
        calls.append(len(comparisons))
        return draw(comparisons) if len(calls) == 1 else report_failure()

    def report_failure() -> bytes:
        raise RuntimeError("crash")

    monkeypatch.setattr(plots, "draw", draw_once)
    with pytest.raises(RuntimeError, match="crash"):
        run(tmp_path, tasks=("first", "second"), optimizers=("adam",), steps=4)
    results = json.loads((tmp_path / "results.json").read_text())
    assert calls == [1, 2] and not results["complete"] and len(results["tasks"]) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "results.json", "results.md"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    files.write_bytes(path, b"old")

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_bytes(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_missing_optimizer_is_said_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: [])
    monkeypatch.setattr(quickstart, "compare", lambda *_, **__: pytest.fail("trained"))
    monkeypatch.setattr("celo_tasks.evaluation.optimizers.pretrained_names", lambda: ())
    assert cli.main(["quickstart", "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert "pip install celo-zoo" in captured.err and len(captured.err.splitlines()) == 1
    assert not captured.out and not (tmp_path / "out").exists()


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["quickstart", "--out", str(tmp_path), "--tasks", "mlp", "--optimizers", "adam", "--steps", "4"]
    assert cli.main([*arguments, "--learning-rates", "1e-3,1e-2", "--seeds", "2"]) == 0
    assert "| mlp " in capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["settings"]["seeds"] == 2 and results["settings"]["learning_rates"] == [1e-3, 1e-2]
    assert results["tasks"][0]["parameters"] == 784 * 128 + 128 + 128 * 128 + 128 + 128 * 10 + 10


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": ("vision",)}, "choose from mlp, convnet, transformer"),
        ({"tasks": ()}, "tasks"),
        ({"optimizers": ("adam", "adam")}, "each once"),
        ({"steps": 0}, "at least 1"),
        ({"seeds": 0}, "at least 1"),
        ({"learning_rates": (1e-3, -1.0)}, "positive"),
    ],
)
def test_mistakes_are_explained(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**settings)


def test_an_impossible_folder_is_explained(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="--out"):
        run(tmp_path / "file")


@pytest.mark.parametrize("name", quickstart.TASKS)
def test_tasks_can_be_loaded_and_initialised(name: str) -> None:
    family = quickstart.TASKS[name][1]()
    config = family.sample(jax.random.key(0))
    params, _ = jax.eval_shape(family.init, jax.random.key(0), config)
    assert 4_000 < sum(leaf.size for leaf in jax.tree.leaves(params)) < 150_000
    assert jax.eval_shape(family.batch, jax.random.key(0), config, family.load())
