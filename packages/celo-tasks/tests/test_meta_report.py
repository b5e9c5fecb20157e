"""What is seen of a phase while it runs, on a toy: validation, pictures, TensorBoard, after a stop and after a rollback."""

import functools
import json

import jax
import numpy as np
import optax
import pytest

from celo_core import ConstantLength, TruncatedPES
from celo_core.meta_training import checkpoints
from celo_core.meta_training.run import RunStatus, run_phase
from celo_core.meta_training.trainer import MetaTrainConfig, MetaTrainer
from celo_core.testing.toys import LearnedSGD, Quadratic
from celo_tasks.families import ImageMLP
from celo_tasks.meta_training import monitoring as meta_report
from celo_tasks.meta_training import run as meta_training
from celo_tasks.meta_training.monitoring import MetaReport
from celo_tasks.meta_training.optimizers import normalized_steps
from celo_tasks.meta_training.recipe import load
from celo_tasks.meta_training.validation import MetaValidation, ValidationStopped


@pytest.fixture(autouse=True)
def tiny_validation(monkeypatch):
    tiny = functools.partial(MetaValidation, 5, 1, ("mlp_tanh_48x24",), learning_rates=(0.01,))
    monkeypatch.setattr(meta_report, "MetaValidation", tiny)


def trainer(iterations=25):
    estimator = TruncatedPES(LearnedSGD(), Quadratic(noise=0.1), num_pairs=4, truncation=5, lengths=ConstantLength(15))
    return MetaTrainer(estimator, MetaTrainConfig(iterations=iterations, block=5), {}, devices=jax.devices()[:1])


def lines(folder):
    return [json.loads(line) for line in (folder / "rule" / "validation.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_stop_and_a_resume_leave_no_line_twice(tmp_path):
    pytest.importorskip("tensorboardX")
    one = trainer()
    stopped = iter([False, False, True])
    for stop in (lambda: next(stopped), lambda: False):
        with MetaReport(tmp_path, "rule", LearnedSGD(), 10, str(tmp_path / "board")) as watch:
            run_phase(one, tmp_path / "rule", watch=watch, stop=stop)
    # Not at 15, where the run was stopped: who stops it does not want to wait. At the end, too.
    assert [line["iteration"] for line in lines(tmp_path)] == [10, 20, 25]
    assert all(np.isfinite(line["ratio"]) and line["seconds"] > 0 for line in lines(tmp_path))
    assert (tmp_path / "validation_adam.json").exists()
    for name in ("meta_loss.png", "step_sizes.png"):
        assert (tmp_path / "rule" / name).read_bytes().startswith(b"\x89PNG")
    assert len(list((tmp_path / "board" / "rule").glob("events*"))) == 2


def test_a_stop_comes_before_a_validation(tmp_path):
    watch = MetaReport(tmp_path, "rule", LearnedSGD(), 5, None, stop=lambda: True)
    state = run_phase(trainer(), tmp_path / "rule", watch=watch, stop=lambda: True)
    assert int(state.iteration) == 5
    assert not (tmp_path / "rule" / "validation.jsonl").exists()
    assert (tmp_path / "rule" / "meta_loss.png").exists()


def test_a_validation_that_is_stopped_leaves_no_line_and_the_run_is_saved(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(MetaValidation, "measure", lambda *_: asked.append(1) or stopped())

    def stopped():
        raise ValidationStopped

    watch = MetaReport(tmp_path, "rule", LearnedSGD(), 5, None)
    run_phase(trainer(), tmp_path / "rule", watch=watch)
    assert asked == [1] and not (tmp_path / "rule" / "validation.jsonl").exists()
    assert checkpoints.load_metadata(tmp_path / "rule" / "checkpoint.npz")["iteration"] == 5


@pytest.mark.slow
def test_after_a_rollback_what_was_measured_beyond_it_is_dropped(tmp_path):
    one = trainer()
    state, metrics = one.run(one.init(), 5)
    (tmp_path / "rule").mkdir()
    (tmp_path / "rule" / "log.jsonl").write_text(json.dumps({"iteration": 5, "meta_loss": 1.0}) + "\n")
    watch = MetaReport(tmp_path, "rule", LearnedSGD(), 5, None)
    for iteration in (5, 10, 15, 10):  # back to 5, from where the next block ends at 10
        watch(RunStatus(state, iteration, 1.0, metrics, False))
    assert [line["iteration"] for line in lines(tmp_path)] == [5, 10]


def test_without_validation_there_is_the_picture_of_the_loss(tmp_path):
    with MetaReport(tmp_path, "rule", LearnedSGD(), 0, None) as watch:
        run_phase(trainer(10), tmp_path / "rule", watch=watch)
    assert {path.name for path in (tmp_path / "rule").iterdir()} == {"checkpoint.npz", "log.jsonl", "meta_loss.png"}


def sgd(iterations):
    """A meta-optimizer of one's own."""
    return optax.sgd(1.0 / iterations)


def test_a_meta_optimizer_is_imported(monkeypatch):
    settings = (f"phases.update_rule.meta_optimizer={__name__}:sgd", "phases.update_rule.training.iterations=4")
    recipe = load("paper", (*settings, "problems.families.mlp=2", "estimator.truncation=2"))
    family = ImageMLP(("digits_8x8",))
    made = meta_training._trainer(recipe, "update_rule", {}, [family], [family.load()], None)
    updates, _ = made._optimizer.update({"a": np.ones(2)}, made._optimizer.init({"a": np.ones(2)}))
    np.testing.assert_allclose(updates["a"], -0.25)


def with_rate(iterations, learning_rate):
    """One that is given the phase's schedule."""
    assert iterations == 4
    return optax.sgd(learning_rate)


def test_a_meta_optimizer_may_ask_for_the_learning_rate():
    settings = (f"phases.update_rule.meta_optimizer={__name__}:with_rate", "phases.update_rule.training.iterations=4")
    rate = ("phases.update_rule.training.learning_rate=0.5", "phases.update_rule.training.final_fraction=0.0")
    recipe = load("paper", (*settings, *rate, "problems.families.mlp=2", "estimator.truncation=2"))
    family = ImageMLP(("digits_8x8",))
    made = meta_training._trainer(recipe, "update_rule", {}, [family], [family.load()], None)
    state, steps = made._optimizer.init({"a": np.ones(2)}), []
    for _ in range(4):
        updates, state = made._optimizer.update({"a": np.ones(2)}, state)
        steps.append(updates["a"][0])
    np.testing.assert_allclose(steps, -0.25 * (1 + np.cos(np.pi * np.arange(4) / 4)), rtol=1e-6)


def test_normalized_steps_against_numpy():
    rng = np.random.default_rng(0)
    optimizer = normalized_steps(10, lambda step: 0.1 / (1 + step))
    theta = {"a": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.float32)}
    state = optimizer.init(theta)
    mean, square = np.zeros(10), 0.0
    for step in range(5):
        gradient = rng.standard_normal(10).astype(np.float32) * 10.0**-step
        tree = {"a": gradient[:6].reshape(2, 3), "b": gradient[6:]}
        updates, state = optimizer.update(tree, state, theta)
        mean += 0.1 * (gradient - mean)
        square += 0.02 * ((gradient**2).mean() - square)
        expected = -0.1 / (1 + step) * (mean / (1 - 0.9 ** (step + 1))) / np.sqrt(square / (1 - 0.98 ** (step + 1)))
        np.testing.assert_allclose(np.concatenate([np.ravel(updates["a"]), updates["b"]]), expected, rtol=1e-4)
    constant = normalized_steps(10, 0.1)
    updates, _ = constant.update(jax.tree.map(lambda x: x + 7, theta), constant.init(theta))
    np.testing.assert_allclose(updates["b"], -0.1, rtol=1e-5)


def test_no_gradient_makes_no_step():
    optimizer = normalized_steps(10)
    zeros = {"a": np.zeros(3, np.float32)}
    updates, _ = optimizer.update(zeros, optimizer.init(zeros))
    np.testing.assert_array_equal(updates["a"], 0)
