"""Runs that are killed, that diverge, that have no disk space, and that get invalid arguments."""

import dataclasses
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import textwrap
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from celo_core import Celo, CeloConfig, ConstantLength, MeanOfEstimators, TruncatedES, TruncatedPES, configs, files
from celo_core.meta_training import checkpoints
from celo_core.meta_training import run as meta_run
from celo_core.meta_training.divergence import Health
from celo_core.meta_training.run import FORMAT, GOOD_EVERY, MOST_RETRIES, checkpoint_theta, run_phase
from celo_core.meta_training.trainer import MetaTrainConfig, MetaTrainer
from celo_core.progress import ProgressLine
from celo_core.testing.toys import Clock, LearnedSGD, LearnedWalk, Quadratic

CONFIG = MetaTrainConfig(iterations=60, learning_rate=0.05, block=2, average_decay=0.5)


def make_trainer(config=CONFIG, family=Quadratic(noise=0.1), devices=None, optimizer=None, **kwargs):
    settings = {"num_pairs": 8, "truncation": 5, "lengths": ConstantLength(15), **kwargs}
    estimator = TruncatedPES(LearnedSGD(), family, **settings)
    return MetaTrainer(estimator, config, {}, devices=devices or jax.devices()[:1], optimizer=optimizer)


LONG = dataclasses.replace(CONFIG, iterations=400)

KILLED_RUN = """
    import os, sys, time
    sys.path.insert(0, {tests!r})
    import test_meta_run  # JAX is imported here, once, but starts in the children
    for folder in map(str.strip, sys.stdin):
        child = os.fork()
        if child == 0:
            slow = lambda: time.sleep(0.01)
            trainer = test_meta_run.make_trainer(test_meta_run.LONG)
            test_meta_run.run_phase(trainer, folder, checkpoint_seconds=0.03, stop=slow)
            os._exit(0)
        print(child, flush=True)
        print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.mark.slow
def test_killed_at_twenty_random_moments_the_result_is_the_same_to_the_last_bit(tmp_path):
    """Each child resumes the run of the one before, and is killed without warning after a random time."""
    script = textwrap.dedent(KILLED_RUN.format(tests=str(pathlib.Path(__file__).parent)))
    # The uninterrupted run comes first and leaves its programs in a cache, so that the others need not compile.
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **cache},
    )

    def start(folder):
        parent.stdin.write(f"{folder}\n")
        parent.stdin.flush()
        return int(parent.stdout.readline())

    start(tmp_path / "unbroken")
    assert int(parent.stdout.readline()) == 0
    rng, statuses, progressed = random.Random(0), [], set()
    checkpoint, log = tmp_path / "run" / "checkpoint.npz", tmp_path / "run" / "log.jsonl"
    for attempt in range(20):
        child, size = start(tmp_path / "run"), log.stat().st_size if log.exists() else 0
        # A fifth are killed while they start; the others while they run, as their log shows.
        deadline = time.monotonic() + 60
        while attempt % 5 and time.monotonic() < deadline and not (log.exists() and log.stat().st_size > size):
            time.sleep(0.005)
        time.sleep(rng.uniform(0.0, 0.12))
        os.kill(child, signal.SIGKILL)
        statuses.append(int(parent.stdout.readline()))
        if checkpoint.exists():
            progressed.add(checkpoints.load_metadata(checkpoint)["iteration"])
    start(tmp_path / "run")
    statuses.append(int(parent.stdout.readline()))
    parent.stdin.close()
    parent.wait()
    assert statuses == [signal.SIGKILL] * 20 + [0]
    assert len(progressed) >= 5, "killed at different points of the run"
    example = make_trainer(LONG).example()
    found, expected = (
        checkpoints.load_checkpoint(tmp_path / name / "checkpoint.npz", example) for name in ("run", "unbroken")
    )
    chex.assert_trees_all_equal(found, expected)
    lines = [json.loads(line)["iteration"] for line in log.read_text().splitlines()]
    assert lines == list(range(2, LONG.iterations + 1, 2)), "no block is logged twice or left out"


def test_a_stop_ends_the_run_with_the_block_in_which_it_comes_and_what_watches_is_told(tmp_path):
    trainer, moments = make_trainer(), []
    run_phase(trainer, tmp_path, stop=lambda: True, watch=moments.append)
    assert [(moment.iteration, moment.last, moment.stopped) for moment in moments] == [(2, True, True)]
    assert checkpoints.load_metadata(tmp_path / "checkpoint.npz")["iteration"] == 2
    # A stop by ``minutes`` does not set ``stopped``.
    run_phase(trainer, tmp_path, minutes=0.0, watch=moments.append)
    assert (moments[-1].iteration, moments[-1].last, moments[-1].stopped) == (4, True, False)


def test_a_stop_while_the_run_is_watched_ends_it_there(tmp_path):
    seen = []
    state = run_phase(make_trainer(), tmp_path, watch=lambda moment: seen.append(moment) or len(seen) == 2)
    assert len(seen) == 2 and not seen[1].last and int(state.iteration) == 4
    assert checkpoints.load_metadata(tmp_path / "checkpoint.npz")["iteration"] == 4


def test_half_a_checkpoint_of_a_run_that_was_killed_is_removed(tmp_path, monkeypatch):
    def killed(file, **arrays):
        file.write(b"half")
        raise SystemExit

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(np, "savez", killed)
        patch.setattr(pathlib.Path, "unlink", lambda *_, **__: None)  # as after the process was killed
        run_phase(make_trainer(), tmp_path, stop=lambda: True)
    (half,) = tmp_path.glob(".*")
    assert half.read_bytes() == b"half" and not (tmp_path / "checkpoint.npz").exists()
    run_phase(make_trainer(), tmp_path, stop=lambda: True)
    assert not list(tmp_path.glob(".*")) and (tmp_path / "checkpoint.npz").exists()


@dataclasses.dataclass(frozen=True)
class Explodes(Quadratic):
    """Its loss jumps once the learning rate exceeds a bound: a run that diverges after a good start."""

    name = "explodes"

    def loss(self, params, model_state, key, config, batch):
        loss, model_state = super().loss(params, model_state, key, config, batch)
        return jnp.where(jnp.max(jnp.abs(params)) > 1.5, 10.0 + loss, loss), model_state


def diverging(folder, iterations=GOOD_EVERY * 4, **kwargs):
    """A meta-optimizer that increases the learning rate regardless of the gradient, until it is unstable."""
    pull = optax.chain(
        optax.scale(0.0), optax.stateless(lambda g, p: jax.tree.map(lambda x: jnp.full_like(x, 0.01), g))
    )
    trainer = make_trainer(MetaTrainConfig(iterations=iterations, block=20), Explodes(), optimizer=pull)
    return run_phase(trainer, folder, progress=ProgressLine(sys.stderr, 0.0), **kwargs)


@pytest.mark.slow
def test_divergence_is_reported_and_the_run_goes_on(tmp_path, capsys):
    state = diverging(tmp_path)
    assert int(state.iteration) == GOOD_EVERY * 4
    assert "diverged at iteration" in capsys.readouterr().err
    event = json.loads((tmp_path / "events.jsonl").read_text().splitlines()[0])
    assert event["action"] == "report" and "smoothed meta-loss has risen" in event["wrong"]


@pytest.mark.slow
def test_divergence_stops_the_run_with_one_sentence(tmp_path):
    with pytest.raises(FloatingPointError, match="diverged at iteration .* lower the learning rate"):
        diverging(tmp_path, on_divergence="stop")
    assert json.loads((tmp_path / "events.jsonl").read_text())["action"] == "stop"


@pytest.mark.slow
def test_a_run_that_is_not_finite_stops_and_its_checkpoint_is_from_before(tmp_path):
    """With every value of ``on_divergence``: a theta that is NaN cannot recover."""
    spoil = lambda g, count: jax.tree.map(lambda x: jnp.where(count < 30, 0.0 * x, jnp.nan), g)
    optimizer = optax.GradientTransformation(lambda p: jnp.zeros((), int), lambda g, c, p: (spoil(g, c), c + 1))
    with pytest.raises(FloatingPointError, match="theta is not finite"):
        run_phase(make_trainer(optimizer=optimizer), tmp_path, checkpoint_seconds=0.0)
    state = checkpoints.load_checkpoint(tmp_path / "checkpoint.npz", make_trainer(optimizer=optimizer).example())
    assert int(state.iteration) == 30 and np.isfinite(state.theta["rule"]["log_learning_rate"])
    assert json.loads((tmp_path / "events.jsonl").read_text())["action"] == "stop"


@pytest.mark.slow
def test_divergence_is_rolled_back(tmp_path, capsys):
    """The run returns to a good state, halves its steps, and stops after the last retry; the log has no gap."""
    state = diverging(tmp_path, on_divergence="rollback")
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert 1 <= len(events) <= MOST_RETRIES and {event["action"] for event in events} == {"rollback"}
    assert int(state.retries) == len(events)
    assert all(event["iteration"] < event["at"] for event in events)
    assert events[0]["iteration"] % GOOD_EVERY == 0 and events[0]["iteration"] > 0, "the last good state, not the first"
    lines = [json.loads(line)["iteration"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == list(range(20, GOOD_EVERY * 4 + 1, 20))
    assert "half the step size" in capsys.readouterr().err
    # log lr from -1 by 0.01 an iteration, by half of that after the first retry, ...: slower than without rollbacks
    assert state.theta["rule"]["log_learning_rate"] < -1 + 0.01 * GOOD_EVERY * 4 - 0.5


def test_health_notices_what_is_not_finite():
    fine = {"meta_loss": np.ones(5), "gradient_norm": np.ones(5), "theta_norm": np.ones(5)}
    for name, word in (("meta_loss", "meta-loss"), ("gradient_norm", "meta-gradient"), ("theta_norm", "theta")):
        assert word in Health().observe({**fine, name: np.asarray([1.0, np.nan])})
    health = Health()
    for _ in range(100):
        assert health.observe(fine) is None
    assert health.smoothed == pytest.approx(1.0) and health.good
    again = Health.from_json(json.loads(json.dumps(health.to_json())))
    assert again == health
    assert "has risen to" in str([health.observe({**fine, "meta_loss": np.full(20, 9.0)}) for _ in range(3)])
    assert Health.from_json(json.loads(json.dumps(Health().to_json()))) == Health()


def test_folder_without_room_fails_before_anything_is_compiled(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    trainer = make_trainer()
    monkeypatch.setattr(trainer, "init", lambda theta: pytest.fail("compiled"))
    with pytest.raises(OSError, match=r"cannot be written to .*choose another folder"):
        run_phase(trainer, tmp_path / "file" / "run")
    with pytest.raises(OSError, match="has no room for"):
        limit_file_size(lambda: run_phase(trainer, tmp_path / "run"))
    assert not any((tmp_path / "run").iterdir())


def limit_file_size(function):
    """Calls a function where no file may grow beyond 4 kB, which simulates a full disk."""
    resource = pytest.importorskip("resource")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, old[1]))
    try:
        return function()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.slow
def test_theta_of_a_checkpoint_whatever_it_was_trained_on(tmp_path):
    trainer = make_trainer(dataclasses.replace(CONFIG, iterations=4))
    state = run_phase(trainer, tmp_path)
    path = tmp_path / "checkpoint.npz"
    chex.assert_trees_all_equal(checkpoint_theta(path, LearnedSGD()), jax.device_get(state.theta))
    assert not np.array_equal(jax.tree.leaves(state.theta)[0], jax.tree.leaves(state.average)[0])
    with pytest.raises(ValueError, match="array 0 is float32"):
        checkpoint_theta(path, Celo())
    checkpoints.save_checkpoint(path, state, {"format": 1})
    with pytest.raises(ValueError, match="of format 1"):
        checkpoint_theta(path, LearnedSGD())
    checkpoints.save_checkpoint(path, [np.zeros(())], {"format": FORMAT})
    with pytest.raises(ValueError, match="of another kind of run"):
        checkpoint_theta(path, LearnedSGD())


def test_room_is_given_back(tmp_path):
    files.check_room(tmp_path / "a" / "b", 3 * 2**20)
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_disk_that_fills_up_is_reported_and_tried_again(tmp_path, monkeypatch, capsys):
    saved, real = [], checkpoints.save_checkpoint

    def save(path, tree, metadata):
        saved.append(metadata["iteration"])
        if len(saved) in (2, 3):
            raise OSError(28, "No space left on device")
        real(path, tree, metadata)

    monkeypatch.setattr(checkpoints, "save_checkpoint", save)
    progress = ProgressLine(sys.stderr, 0.0)
    state = run_phase(make_trainer(), tmp_path, checkpoint_seconds=0.0, progress=progress)
    assert int(state.iteration) == CONFIG.iterations == saved[-1]
    assert capsys.readouterr().err.count("could not be written (No space left on device)") == 2
    assert checkpoints.load_metadata(tmp_path / "checkpoint.npz")["iteration"] == CONFIG.iterations


def test_any_optax_chain_is_a_meta_optimizer():
    """Plain SGD: theta moves by exactly the learning rate times the gradient, whose norm is logged."""
    trainer = make_trainer(optimizer=optax.sgd(0.5))
    state = trainer.init()
    before = jax.device_get(state.theta)
    state, metrics = trainer.run(state, 1)
    moved = jax.tree.map(np.subtract, jax.device_get(state.theta), before)
    assert optax.tree.norm(moved) == pytest.approx(0.5 * metrics["gradient_norm"][0], rel=1e-4)
    assert optax.tree.norm(jax.device_get(state.theta)) == pytest.approx(metrics["theta_norm"][0], rel=1e-6)


def test_defaults_are_the_papers():
    """arXiv 2501.12670, section 4: AdamW at 3e-4, 100,000 iterations, 32 pairs, windows of 50, lengths 100 to 2,000."""
    config, estimator = MetaTrainConfig(), TruncatedPES(LearnedSGD(), Quadratic())
    assert (config.iterations, config.learning_rate, config.final_fraction) == (100_000, 3e-4, 1.0)
    assert config.average_decay == 0
    assert (estimator.num_pairs, estimator.truncation, estimator.sigma) == (32, 50, 0.01)
    assert (estimator.lengths.minimum, estimator.lengths.maximum) == (100, 2000)
    assert estimator.inner_steps * config.iterations == 320_000_000


@pytest.mark.slow
def test_schedule_of_truncations(tmp_path):
    config = MetaTrainConfig(iterations=11, block=4, truncations=((3, 10), (9, 2)))
    trainer = make_trainer(config)
    run_phase(trainer, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [3, 7, 9, 11], "blocks end where the truncation changes"
    steps = [5] * 3 + [10] * 6 + [2] * 2
    assert [line["inner_steps"] for line in lines] == [16 * sum(steps[:n]) for n in (3, 7, 9, 11)]
    stopped = iter([False, True])
    run_phase(trainer, tmp_path / "two", stop=lambda: next(stopped))
    resumed = run_phase(trainer, tmp_path / "two")
    theta = checkpoints.load_checkpoint(tmp_path / "checkpoint.npz", trainer.example()).theta
    chex.assert_trees_all_equal(jax.device_get(resumed.theta), theta)
    with pytest.raises(ValueError, match="longer than any problem"):
        make_trainer(MetaTrainConfig(truncations=((0, 100),)))


@pytest.mark.slow
def test_mean_of_estimators_trains_on_several_devices():
    """Families of different shapes, split over devices as one: close to one device, up to the order of sums."""
    parts = [
        TruncatedPES(LearnedSGD(), Quadratic(size, noise=0.1), num_pairs=8, truncation=5, lengths=ConstantLength(15))
        for size in (2, 5)
    ]
    config = MetaTrainConfig(iterations=20, learning_rate=0.05)
    thetas = []
    for number in (1, 4):
        trainer = MetaTrainer(MeanOfEstimators(parts), config, [{}, {}], devices=jax.devices()[:number])
        thetas.append(jax.device_get(trainer.run(trainer.init(), 20)[0].theta))
    chex.assert_trees_all_close(*thetas, rtol=1e-5)
    assert thetas[0]["rule"]["log_learning_rate"] > -1


@pytest.mark.slow
def test_resumes_on_another_number_of_devices(tmp_path):
    stopped = iter([False, False, True])
    run_phase(make_trainer(devices=jax.devices()[:4]), tmp_path, stop=lambda: next(stopped))
    resumed = run_phase(make_trainer(devices=jax.devices()[:2]), tmp_path)
    unbroken = make_trainer()
    state, _ = unbroken.run(unbroken.init(), CONFIG.iterations)
    # Only the order of sums over devices differs.
    chex.assert_trees_all_close(jax.device_get(resumed.theta), jax.device_get(state.theta), rtol=1e-5)


def test_watch_sees_every_block(tmp_path):
    seen = []
    run_phase(make_trainer(), tmp_path, watch=lambda moment: seen.append((moment.iteration, moment.last)))
    assert seen == [(n, n == 60) for n in range(2, 61, 2)]


@dataclasses.dataclass(frozen=True)
class VectorLoss(Quadratic):
    name = "vector_loss"

    def loss(self, params, model_state, key, config, batch):
        return params, model_state


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_trainer(num_pairs=9, devices=jax.devices()[:2]), "9 problems cannot be split evenly over 2 devices"),
        (lambda: make_trainer(family=VectorLoss()), "vector_loss is .* not one real number"),
        (lambda: make_trainer(family=Quadratic(broken=1.0)), "quadratic is nan for a freshly initialised network"),
        (lambda: MetaTrainConfig(truncations=((5, 1), (2, 1))), "ascending order"),
        (lambda: run_phase(make_trainer(), "unused", on_divergence="pray"), "on_divergence must be one of"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_said_in_one_sentence(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_checkpoints_of_other_architectures_estimators_and_formats_are_refused(tmp_path):
    stop = lambda: True
    run_phase(make_trainer(), tmp_path, stop=stop)
    settings = {"num_pairs": 8, "truncation": 5, "lengths": ConstantLength(15)}
    with pytest.raises(ValueError, match="estimator = .*TruncatedPES.*TruncatedES"):
        run_phase(MetaTrainer(TruncatedES(LearnedSGD(), Quadratic(noise=0.1), **settings), CONFIG, {}), tmp_path)
    with pytest.raises(ValueError, match="architecture.name = 'learned_sgd', not 'learned_walk'"):
        run_phase(MetaTrainer(TruncatedPES(LearnedWalk(), Clock(), **settings), CONFIG, {}), tmp_path)
    metadata = checkpoints.load_metadata(tmp_path / "checkpoint.npz")
    state = checkpoints.load_checkpoint(tmp_path / "checkpoint.npz", make_trainer().example())
    checkpoints.save_checkpoint(tmp_path / "checkpoint.npz", state, {**metadata, "format": 99})
    with pytest.raises(ValueError, match="format 99, and this version of celo-core reads format"):
        run_phase(make_trainer(), tmp_path)


def test_a_config_to_which_something_was_added_is_the_same_config():
    """An older checkpoint lacks the new field; unknown fields and settings of another kind are kept, and so differ."""
    config = CeloConfig()
    whole = configs.to_json(config)
    older = {**whole, "scheduler": {k: v for k, v in whole["scheduler"].items() if k != "horizon"}}
    settings = lambda config: {"architecture": {"name": "celo", "config": config}, "seed": 1}
    assert meta_run._with_defaults(settings(older), config) == settings(whole)
    for other in (None, {**older, "of_tomorrow": 1}):
        assert meta_run._with_defaults(settings(other), config) == settings(other)
    assert meta_run._with_defaults(settings(None), None) == settings(None)
    assert meta_run._with_defaults({}, config) == {}
