"""The meta-trainer: it learns, resumes bit for bit, keeps frozen parts frozen, and writes files atomically."""

import json
import os
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo_core import ConstantLength, TruncatedPES
from celo_core.meta_training import checkpoints
from celo_core.meta_training.run import run_phase
from celo_core.meta_training.trainer import FrozenPart, MetaTrainConfig, MetaTrainer
from celo_core.testing.toys import LearnedSGD, Quadratic

CONFIG = MetaTrainConfig(iterations=12, learning_rate=0.05, weight_decay=0.1, block=3, average_decay=0.5)


def make_trainer(config=CONFIG, devices=None, **kwargs):
    estimator = TruncatedPES(
        kwargs.pop("architecture", LearnedSGD()),
        Quadratic(noise=0.1),
        num_pairs=8,
        truncation=5,
        lengths=kwargs.pop("lengths", ConstantLength(15)),
    )
    return MetaTrainer(estimator, config, {}, devices=devices if devices is not None else jax.devices()[:1])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, jax.device_get(run_phase(make_trainer(), folder))


@pytest.mark.slow
def test_resume_is_bit_for_bit(finished, tmp_path):
    stops = iter([False, True])
    run_phase(make_trainer(), tmp_path, stop=lambda: next(stops))
    assert checkpoints.load_metadata(tmp_path / "checkpoint.npz")["iteration"] == 6
    resumed = jax.device_get(run_phase(make_trainer(), tmp_path))
    chex.assert_trees_all_equal(resumed, finished[1])
    read = lambda folder: [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    strip = lambda lines: [{k: v for k, v in line.items() if k != "seconds"} for line in lines]
    assert strip(read(tmp_path)) == strip(read(finished[0]))


def test_devices_share_the_pairs(finished):
    """Every pair has its own keys, so splitting them changes only the order of sums: a few float32 roundings."""
    trainer = make_trainer(devices=jax.devices()[:4])
    state, _ = trainer.run(trainer.init(), CONFIG.iterations)
    chex.assert_trees_all_close(jax.device_get(state.theta), finished[1].theta, rtol=1e-5)


def test_theta_of_something_else_is_refused():
    theta = jax.device_get(LearnedSGD().init(jax.random.key(0)))
    with pytest.raises(ValueError, match=r"'unused/bias' has shape \(3,\), not \(2,\)"):
        make_trainer().init(theta | {"unused": {"bias": np.zeros(3)}})
    with pytest.raises(ValueError, match="not one of 'learned_sgd': it lacks unused/bias"):
        make_trainer().init({"rule": theta["rule"]})


def test_meta_training_finds_a_better_learning_rate(tmp_path):
    config = MetaTrainConfig(iterations=100, learning_rate=0.05, block=25)
    trainer = make_trainer(config)
    state, metrics = trainer.run(trainer.init(), 100)
    assert metrics["meta_loss"][-20:].mean() < 0.7 * metrics["meta_loss"][:20].mean()
    assert state.theta["rule"]["log_learning_rate"] > LearnedSGD().initial


def test_frozen_part_stays_and_is_not_in_the_state(tmp_path):
    whole = LearnedSGD().init(jax.random.key(0))
    architecture = FrozenPart(LearnedSGD(), {"unused": whole["unused"]})
    trainer = make_trainer(architecture=architecture)
    state, _ = trainer.run(trainer.init(), 3)
    assert set(state.theta) == {"rule"}
    merged = architecture.merge(jax.device_get(state.theta))
    chex.assert_trees_all_equal(merged["unused"], whole["unused"])
    assert merged["rule"]["log_learning_rate"] != whole["rule"]["log_learning_rate"]


def test_weight_decay_would_move_an_unused_leaf_that_is_not_frozen(finished):
    """Which is why a phase does not get the part of theta that it does not train."""
    assert np.all(finished[1].theta["unused"]["bias"] != 1.0)


def test_average_is_the_running_average(finished):
    trainer = make_trainer()
    state, average = trainer.init(), None
    for _ in range(3):
        before = jax.device_get(state.average)
        state, _ = trainer.run(state, 1)
        average = jax.tree.map(lambda a, t: 0.5 * a + 0.5 * t, before, jax.device_get(state.theta))
        chex.assert_trees_all_close(jax.device_get(state.average), average, rtol=1e-6)


def test_other_settings_are_refused(finished):
    folder, _ = finished
    other = MetaTrainConfig(**{**CONFIG.__dict__, "learning_rate": 0.01})
    with pytest.raises(ValueError, match="learning_rate = 0.05, not 0.01"):
        run_phase(make_trainer(other), folder)
    with pytest.raises(ValueError, match=r"estimator.lengths.steps = \d+, not 7"):
        run_phase(make_trainer(lengths=ConstantLength(7)), folder)


def test_damaged_checkpoint_is_refused(finished, tmp_path):
    whole = (finished[0] / "checkpoint.npz").read_bytes()
    (tmp_path / "checkpoint.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        run_phase(make_trainer(), tmp_path)


def test_checkpoint_of_another_shape_is_refused(finished):
    with pytest.raises(ValueError, match="settings that it was written with"):
        checkpoints.load_checkpoint(finished[0] / "checkpoint.npz", {"a": jax.ShapeDtypeStruct((3,), np.float32)})
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        checkpoints.load_metadata(finished[0] / "other.npz")


def test_failure_while_writing_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.npz"
    checkpoints.save_checkpoint(path, [np.arange(3)], {"number": 1})

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        checkpoints.save_checkpoint(path, [np.arange(4)], {"number": 2})
    assert checkpoints.load_metadata(path) == {"number": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.npz"]


def test_stops_after_minutes(tmp_path):
    state = run_phase(make_trainer(), tmp_path, minutes=0.0)
    assert int(state.iteration) == CONFIG.block


def test_progress_says_rate_time_left_loss_and_step_size(tmp_path, capsys):
    from celo_core.progress import ProgressLine

    run_phase(make_trainer(), tmp_path, progress=ProgressLine(stream=sys.stderr, interval=0.0))
    lines = capsys.readouterr().err.splitlines()
    assert all("meta-loss" in line and "step size" in line for line in lines[:-1])
    assert "inner steps/s" in lines[1] and "left" in lines[1]


@pytest.mark.parametrize("decay_from", [0.0, 0.6])
def test_learning_rate_is_held_and_then_decays_by_a_cosine(decay_from):
    """Adam's step for a gradient that stays the same is the learning rate."""
    config = MetaTrainConfig(iterations=20, learning_rate=0.1, final_fraction=0.25, decay_from=decay_from)
    optimizer = config.optimizer()
    theta = {"a": jnp.ones(())}
    state, steps = optimizer.init(theta), []
    for _ in range(20):
        updates, state = optimizer.update({"a": jnp.ones(())}, state, theta)
        steps.append(-float(updates["a"]))
    held = round(20 * decay_from)
    progress = np.clip((np.arange(20) - held) / (20 - held), 0, 1)
    expected = 0.1 * (0.25 + 0.75 * (1 + np.cos(np.pi * progress)) / 2)
    np.testing.assert_allclose(steps, expected, rtol=1e-4)  # bias corrections in float32, and Adam's epsilon


@pytest.mark.parametrize("decay_from", [-0.1, 1.0])
def test_decay_from_must_be_a_share(decay_from):
    with pytest.raises(ValueError, match="decay_from must be in"):
        MetaTrainConfig(decay_from=decay_from)
