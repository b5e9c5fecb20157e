"""Evaluations end to end: on the smallest task, for few steps."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest

from celo_tasks.baselines import Setting
from celo_tasks.evaluation import curves, processes, runner
from celo_tasks.evaluation.loading import load_task
from celo_tasks.evaluation.optimizer_specs import OptimizerSpec, resolve
from celo_tasks.evaluation.plan import EvaluationPlan
from celo_tasks.evaluation.scores import scores
from celo_tasks.evaluation.store import Store
from celo_tasks.evaluation.worker import Group, Worker
from celo_tasks.tasks.registry import TASKS

TASK = "small_vae"
ADAM = OptimizerSpec("adam", "adam")
PLAN = EvaluationPlan("small-8", (TASK,), (ADAM,), 20, seeds=2, learning_rates=(1e-3, 1e-2), longest=1)

OPTIMIZERS = """
import optax

def plain(num_steps):
    return optax.sgd(0.01)

def tuned(learning_rate):
    return optax.adam(learning_rate)

def reads_loss():
    def update(updates, state, params=None, *, value, **_):
        return [] if updates is None else __import__("jax").tree.map(lambda g: -0.01 * g / (1 + value), updates), state
    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)

def broken():
    def update(updates, state, params=None):
        raise RuntimeError("my optimizer has a bug")
    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)

def explodes():
    return optax.stateless(lambda updates, _: __import__("jax").tree.map(lambda g: g * float("nan"), updates))

def wants(momentum):
    return optax.sgd(0.1, momentum)

def nothing():
    return 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of a user's optimizers in the current folder."""
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(OPTIMIZERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Adam at four settings from two seeds."""
    folder = tmp_path_factory.mktemp("evaluation") / "store"
    assert runner.evaluate(PLAN, folder) == []
    return Store.read(folder)


def losses(store: Store) -> dict[Any, float]:
    return {key: run.final_loss for key, run in store.runs.items()}


def test_every_run_is_there(done: Store) -> None:
    keys = {(key.setting, key.seed) for key in done.runs}
    assert keys == {
        (Setting(rate, kind), seed) for rate in (1e-3, 1e-2) for kind in ("constant", "cosine") for seed in (0, 1)
    }
    run = next(iter(done.runs.values()))
    # 64-64-64 to means and log-variances of 8, then 8-64-64 to means and log-deviations of 64 pixels
    expected = 65 * 64 + 65 * 64 + 65 * 16 + 9 * 64 + 65 * 64 + 65 * 128
    assert run.dataset == "digits_8x8" and run.parameters == expected
    assert len(set(losses(done).values())) == 8


def test_runs_are_those_of_a_plain_loop(done: Store) -> None:
    """Step by step in Python, with the keys that every stored result depends on."""
    family = TASKS[TASK].make()
    data, gradient = family.load(), jax.jit(jax.value_and_grad(family.loss, has_aux=True))
    tx = optax.adam(1e-2)
    for seed in (0, 1):
        key_config, key_init, key_steps = jax.random.split(jax.random.key(seed), 3)
        config = family.sample(key_config)
        params, model_state = family.init(key_init, config)
        state, losses = tx.init(params), []
        for step in range(20):
            key_batch, key_loss = jax.random.split(jax.random.fold_in(key_steps, step))
            batch = family.batch(key_batch, config, data)
            (loss, model_state), gradients = gradient(params, model_state, key_loss, config, batch)
            updates, state = tx.update(gradients, state, params)
            params = optax.apply_updates(params, updates)
            losses.append(float(family.normalizer(loss)))
        run = next(
            one for key, one in done.runs.items() if (key.setting, key.seed) == (Setting(1e-2, "constant"), seed)
        )
        # Compiled in another way: float32 rounding, which twenty steps of training spread.
        np.testing.assert_allclose(run.curve, curves.smooth(np.array(losses)), rtol=1e-4)


def test_trainings_in_turn_are_the_same_and_can_be_compared(done: Store, tmp_path: Path) -> None:
    plan = dataclasses.replace(PLAN, specs=(ADAM, OptimizerSpec("sgd", "sgd")), timing=True)
    assert runner.evaluate(plan, tmp_path / "store") == []
    found = Store.read(tmp_path / "store")
    assert len(found.runs) == 2 * len(done.runs)
    for key, run in done.runs.items():
        assert found.runs[key].curve == run.curve
    for seed in (0, 1):  # those of a seed advance in turn
        assert len({run.timing for key, run in found.runs.items() if key.seed == seed}) == 1
    assert len({run.timing for run in found.runs.values()}) == 2
    assert scores(found).by_name["sgd", TASK].time_over_adam is not None
    assert scores(found).by_name["adam", TASK].time_over_adam == 1


def test_a_baseline_may_have_schedules_of_its_own() -> None:
    plan = dataclasses.replace(PLAN, schedules_of={"adam": ("cosine_decay",)})
    assert plan.settings(ADAM) == (Setting(1e-3, "cosine_decay"), Setting(1e-2, "cosine_decay"))
    assert len(plan.settings(OptimizerSpec("sgd", "sgd"))) == 4
    with pytest.raises(ValueError, match="no schedule 'cosin', did you mean cosine"):
        dataclasses.replace(PLAN, schedules_of={"adam": ("cosin",)})


def test_what_is_there_is_not_done_again(done: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (done.folder / "runs.jsonl").read_bytes()
    monkeypatch.setattr(Worker, "run", lambda *_: pytest.fail("nothing was missing"))
    assert runner.evaluate(PLAN, done.folder) == []
    assert (done.folder / "runs.jsonl").read_bytes() == before


def test_a_kill_loses_one_run_and_the_rest_is_the_same(
    done: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, count = Store.append, []

    def killed(store: Store, run: Any) -> None:
        count.append(run)
        if len(count) == 4:
            raise KeyboardInterrupt
        append(store, run)

    monkeypatch.setattr(Store, "append", killed)
    with pytest.raises(KeyboardInterrupt):
        runner.evaluate(PLAN, tmp_path / "store")
    monkeypatch.setattr(Store, "append", append)
    assert len(Store.read(tmp_path / "store").runs) == 3
    runner.evaluate(PLAN, tmp_path / "store")
    assert losses(Store.read(tmp_path / "store")) == losses(done)


@pytest.mark.slow  # starts processes
def test_processes_and_batches_change_nothing(done: Store, tmp_path: Path) -> None:
    runner.evaluate(dataclasses.replace(PLAN, jobs=2, batch=3), tmp_path / "store")
    found = Store.read(tmp_path / "store")
    assert set(found.runs) == set(done.runs)
    for key, run in found.runs.items():
        # vmap orders sums in another way, and the processes compile with all optimisations: float32 rounding again.
        np.testing.assert_allclose(run.curve, done.runs[key].curve, rtol=1e-3)
        assert run.task_identity == done.runs[key].task_identity


@pytest.mark.slow  # starts processes
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_processes_end_with_the_first_one(number: int, tmp_path: Path) -> None:
    """Ctrl-C, which all processes of a terminal get, and a death of which nobody is told."""
    out = tmp_path / "results"
    program = "import sys; from celo_tasks.cli.main import main; sys.exit(main())"
    settings = [
        "--task",
        TASK,
        "--optimizer",
        "sgd",
        "--steps",
        "20",
        "--seeds",
        "500",
        "--jobs",
        "2",
        "--out",
        str(out),
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", program, "evaluate", *settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not (out / "runs.jsonl").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    # Every process of the evaluation has the pipe: that it is read to its end says that none is left.
    _, errors = process.communicate(timeout=60)
    assert Store.read(out).runs and "Traceback" not in errors
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert errors.splitlines()[-1].startswith(f"celo-tasks: stopped; the finished runs, if any, are in {out}:")


@pytest.mark.slow
def test_own_optimizers(own: str, tmp_path: Path) -> None:
    specs = tuple(
        OptimizerSpec.parse(f"{name}={own}:{name}") for name in ("plain", "tuned", "reads_loss", "broken", "explodes")
    )
    settings = dataclasses.replace(PLAN, specs=specs, seeds=1, learning_rates=(1e-2,), schedules=("constant",))
    failures = runner.evaluate(settings, tmp_path / "store")
    assert [(one.optimizer, one.text) for one in failures] == [("broken", "RuntimeError: my optimizer has a bug")]
    runs = {key.optimizer: run for key, run in Store.read(tmp_path / "store").runs.items()}
    assert set(runs) == {"plain", "tuned", "reads_loss", "explodes"}
    assert runs["tuned"].key.setting == Setting(1e-2, "constant")
    assert runs["plain"].key.setting == Setting()
    assert runs["explodes"].diverged and runs["explodes"].final_loss == pytest.approx(
        10.0
    )  # the normalizer's upper end
    assert not runs["plain"].diverged


def test_own_optimizers_that_cannot_be_used_are_named(own: str) -> None:
    with pytest.raises(ValueError, match="wants a parameter 'momentum'"):
        resolve(OptimizerSpec.parse(f"{own}:wants"))
    with pytest.raises(ValueError, match="cannot be imported .*give module:function"):
        resolve(OptimizerSpec.parse(f"{own}:absent"))
    with pytest.raises(TypeError, match="returned int, not an Optax optimizer"):
        resolve(OptimizerSpec.parse(f"{own}:nothing")).build(lambda count: 0.0, 10)


def test_changed_optimizers_do_not_mix(own: str, tmp_path: Path) -> None:
    spec = OptimizerSpec.parse(f"mine={own}:plain")
    settings = dataclasses.replace(PLAN, specs=(spec,), seeds=1)
    runner.evaluate(settings, tmp_path / "store")
    path = tmp_path / f"{own}.py"
    path.write_text(OPTIMIZERS.replace("0.01", "0.02"))
    with pytest.raises(ValueError, match="runs of another 'mine'"):
        runner.evaluate(settings, tmp_path / "store")


def test_names_are_suggested() -> None:
    with pytest.raises(ValueError, match="no optimizer 'adamm', did you mean .*adam"):
        resolve(OptimizerSpec.parse("adamm"))
    with pytest.raises(ValueError, match="no task 'small_mpl', did you mean small_mlp"):
        dataclasses.replace(PLAN, tasks=("small_mpl",))
    with pytest.raises(ValueError, match="is given twice"):
        dataclasses.replace(PLAN, specs=(ADAM, ADAM))
    with pytest.raises(ValueError, match="seeds must be at least 1"):
        dataclasses.replace(PLAN, seeds=0)
    with pytest.raises(ValueError, match="no name of an optimizer"):
        OptimizerSpec.parse("a b=adam")


def test_weights_of_a_run(tmp_path: Path) -> None:
    from celo_core import Celo, CeloConfig, configs
    from celo_core.meta_training.checkpoints import save_theta

    theta = Celo(CeloConfig(scheduler=None)).init(jax.random.key(0))
    config = configs.to_json(CeloConfig(scheduler=None))
    save_theta(tmp_path / "old" / "theta.npz", theta, {"config": {}, "architecture": "celo"})
    with pytest.raises(ValueError, match=r"was written by an earlier version: `celo-zoo convert RUN"):
        resolve(OptimizerSpec.parse(str(tmp_path / "old"), is_weights=True))
    described = {"format_version": 3, "architecture": "celo", "config": config}
    save_theta(tmp_path / "mine" / "theta.npz", theta, described)
    spec = OptimizerSpec.parse(str(tmp_path / "mine"), is_weights=True)
    assert spec.name == "mine"
    found = resolve(spec)
    assert not found.tuned and found.identity.startswith("sha256 ")
    params = np.ones(3, np.float32)
    optimizer = found.build(lambda count: 0.0, 10)
    updates, _ = optimizer.update(params, optimizer.init(params), params, value=np.float32(1))
    assert updates.shape == (3,)
    with pytest.raises(ValueError, match="there are no weights"):
        resolve(OptimizerSpec.parse(str(tmp_path / "other"), is_weights=True))


def test_identity_of_a_task_depends_on_its_data_and_not_on_their_place(shared_data: Path) -> None:
    here, there = load_task(TASK, None), load_task(TASK, str(shared_data))
    assert here.identity == there.identity
    assert load_task("small_mlp", None).identity != here.identity


def test_groups_are_cut_for_processes() -> None:
    group = Group(TASK, ADAM, 20, 20, tuple((Setting(10.0**-i, "constant"), 0) for i in range(1, 7)), batch=1)
    pieces = processes.split([group], 2, lambda one: float(len(one.members)))
    assert len(pieces) >= 2
    assert {member for piece in pieces for member in piece.members} == set(group.members)
