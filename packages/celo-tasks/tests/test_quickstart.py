"""The command from end to end, on its smallest task and with a stand-in for the pretrained optimizer."""

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
from celo_tasks.cli import main as cli
from celo_tasks.cli.main import _parser
from celo_tasks.cli.quickstart import _plan
from celo_tasks.evaluation import optimizer_specs, plots
from celo_tasks.evaluation.store import Store
from celo_tasks.evaluation.worker import Worker
from celo_tasks.families import MLP, ImageClassifier
from celo_tasks.tasks import registry

TASK = "quickstart_mlp"
FILES = ["curves.png", "intervals.png", "profiles.png", "report.json", "report.md", "runs.jsonl", "store.json"]


def stand_in(num_steps: int) -> optax.GradientTransformationExtraArgs:
    """Momentum, but insists on the loss as a learned optimizer does."""
    inner = optax.sgd(optax.linear_schedule(0.3, 0.0, num_steps), momentum=0.9)

    def update(updates: Any, state: Any, params: Any = None, *, value: Any, **_: Any) -> tuple[Any, Any]:
        assert value.shape == ()
        return inner.update(updates, state, params)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def small(name: str, dataset: str, data_dir: str | None) -> TaskFamily:
    return ImageClassifier(name, MLP((8,), 10), "fashion_mnist_small_8x8", (64,), batch_size=16)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The command on small networks, with a Celo that is none."""
    entry = registry.TaskEntry
    tasks = {name: entry(name, "MLP", one.datasets, small, one.suite) for name, one in registry.TASKS.items()}
    monkeypatch.setattr(registry, "TASKS", tasks)
    monkeypatch.setattr(optimizer_specs, "pretrained_names", lambda: ("celo",))
    monkeypatch.setattr(optimizer_specs, "load_pretrained", lambda name: stand_in)

    def run(out: Path, *options: str) -> int:
        command = ["quickstart", "--out", str(out), "--tasks", "mlp", "--steps", "60"]
        return cli.main([*command, "--learning-rates", "3e-3,3e-2,1e30", *options])

    return run


def interrupt_before(monkeypatch: pytest.MonkeyPatch, number: int) -> list[str]:
    """Lets SIGINT come before so many tasks are done; returns the names of the tasks that are begun."""
    begun: list[str] = []
    run_in_turn = Worker.run_in_turn

    def interrupted(worker: Worker, groups: Any, send: Any) -> None:
        begun.append(groups[0].task)
        if len(begun) == number:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
        run_in_turn(worker, groups, send)

    monkeypatch.setattr(Worker, "run_in_turn", interrupted)
    return begun


def test_a_signal_leaves_the_tasks_that_are_done_and_the_same_command_goes_on(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, options = tmp_path / "out", ["--tasks", "mlp,convnet", "--optimizers", "adam", "--steps", "20"]
    begun = interrupt_before(monkeypatch, 2)
    assert run(out, *options) == 130
    errors = capsys.readouterr().err
    assert errors.splitlines()[-1].startswith(f"celo-tasks: stopped; the finished runs, if any, are in {out}:")
    assert {key.task for key in Store.read(out).runs} == {"quickstart_mlp"}
    assert run(out, *options) == 0
    assert begun == ["quickstart_mlp", "quickstart_convnet", "quickstart_convnet"]
    assert len(Store.read(out).runs) == 2 * 3


def test_table_json_and_picture(run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "results"
    assert run(out) == 0
    assert sorted(path.name for path in out.iterdir()) == FILES

    printed = capsys.readouterr().out
    table = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 3 and len({len(line) for line in table}) == 1  # aligned
    assert {line.split("|")[2].strip() for line in table[2:]} == {"celo", "adam", "adamw"}
    assert "in all" in printed and "speed-up" in printed
    assert [line for line in (out / "report.md").read_text().splitlines() if line.startswith(f"| {TASK}")] == table[2:]

    report = json.loads((out / "report.json").read_text(), parse_constant=pytest.fail)  # no NaN, no Infinity
    assert report["suite"] == "quickstart" and report["steps"] == 60 and report["machines"]
    assert report["versions"][0]["jax"] == jax.__version__
    celo, adam, adamw = (
        next(row for row in report["tasks"] if row["optimizer"] == n) for n in ("celo", "adam", "adamw")
    )
    assert celo["parameters"] == 64 * 8 + 8 + 8 * 10 + 10
    assert celo["setting"] == "none" and adam["setting"] == "3e-2 constant" and not adam["at_edge"]
    assert adamw["setting"].endswith(" cosine_decay") and adam["settings"] == 3
    assert 0.2 < celo["held_out"]["accuracy"] <= 1
    assert celo["time_over_adam"] > 0 and adam["time_over_adam"] == 1
    assert 0 < celo["speedup_by_seed"][0] <= 1 and adam["settings_that_diverged"] == 1

    png = (out / "curves.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", png[16:24])
    assert width > 500 and height > 400


def test_a_crash_leaves_whole_files_only(
    run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(tmp_path, "--optimizers", "adam", "--steps", "20") == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "runs.jsonl"}

    def crash(*_: Any) -> bytes:
        raise RuntimeError("crash")

    monkeypatch.setattr(plots, "draw_curves", crash)
    assert run(tmp_path, "--optimizers", "adam,adamw", "--steps", "20") == 2
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "runs.jsonl"} == before
    assert Store.read(tmp_path).optimizers() == ["adam", "adamw"]


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
    monkeypatch.setattr(Worker, "run_in_turn", lambda *_, **__: pytest.fail("trained"))
    assert cli.main(["quickstart", "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert "pip install celo-zoo" in captured.err and len(captured.err.splitlines()) == 1
    assert not captured.out and not (tmp_path / "out").exists()


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["quickstart", "--out", str(tmp_path), "--tasks", "mlp", "--optimizers", "adam", "--steps", "20"]
    assert cli.main([*arguments, "--learning-rates", "1e-3,1e-2", "--seeds", "2"]) == 0
    assert f"| {TASK} " in capsys.readouterr().out
    runs = Store.read(tmp_path).runs
    assert {(key.setting.learning_rate, key.setting.schedule, key.seed) for key in runs} == {
        (rate, "constant", seed) for rate in (1e-3, 1e-2) for seed in (0, 1)
    }
    assert next(iter(runs.values())).parameters == 784 * 128 + 128 + 128 * 128 + 128 + 128 * 10 + 10


def test_defaults_are_the_suite_s() -> None:
    plan = _plan(_parser().parse_args(["quickstart"]))
    assert (plan.steps, plan.seeds, plan.longest, plan.timing, plan.tune_adam) == (1000, 1, 1, True, ())
    assert plan.tasks == ("quickstart_mlp", "quickstart_convnet", "quickstart_transformer")
    assert [spec.name for spec in plan.specs] == ["celo", "adam", "adamw"]
    settings = [[str(setting) for setting in plan.settings(spec)] for spec in plan.specs[1:]]
    rates = ("3e-4", "1e-3", "3e-3", "1e-2", "3e-2", "1e-1")
    assert settings == [[f"{rate} {kind}" for rate in rates] for kind in ("constant", "cosine_decay")]
    full = _plan(_parser().parse_args(["quickstart", "--tasks", "quickstart_mlp,transformer", "--optimizers", "celo"]))
    assert full.tasks == full.tune_adam == ("quickstart_mlp", "quickstart_transformer")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tasks", "vision"], "choose from mlp, convnet, transformer"),
        (["--tasks", ","], "at least one task"),
        (["--tasks", "mlp,quickstart_mlp"], "tasks must be given, each once"),
        (["--optimizers", "adam,adam"], "is given twice"),
        (["--steps", "0"], "at least 1"),
        (["--seeds", "0"], "at least 1"),
        (["--learning-rates", "1e-3,-1.0"], "positive"),
    ],
)
def test_mistakes_are_explained(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["quickstart", "--out", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_an_impossible_folder_is_explained(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert run(tmp_path / "file") == 2
    assert "--out" in capsys.readouterr().err


@pytest.mark.parametrize("name", registry.SUITES["quickstart"].tasks)
def test_tasks_can_be_loaded_and_initialised(name: str) -> None:
    family = registry.TASKS[name].make()
    config = family.sample(jax.random.key(0))
    params, _ = jax.eval_shape(family.init, jax.random.key(0), config)
    assert 4_000 < sum(leaf.size for leaf in jax.tree.leaves(params)) < 150_000
    assert jax.eval_shape(family.batch, jax.random.key(0), config, family.load())
