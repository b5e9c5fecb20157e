"""Validation during meta-training: what is measured, what Adam's part of it is, and which tasks it is measured on."""

import dataclasses
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from celo_core import Celo, CeloConfig, LearnedOptimizer, TaskFamily
from celo_core.meta_training.trainer import FrozenPart
from celo_core.testing.toys import LearnedSGD, Quadratic
from celo_tasks.evaluation import curves
from celo_tasks.evaluation.loading import identity
from celo_tasks.evaluation.program import parameter_count
from celo_tasks.families import ImageMLP
from celo_tasks.meta_training import validation as meta_validation
from celo_tasks.meta_training.validation import (
    CURVE_POINTS,
    VALIDATION_TASKS,
    MetaValidation,
    ValidationStopped,
    scalars,
)
from celo_tasks.tasks import registry

TASK = "mlp_tanh_48x24"


@pytest.fixture(scope="module")
def validation() -> MetaValidation:
    return MetaValidation(40, 3, (TASK,), learning_rates=(1e-3, 1e-2))


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A quadratic in place of the networks: what is about bookkeeping need not train any."""
    monkeypatch.setattr(meta_validation, "VALIDATION_TASKS", {"toy": ("a quadratic", lambda: Quadratic(noise=0.01))})
    yield


def toy_validation(**settings: Any) -> MetaValidation:
    return MetaValidation(**{"steps": 10, "seeds": 2, "tasks": ("toy",), "learning_rates": (0.01, 0.1), **settings})


def test_a_stop_does_not_wait_for_what_is_under_way() -> None:
    begun, go_on = threading.Event(), threading.Event()
    validation = MetaValidation(10, 1, (TASK,), stop=begun.is_set)

    def long(name: str) -> dict[str, Any]:
        begun.set()
        assert go_on.wait(120)
        return {}

    try:
        with pytest.raises(ValidationStopped):
            validation._for_each_task(long)
    finally:
        go_on.set()


def test_a_stop_comes_before_the_next_training(toy: None, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []
    validation = toy_validation(stop=lambda: len(trained) == 1)
    losses = np.ones((2, 10), np.float32)
    monkeypatch.setattr(validation, "_train", lambda name, *_: trained.append(name) or (losses, losses))
    with pytest.raises(ValidationStopped):  # after the first of two learning rates
        validation.tuned_adam()
    assert trained == ["toy"]


def test_an_error_of_a_task_is_not_kept() -> None:
    validation = MetaValidation(10, 1, (TASK,))
    with pytest.raises(ZeroDivisionError):
        validation._for_each_task(lambda name: {"never": 1 / 0})


def sgd_theta(learning_rate: float) -> dict[str, Any]:
    return {
        "rule": {"log_learning_rate": np.log(np.float32(learning_rate))},
        "unused": {"bias": np.ones(2, np.float32)},
    }


@dataclasses.dataclass(frozen=True)
class Counted(LearnedOptimizer):
    """Adam whose theta is its learning rate; counts how often it is built, which is when a program is traced."""

    builds: list[int] = dataclasses.field(default_factory=list, compare=False)
    name = "counted"
    config = None

    def init(self, key: Any) -> dict[str, Any]:
        return {"rate": jnp.float32(0.1)}

    def build(self, theta: Any, num_steps: Any, **kwargs: Any) -> optax.GradientTransformationExtraArgs:
        self.builds.append(1)
        return optax.with_extra_args_support(optax.adam(theta["rate"]))


def trained_by_hand(
    family: TaskFamily, optimizer: optax.GradientTransformation, steps: int, seeds: int
) -> tuple[np.ndarray, np.ndarray]:
    """Losses and relative step sizes of a plain training loop, (seeds, steps), from the keys that validation documents."""
    data = family.load()

    @jax.jit
    def step(params: Any, state: Any, key: Any, config: Any) -> Any:
        key_batch, key_loss = jax.random.split(key)
        batch = family.batch(key_batch, config, jax.tree.map(jnp.asarray, data))
        loss, grads = jax.value_and_grad(lambda p: family.loss(p, None, key_loss, config, batch)[0])(params)
        updates, state = optimizer.update(grads, state, params)
        norms = [jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(tree))) for tree in (updates, params)]
        return optax.apply_updates(params, updates), state, loss, norms[0] / norms[1]

    losses, sizes = np.zeros((seeds, steps)), np.zeros((seeds, steps))
    for seed in range(seeds):
        key_config, key = jax.random.split(jax.random.key(seed))
        config = family.sample(key_config)
        key_init, key_steps = jax.random.split(key)
        params, _ = family.init(key_init, config)
        state = optimizer.init(params)
        for i, key_step in enumerate(jax.random.split(key_steps, steps)):
            params, state, losses[seed, i], sizes[seed, i] = step(params, state, key_step, config)
    return losses, sizes


@pytest.mark.slow
def test_losses_and_step_sizes_are_those_of_plain_gradient_descent(validation: MetaValidation) -> None:
    found = validation.measure(LearnedSGD(), sgd_theta(0.1))["tasks"][TASK]
    losses, sizes = trained_by_hand(VALIDATION_TASKS[TASK][1](), optax.sgd(0.1), 40, 3)
    # Float32 rounding, which 40 steps magnify, and six digits.
    np.testing.assert_allclose(found["final_loss"], curves.final_loss(losses).mean(), rtol=1e-4)
    np.testing.assert_allclose(found["losses"], curves.smooth(losses).mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(found["step_sizes"], np.median(sizes, axis=0), rtol=1e-3)
    assert found["steps"] == list(range(1, 41))


def test_adam_by_hand_has_the_ratio_one(validation: MetaValidation) -> None:
    adam = validation.tuned_adam()["tasks"][TASK]
    assert adam["learning_rate"] == 1e-2 and adam["learning_rate_at_edge"]
    assert adam["final_loss"] == min(adam["final_losses"]) < adam["final_losses"][0]
    losses, _ = trained_by_hand(VALIDATION_TASKS[TASK][1](), optax.adam(1e-2), 40, 3)
    np.testing.assert_allclose(adam["final_loss"], curves.final_loss(losses).mean(), rtol=1e-3)
    measured = validation.measure(Counted(), {"rate": np.float32(1e-2)})
    # The same program but for the order of rounding.
    assert measured["ratio"] == pytest.approx(1, abs=1e-3)
    assert measured["tasks"][TASK]["adam_final_loss"] == adam["final_loss"]


def test_another_theta_compiles_nothing(toy: None) -> None:
    validation, counted = toy_validation(), Counted()
    first = validation.measure(counted, {"rate": np.float32(0.1)})
    builds = len(counted.builds)
    second = validation.measure(counted, {"rate": jnp.float32(0.01)})
    assert builds > 0 and len(counted.builds) == builds
    assert first["ratio"] == pytest.approx(1, rel=1e-5) and second["ratio"] < 0.99


def test_a_theta_on_several_devices_gives_the_same(toy: None) -> None:
    mesh = jax.make_mesh((len(jax.devices()),), ("x",))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    validation, theta = toy_validation(), sgd_theta(0.3)
    placed = jax.device_put(theta, everywhere)
    assert validation.measure(LearnedSGD(), theta) == validation.measure(LearnedSGD(), placed)


def test_means_over_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = {f"toy_{n}": ("a quadratic", lambda n=n: Quadratic(size=n)) for n in (2, 3, 6, 9)}
    monkeypatch.setattr(meta_validation, "VALIDATION_TASKS", tasks)
    measured = toy_validation(tasks=tuple(tasks)).measure(LearnedSGD(), sgd_theta(0.5))
    for task in measured["tasks"].values():
        assert task["ratio"] == pytest.approx(task["adam_final_loss"] / task["final_loss"], rel=1e-5)
    least, *middle, most = sorted(task["ratio"] for task in measured["tasks"].values())
    assert 0 < least < most
    assert measured["ratio"] == pytest.approx(np.prod([least, *middle, most]) ** 0.25, rel=1e-5)
    assert measured["iqm"] == pytest.approx(np.mean(middle), rel=1e-5)
    means = {f"validation/{kind}": measured[kind] for kind in ("ratio", "iqm")}
    assert scalars(measured) == {**means, **{f"validation/{n}": measured["tasks"][n]["ratio"] for n in tasks}}


def test_curves_are_thinned_from_first_to_last_step(toy: None) -> None:
    task = toy_validation(steps=250).measure(LearnedSGD(), sgd_theta(0.1))["tasks"]["toy"]
    assert task["steps"][0] == 1 and task["steps"][-1] == 250 and task["steps"] == sorted(set(task["steps"]))
    assert len(task["steps"]) == len(task["losses"]) == len(task["step_sizes"]) == CURVE_POINTS


def test_what_diverges_is_measured_too_and_goes_into_json(toy: None) -> None:
    measured = toy_validation().measure(LearnedSGD(), sgd_theta(1e12))
    assert json.loads(json.dumps(measured, allow_nan=False)) == measured
    task = measured["tasks"]["toy"]
    assert 0 < measured["ratio"] < 0.1 and task["final_loss"] == 10  # the family's normalizer
    assert None in task["step_sizes"] and task["step_sizes"][0] is not None


def test_a_part_of_theta_measures_as_the_whole(toy: None) -> None:
    theta, validation = sgd_theta(0.3), toy_validation()
    frozen = FrozenPart(LearnedSGD(), {"unused": theta.pop("unused")})
    assert validation.measure(frozen, theta) == validation.measure(LearnedSGD(), frozen.merge(theta))


@pytest.mark.slow
def test_celo_is_given_what_it_needs() -> None:
    validation = MetaValidation(5, 1, (TASK,), learning_rates=(1e-2,))
    celo = Celo(CeloConfig(scheduler=None))
    task = validation.measure(celo, celo.init(jax.random.key(0)))["tasks"][TASK]
    # Five steps of a random Celo: hardly off the loss of guessing, and at step sizes of about 1e-3 by its construction.
    assert len(task["step_sizes"]) == 5 and all(1e-5 < size < 1e-1 for size in task["step_sizes"])
    assert task["final_loss"] == pytest.approx(np.log(10), abs=1)


def test_the_reference_is_kept_in_a_file_and_read_from_it(
    toy: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deep" / "adam.json"
    tuned = toy_validation(reference=path).tuned_adam()
    assert json.loads(path.read_text()) == tuned and os.listdir(path.parent) == ["adam.json"]
    monkeypatch.setattr(MetaValidation, "_trained", lambda *_: pytest.fail("trained"))
    assert toy_validation(reference=str(path)).tuned_adam() == tuned
    assert toy_validation(reference=tuned).tuned_adam() == tuned


@pytest.fixture
def tunings(toy: None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tasks on which Adam was tuned so far; no tuning in fact happens."""
    done: list[str] = []

    def tune(self: MetaValidation, name: str) -> dict[str, Any]:
        done.append(name)
        return {"learning_rate": 0.1, "final_loss": float(self.steps)}

    monkeypatch.setattr(MetaValidation, "_tune", tune)
    return done


@pytest.mark.parametrize("changed", [{"steps": 11}, {"seeds": 1}, {"learning_rates": (0.01, 0.2)}])
def test_a_reference_of_other_settings_is_made_anew(
    tunings: list[str], tmp_path: Path, changed: dict[str, Any]
) -> None:
    path = tmp_path / "adam.json"
    before = toy_validation(reference=path).tuned_adam()
    with pytest.raises(ValueError, match="other validation settings"):
        toy_validation(reference=before, **changed)
    after = toy_validation(reference=path, **changed).tuned_adam()
    assert after["settings"] != before["settings"] and json.loads(path.read_text()) == after
    assert toy_validation(reference=path, **changed).tuned_adam() == after
    assert len(tunings) == 2


def test_a_reference_of_a_task_that_has_changed_is_made_anew(
    tunings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "adam.json"
    toy_validation(reference=path).tuned_adam()
    monkeypatch.setattr(meta_validation, "VALIDATION_TASKS", {"toy": ("a quadratic", lambda: Quadratic(9))})
    toy_validation(reference=path).tuned_adam()
    assert len(tunings) == 2


def test_a_damaged_reference_is_made_anew(tunings: list[str], tmp_path: Path) -> None:
    path = tmp_path / "adam.json"
    good = toy_validation(reference=path).tuned_adam()
    without_numbers = json.dumps({**good, "tasks": {}})
    for content in ("", "[]", '{"settings": 1}', without_numbers):
        path.write_text(content)
        assert toy_validation(reference=path).tuned_adam() == good == json.loads(path.read_text())
    assert len(tunings) == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": ("vision",)}, "no validation task 'vision': choose from mlp_tanh_48x24"),
        ({"tasks": ()}, "each once"),
        ({"tasks": (TASK, TASK)}, "each once"),
        ({"steps": 0}, "at least 1"),
        ({"seeds": 0}, "at least 1"),
        ({"learning_rates": ()}, "positive learning rates"),
        ({"learning_rates": (1e-3, -1.0)}, "positive learning rates"),
        ({"reference": {}}, "leave it out"),
    ],
)
def test_mistakes_give_one_sentence(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MetaValidation(**settings)


def test_every_task_can_be_trained_without_a_download(no_tfds_data: Path) -> None:
    for name, (description, make) in VALIDATION_TASKS.items():
        family = make()
        assert isinstance(family, TaskFamily) and family.name == name and description
        config = family.sample(jax.random.key(0))
        params, model_state = jax.eval_shape(lambda key, f=family, c=config: f.init(key, c), jax.random.key(1))
        batch = family.batch(jax.random.key(2), config, jax.tree.map(jnp.asarray, family.load()))
        loss, _ = jax.eval_shape(family.loss, params, model_state, jax.random.key(3), config, batch)
        assert loss.shape == ()


def test_no_task_is_judged_on_elsewhere_or_meta_trained_on() -> None:
    others = [entry.make_with(dataset) for entry in registry.TASKS.values() for dataset in entry.datasets]
    names = {family.name for family in others} | set(registry.TASKS)
    definitions = {identity(family, ()) for family in others}
    # Networks of other sizes, too: a definition may be worded in two ways.
    costs = [entry.cost() for entry in registry.TASKS.values()]
    counts = {cost.parameters for cost in costs if cost is not None}
    counts.add(parameter_count(ImageMLP(("digits_8x8",))))
    for name, (_, make) in VALIDATION_TASKS.items():
        assert name not in names and identity(make(), ()) not in definitions and parameter_count(make()) not in counts


def test_importing_reads_no_data() -> None:
    code = "import sys, celo_tasks.meta_training.validation; sys.exit('tensorflow_datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
