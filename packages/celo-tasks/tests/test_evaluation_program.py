"""Compiled trainings, alone and in turn, on a problem whose every step can be computed by hand."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from celo_core import FamilyDefaults, TaskFamily
from celo_tasks.baselines import Setting
from celo_tasks.evaluation import worker as worker_module
from celo_tasks.evaluation.loading import LoadedTask
from celo_tasks.evaluation.optimizer_specs import OptimizerSpec, ResolvedOptimizer
from celo_tasks.evaluation.program import TrainingProgram
from celo_tasks.evaluation.store import Run
from celo_tasks.evaluation.worker import Group, Worker, attempt

Make = Callable[[optax.Schedule, int], Any]
RATES = (0.1, 0.25)


@dataclasses.dataclass(frozen=True)
class Distance(FamilyDefaults):
    """Loss 1/2 (p - x)^2 for random x around 3; the parameter starts at 0."""

    name: str = "distance"
    noise: float = 1.0

    def load(self) -> Any:
        return {"center": np.float32(3.0)}

    def sample(self, key: jax.Array) -> Any:
        return {}

    def init(self, key: jax.Array, config: Any) -> tuple[Any, None]:
        return {"p": jnp.zeros(())}, None

    def batch(self, key: jax.Array, config: Any, data: Any) -> Any:
        return data["center"] + self.noise * jax.random.normal(key)

    def loss(self, params: Any, model_state: None, key: jax.Array, config: Any, batch: Any) -> tuple[jax.Array, None]:
        return 0.5 * (params["p"] - batch) ** 2, model_state

    def normalizer(self, loss: jax.Array) -> jax.Array:
        return jnp.clip(jnp.nan_to_num(loss, nan=100.0, posinf=100.0, neginf=100.0), 0.0, 100.0)


def sgd(schedule: optax.Schedule, num_steps: int) -> Any:
    return optax.with_extra_args_support(optax.sgd(schedule))


def still(schedule: optax.Schedule, num_steps: int) -> Any:
    return optax.with_extra_args_support(optax.set_to_zero())


def broken(schedule: optax.Schedule, num_steps: int) -> Any:
    raise RuntimeError("a bug")


def constant(*rates: float) -> list[Setting]:
    return [Setting(rate, "constant") for rate in rates]


def losses(
    family: Any,
    build: Make,
    settings: Sequence[Setting],
    seeds: Sequence[int],
    num_steps: int,
    stretch: int | None = None,
) -> np.ndarray:
    """Of trainings at once, (networks, steps), in stretches of so many steps."""
    program, data = TrainingProgram(family, build, num_steps), jax.device_put(family.load())
    progress, members = program.start(settings, seeds)
    stretch = stretch or num_steps
    for begin in range(0, num_steps, stretch):
        progress = program.advance(progress, members, data, begin, min(begin + stretch, num_steps))
    return np.asarray(progress.losses)


def test_losses_are_those_of_gradient_descent() -> None:
    assert isinstance(Distance(), TaskFamily)
    for rate, found in zip(RATES, losses(Distance(noise=0.0), sgd, constant(*RATES), [0, 0], 10), strict=True):
        # p - 3 shrinks by (1 - learning rate) a step.
        np.testing.assert_allclose(found, 4.5 * (1 - rate) ** (2 * np.arange(10)), rtol=1e-5)


def test_optimizers_of_a_seed_share_batches_and_seeds_differ() -> None:
    found = losses(Distance(), still, [Setting(), Setting()], [0, 1], 30)
    other = losses(Distance(), sgd, constant(1e-30, 1e-30), [0, 1], 30)
    np.testing.assert_array_equal(found, other)
    assert len(np.unique(found)) == 60  # every step of every seed has a batch of its own


@pytest.mark.parametrize("num_steps", [1, 2, 50, 203])
def test_every_number_of_steps_works(num_steps: int) -> None:
    found = losses(Distance(), sgd, constant(0.1), [0], num_steps)
    assert found.shape == (1, num_steps) and np.all(found > 0)


@pytest.mark.parametrize("stretch", [1, 2, 20])
def test_stretches_do_not_change_the_result(stretch: int) -> None:
    whole = losses(Distance(), sgd, constant(*RATES), [0, 1], 21)
    np.testing.assert_array_equal(losses(Distance(), sgd, constant(*RATES), [0, 1], 21, stretch), whole)


def test_one_program_serves_all_settings_and_stretches() -> None:
    traces: list[Any] = []

    def build(schedule: optax.Schedule, num_steps: int) -> Any:
        traces.append(schedule)
        return sgd(schedule, num_steps)

    program, data = TrainingProgram(Distance(), build, 40), {"center": jnp.float32(3.0)}
    for setting in (*constant(*RATES), Setting(0.1, "cosine")):
        progress, members = program.start([setting], [0])
        program.compile(progress, members, data)
        for begin, end in ((0, 7), (7, 40)):
            progress = program.advance(progress, members, data, begin, end)
        assert np.all(np.asarray(progress.losses) > 0)
    assert len(traces) == 2  # one of the optimizer's init, one of the steps


def test_divergence_is_the_worst_and_harms_nothing() -> None:
    found = losses(Distance(), sgd, constant(0.1, 1e30, 0.2), [0, 0, 0], 40)
    assert np.all(found[1, -10:] == 100.0) and np.all(found[[0, 2], -10:] < 100.0)
    np.testing.assert_array_equal(found[[0, 2]], losses(Distance(), sgd, constant(0.1, 0.2), [0, 0], 40))


SPECS = {"plain": sgd, "idle": still, "broken": broken}


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    """A worker for which there is one task, `Distance`, and the optimizers `SPECS`."""

    def resolve(spec: OptimizerSpec) -> ResolvedOptimizer:
        return ResolvedOptimizer(spec.name, "", spec.name, spec.name == "plain", SPECS[spec.name])

    def load(name: str, data_dir: str | None) -> LoadedTask:
        return LoadedTask(Distance(), "none", name, jax.device_put(Distance().load()), None, 1)  # type: ignore[arg-type]

    monkeypatch.setattr(worker_module, "resolve", resolve)
    monkeypatch.setattr(worker_module, "load_task", load)
    return Worker()


def group(name: str, settings: Sequence[Setting], steps: int = 90) -> Group:
    return Group("distance", OptimizerSpec(name, name), steps, steps, tuple((one, 0) for one in settings))


def test_trainings_in_turn_are_what_they_are_alone(worker: Worker) -> None:
    groups = [group("plain", constant(*RATES)), group("idle", [Setting()])]
    alone: list[Any] = []
    for one in groups:
        attempt(worker, one, alone.append)
    together: list[Any] = []
    worker.run_in_turn(groups, together.append)
    runs = lambda messages: {run.key: run for kind, *rest in messages if kind == "runs" for run in rest[0]}
    found: dict[Any, Run] = runs(together)
    assert len(found) == 3 and found.keys() == runs(alone).keys()
    for key, run in runs(alone).items():
        assert found[key].curve == run.curve and not run.timing
    assert len({run.timing for run in found.values()}) == 1 and all(run.timing for run in found.values())
    # The trainings of an optimizer have one time per step; all advance in turn, none by more than a share.
    plain = [run.seconds for key, run in found.items() if key.optimizer == "plain"]
    assert plain[0] == plain[1]
    taken = [(one.spec.name, count) for kind, one, count in (m for m in together if m[0] == "steps")]
    assert taken == [("plain", 44), ("idle", 22)] * 4 + [("plain", 4), ("idle", 2)]
    assert [message[0] for message in together].count("done") == 2


def test_an_error_ends_its_group_and_the_others_go_on(worker: Worker) -> None:
    groups = [group("broken", [Setting()]), group("idle", [Setting()])]
    messages: list[Any] = []
    worker.run_in_turn(groups, messages.append)
    assert [message[2] for message in messages if message[0] == "failed"] == ["RuntimeError: a bug"]
    assert [run.key.optimizer for message in messages if message[0] == "runs" for run in message[1]] == ["idle"]
    assert [message[0] for message in messages].count("done") == 2


def test_what_the_receiver_raises_is_no_failure_of_a_group(worker: Worker) -> None:
    def full(message: Any) -> None:
        if message[0] == "runs":
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        worker.run_in_turn([group("idle", [Setting()], 20)], full)
