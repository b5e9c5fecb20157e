"""The command that meta-trains: both phases, a stop and a resume, what it leaves behind, and mistakes in the input."""

import json

import chex
import jax
import numpy as np
import pytest

from celo_core import Celo
from celo_tasks import cli, meta_training

SETTINGS = [
    "--datasets", "digits_8x8,fashion_mnist_small_8x8", "--iterations", "4", "--pairs", "2", "--truncation", "3",
    "--min-length", "4", "--max-length", "9", "--seed", "3",
]  # fmt: skip


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A finished run: the first phase by a command of its own, then the rest."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    command = ["meta-train", "--out", str(folder), *SETTINGS]
    assert cli.main([*command, "--phase", "update-rule"]) == 0
    rule = (folder / "update_rule" / "theta.npz").read_bytes()
    assert cli.main(command) == 0
    assert (folder / "update_rule" / "theta.npz").read_bytes() == rule, "a finished phase is not run again"
    return folder


@pytest.mark.slow
def test_theta_is_that_of_celo_and_the_update_rule_is_frozen_in_phase_2(run_folder):
    theta = meta_training.load_theta(run_folder / "theta.npz")
    expected = jax.eval_shape(Celo().init, jax.random.key(0))
    chex.assert_trees_all_equal_shapes(theta, jax.tree.map(lambda x: np.zeros(x.shape, np.float32), expected))
    rule = meta_training.load_theta(run_folder / "update_rule" / "theta.npz")
    chex.assert_trees_all_equal(theta["update_rule"], rule["update_rule"])
    assert set(meta_training.load_theta(run_folder / "scheduler" / "theta.npz")) == {"scheduler"}


def test_theta_round_trips_whatever_the_order_of_its_names(tmp_path):
    theta = {"b": {"y": np.ones(3, np.float32), "x": np.zeros(3, np.float32)}, "a": np.full(3, 2, np.float32)}
    meta_training.save_theta(tmp_path / "theta.npz", theta, {})
    chex.assert_trees_all_equal(meta_training.load_theta(tmp_path / "theta.npz"), theta)


@pytest.mark.slow
def test_provenance_and_logs(run_folder):
    run = json.loads((run_folder / "run.json").read_text())
    assert {"command", "commit", "recipe", "data", "seeds", "seconds", "inner_steps", "hardware", "versions"} <= set(
        run
    )
    assert run["recipe"]["datasets"] == ["digits_8x8", "fashion_mnist_small_8x8"]
    assert len(run["data"]["sha256"]) == 64
    # 2 phases x 4 iterations x 2 pairs x 2 signs x 3 steps
    assert run["inner_steps"] == 2 * 4 * 2 * 2 * 3
    for phase in meta_training.PHASES:
        lines = [json.loads(line) for line in (run_folder / phase / "log.jsonl").read_text().splitlines()]
        assert lines[-1]["iteration"] == 4
        assert {"meta_loss", "gradient_norm", "step_size", "non_finite", "seconds"} <= set(lines[-1])
        assert all(np.isfinite(value) for value in lines[-1].values())


@pytest.mark.slow
def test_other_settings_in_the_same_folder_are_refused(run_folder, capsys):
    (run_folder / "scheduler" / "theta.npz").rename(run_folder / "scheduler" / "kept.npz")
    try:
        command = ["meta-train", "--out", str(run_folder), *SETTINGS, "--sigma", "0.5"]
        assert cli.main(command) == 2
    finally:
        (run_folder / "scheduler" / "kept.npz").rename(run_folder / "scheduler" / "theta.npz")
    assert "start in another folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--datasets", "no_such_set"], "no_such_set"),
        (["--datasets", "digits_8x8", "--augmentation", "everywhere"], "global, tensor, parameter"),
        (["--datasets", "digits_8x8", "--pairs", "0"], "num_pairs"),
        (["--datasets", "digits_8x8", "--min-length", "9", "--max-length", "3"], "minimum"),
        (["--datasets", "digits_8x8", "--phase", "scheduler"], "update_rule in this folder first"),
    ],
)
def test_mistakes_give_one_sentence_and_leave_nothing(arguments, message, tmp_path, capsys):
    assert cli.main(["meta-train", "--out", str(tmp_path / "run"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_data_dir_without_the_arrays(tmp_path, capsys):
    np.savez(tmp_path / "mnist_8x8.npz", x_train=np.zeros((3, 8, 8), np.uint8))
    arguments = ["--data-dir", str(tmp_path), "--datasets", "mnist_8x8"]
    assert cli.main(["meta-train", "--out", str(tmp_path / "run"), *arguments]) == 2
    assert "mnist_8x8.npz" in (error := capsys.readouterr().err) and "y_train" in error
    assert not (tmp_path / "run").exists()


def test_offline_default_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert cli.default_datasets(None) == meta_training.OFFLINE_DATASETS
    assert "from the package are used" in capsys.readouterr().err


def test_paper_datasets_are_taken_where_present(tmp_path):
    arrays = {"x": np.zeros((2, 8, 8), np.uint8), "y": np.zeros(2, np.uint8)}
    for name in meta_training.PAPER_DATASETS:
        np.savez(
            tmp_path / f"{name}.npz", x_train=arrays["x"], y_train=arrays["y"], x_test=arrays["x"], y_test=arrays["y"]
        )
    assert cli.default_datasets(str(tmp_path)) == meta_training.PAPER_DATASETS


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["meta-train", "--help"])
    assert exit_.value.code == 0
    assert "examples:" in capsys.readouterr().out
