"""The command that meta-trains: both phases, a stop and a resume, what it leaves behind, and mistakes in the input."""

import functools
import json
import signal
import subprocess
import sys
import time

import chex
import jax
import numpy as np
import pytest

from celo_core import Celo
from celo_core.meta_training import checkpoints
from celo_tasks.cli import common as cli_common
from celo_tasks.cli import main as cli
from celo_tasks.cli import meta_training as cli_meta_training
from celo_tasks.meta_training import monitoring as meta_report
from celo_tasks.meta_training import recipe as recipes
from celo_tasks.meta_training import run as meta_training
from celo_tasks.meta_training.recipe_files import OFFLINE_DATASETS, PAPER_DATASETS
from celo_tasks.meta_training.validation import MetaValidation

SETTINGS = [
    "--datasets", "digits_8x8,fashion_mnist_small_8x8", "--iterations", "4", "--seed", "3", "--validate-every", "0",
    "--set", "problems.families.mlp=2", "--set", "estimator.truncation=3",
    "--set", "estimator.lengths.minimum=4", "--set", "estimator.lengths.maximum=9",
]  # fmt: skip


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A finished run: the first phase by a command of its own, then the rest."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    command = ["meta-train", "--out", str(folder), *SETTINGS]
    seen = ["--validate-every", "4", "--tensorboard", str(folder.parent / "board")]
    tiny = functools.partial(MetaValidation, 5, 1, ("mlp_tanh_48x24",), learning_rates=(0.01,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meta_report, "MetaValidation", tiny)
        assert cli.main([*command, "--phase", "update_rule", *seen]) == 0
    rule = (folder / "update_rule" / "theta.npz").read_bytes()
    assert cli.main(command) == 0
    assert (folder / "update_rule" / "theta.npz").read_bytes() == rule, "a finished phase is not run again"
    return folder


def real_command(out):
    """The real command on a run that would take hours, with validations."""
    program = "import sys; from celo_tasks.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "meta-train", "--out", str(out), *SETTINGS, "--iterations", "1000000"]
    command += ["--validate-every", "1000000"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_run_saves_and_says_how_to_go_on(number, status, tmp_path):
    """A signal to the real command, once its log shows that it runs."""
    out = tmp_path / "run"
    process = real_command(out)
    log = out / "update_rule" / "log.jsonl"
    deadline = time.monotonic() + 180
    while not log.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    assert "stopping at the end of the current block" in errors and "a second signal ends it at once" in errors
    assert "stopped; the same command goes on from" in errors and "Traceback" not in errors
    assert not list(out.rglob("validation*")), "who stops a run does not want to wait"
    saved = checkpoints.load_metadata(out / "update_rule" / "checkpoint.npz")["iteration"]
    assert saved == json.loads(log.read_text().splitlines()[-1])["iteration"] > 0


def test_a_run_that_compiles_has_nothing_to_save_and_is_left_at_once(tmp_path):
    process = real_command(tmp_path / "run")
    assert process.stderr.readline() == "phase 1 of 2: update rule\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (
        errors == f"celo-tasks: stopped before anything new was done; the same command goes on from {tmp_path}/run.\n"
    )


@pytest.mark.slow
def test_a_stop_between_phases_does_not_begin_the_next(run_folder, monkeypatch):
    """The first phase was finished when it came."""
    begun = []

    def finished(trainer, folder, **_):
        begun.append(folder.name)
        state = trainer.init()
        return state._replace(iteration=np.int32(trainer.config.iterations))

    monkeypatch.setattr(meta_training, "run_phase", finished)
    (run_folder / "stopped").mkdir()
    options = cli._parser().parse_args(["meta-train", "--out", "x", *SETTINGS])
    recipe = cli_meta_training._recipe(options)
    assert meta_training.meta_train(recipe, run_folder / "stopped", stop=lambda: True) is None
    assert begun == ["update_rule"] and (run_folder / "stopped" / "update_rule" / "theta.npz").exists()


@pytest.mark.slow
def test_what_is_seen_of_a_run(run_folder):
    """Validation, plots and TensorBoard, where they were asked for."""
    folder = run_folder / "update_rule"
    (line,) = [json.loads(line) for line in (folder / "validation.jsonl").read_text().splitlines()]
    assert line["iteration"] == 4 and np.isfinite(line["ratio"])
    assert json.loads((run_folder / "validation_adam.json").read_text())["tasks"].keys() == {"mlp_tanh_48x24"}
    for name in ("meta_loss.png", "step_sizes.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    assert list((run_folder.parent / "board" / "update_rule").glob("events*"))
    assert not (run_folder / "scheduler" / "validation.jsonl").exists()
    assert (run_folder / "scheduler" / "meta_loss.png").exists()


@pytest.mark.slow
def test_theta_is_that_of_celo_and_the_update_rule_is_frozen_in_phase_2(run_folder):
    theta = checkpoints.load_theta(run_folder / "theta.npz")
    expected = jax.eval_shape(Celo().init, jax.random.key(0))
    chex.assert_trees_all_equal_shapes(theta, jax.tree.map(lambda x: np.zeros(x.shape, np.float32), expected))
    rule = checkpoints.load_theta(run_folder / "update_rule" / "theta.npz")
    chex.assert_trees_all_equal(theta["update_rule"], rule["update_rule"])
    assert set(checkpoints.load_theta(run_folder / "scheduler" / "theta.npz")) == {"scheduler"}


def test_theta_round_trips_whatever_the_order_of_its_names(tmp_path):
    theta = {"b": {"y": np.ones(3, np.float32), "x": np.zeros(3, np.float32)}, "a": np.full(3, 2, np.float32)}
    checkpoints.save_theta(tmp_path / "theta.npz", theta, {})
    chex.assert_trees_all_equal(checkpoints.load_theta(tmp_path / "theta.npz"), theta)


@pytest.mark.slow
def test_provenance_and_logs(run_folder):
    run = json.loads((run_folder / "run.json").read_text())
    assert {"command", "commit", "recipe", "data", "seeds", "seconds", "inner_steps", "hardware", "versions"} <= set(
        run
    )
    assert run["recipe"]["problems"]["datasets"] == ["digits_8x8", "fashion_mnist_small_8x8"]
    assert len(run["data"]["sha256"]) == 64
    # 2 phases x 4 iterations x 2 pairs x 2 signs x 3 steps
    assert run["inner_steps"] == 2 * 4 * 2 * 2 * 3
    assert run["format_version"] == 3 and recipes.load(str(run_folder)).seed == 3
    for phase in ("update_rule", "scheduler"):
        lines = [json.loads(line) for line in (run_folder / phase / "log.jsonl").read_text().splitlines()]
        assert lines[-1]["iteration"] == 4
        assert {"meta_loss", "gradient_norm", "step_size", "non_finite", "seconds"} <= set(lines[-1])
        assert all(np.isfinite(value) for value in lines[-1].values())


@pytest.mark.slow
def test_other_settings_in_the_same_folder_are_refused(run_folder, capsys):
    (run_folder / "scheduler" / "theta.npz").rename(run_folder / "scheduler" / "kept.npz")
    try:
        command = ["meta-train", "--out", str(run_folder), *SETTINGS, "--set", "estimator.sigma=0.5"]
        assert cli.main(command) == 2
    finally:
        (run_folder / "scheduler" / "kept.npz").rename(run_folder / "scheduler" / "theta.npz")
    error = capsys.readouterr().err
    assert "estimator.sigma = 0.01, not 0.5: resume with the same settings, or start in another folder" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--datasets", "no_such_set"], "no_such_set"),
        (["--set", "problems.augmentation=['everywhere']"], "global, tensor, parameter"),
        (["--set", "problems.families.mlp=0"], "each with at least 1 antithetic pair"),
        (["--set", "problems.families.mpl=2"], "there is no family 'mpl', did you mean mlp"),
        (["--set", "estimator.lengths.minimum=5000"], "minimum <= maximum"),
        (["--phase", "scheduler"], "run the phase update_rule in this folder first"),
        (["--set", "phases.update_rule.replaces={}"], "the phase update_rule needs scheduler: let an earlier phase"),
        (
            ["--phase", "schedule"],
            "phase must be one of update_rule, scheduler, not 'schedule', did you mean scheduler",
        ),
        (["--set", "estimator.truncation=3000"], "longer than any problem"),
        (["--set", "estimator.type=guess"], "recipe.estimator has the unknown type 'guess'"),
        (["--set", "estimator.type=full_es", "--set", "estimator.resume.probability=0.5"], "has no field 'resume'"),
        (["--set", "estimator.meta_loss=test"], "meta_loss must be one of"),
        (["--set", "estimator.sigma=small"], "recipe.estimator.sigma must be of type float, not 'small'"),
        (["--set", "phases.update_rule.meta_optimizer=nowhere:make"], "cannot be imported"),
        (
            ["--set", "phases.update_rule.trains=['rule']"],
            "theta of celo has no 'rule' in this phase, did you mean update_rule",
        ),
        (
            ["--set", "phases.scheduler.trains=['schedule']"],
            "phases.scheduler.trains: the theta of celo has no 'schedule'",
        ),
        (["--set", "phases.scheduler.problems.families.vitt=2"], "there is no family 'vitt', did you mean vit"),
        (["--set", "phases.scheduler.meta_optimizer=nowhere:make"], "cannot be imported"),
        (["--set", "phases={update_rule={replaces={scheduler='none'}}}"], "no phase trains scheduler"),
        (["--set", "phases={'../rule'={}}"], "a phase is named as a folder"),
        (["--set", "estimator.lengths={type='constant'}"], "recipe.estimator.lengths must have steps"),
        (["--set", "phases.update_rule.trainning.iterations=3"], "has no field 'trainning', did you mean training"),
        (["--set", "problems.objective=accuracy"], "objective must be one of loss, log_loss"),
        (["--set", "architecture.name=cello"], "unknown architecture 'cello', did you mean celo"),
        (
            ["--set", "architecture.config.scheduler.prior.peak=2"],
            "recipe.architecture.config.scheduler.prior has no field 'peak'",
        ),
        (["--set", "architecture.config.schedule=3"], "architecture.config has no field 'schedule', did you mean"),
        (["--set", "phases.scheduler.replaces.schedule=3"], "phases.scheduler.replaces has no field 'schedule'"),
        (["--set", "seed"], "'seed' is no setting: write path.to.field=value"),
        (["--set", "seed.more=1"], "seed has no fields, so there is no seed.more"),
        (["--recipe", "fats"], "there is no recipe 'fats', did you mean fast"),
        (["--iterations", "0"], "at least 1 meta-iteration"),
        (["--validate-every", "-1"], "validation needs"),
        (["--coordinator", "localhost:1"], "--processes and --process together"),
    ],
)
def test_mistakes_give_one_sentence_and_leave_nothing(arguments, message, tmp_path, capsys):
    datasets = [] if "--datasets" in arguments else ["--datasets", "digits_8x8"]
    assert cli.main(["meta-train", "--out", str(tmp_path / "run"), *datasets, *arguments]) == 2
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
    assert cli_common.default_datasets(None) == OFFLINE_DATASETS
    assert "from the package are used" in capsys.readouterr().err


def test_paper_datasets_are_taken_where_present(tmp_path):
    arrays = {"x": np.zeros((2, 8, 8), np.uint8), "y": np.zeros(2, np.uint8)}
    for name in PAPER_DATASETS:
        np.savez(
            tmp_path / f"{name}.npz", x_train=arrays["x"], y_train=arrays["y"], x_test=arrays["x"], y_test=arrays["y"]
        )
    assert cli_common.default_datasets(str(tmp_path)) == PAPER_DATASETS


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["meta-train", "--help"])
    assert exit_.value.code == 0
    assert "examples:" in capsys.readouterr().out


def test_a_run_of_the_old_layout_says_what_to_do(tmp_path, capsys):
    (tmp_path / "update_rule").mkdir()
    checkpoints.save_theta(tmp_path / "update_rule" / "theta.npz", {"update_rule": {"b": np.zeros(2, np.float32)}}, {})
    assert cli.main(["meta-train", "--out", str(tmp_path), *SETTINGS]) == 2
    error = capsys.readouterr().err
    assert "was written by an earlier version" in error and "celo-zoo convert RUN" in error
