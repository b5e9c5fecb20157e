"""The families of meta-training: sound problems of many kinds, side by side for one theta."""

import dataclasses
import importlib.metadata
import json
import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from celo_core import ARCHITECTURES, Celo, MeanOfEstimators, ScaleByCeloAdamState, TruncatedPES
from celo_core.meta_training import checkpoints
from celo_core.meta_training.run import FORMAT
from celo_core.meta_training.trainer import MetaTrainState
from celo_core.testing.toys import LearnedSGD, LearnedWalk
from celo_tasks.evaluation.optimizers import load_weights
from celo_tasks.families import ImageMLP, LogLoss
from celo_tasks.families.image_sets import ImageNetworks
from celo_tasks.meta_training import run as meta_training
from celo_tasks.meta_training.families import META_FAMILIES, Sources
from celo_tasks.meta_training.recipe import Architecture, Phase, Recipe, load, with_datasets, with_iterations
from celo_tasks.meta_training.validation import VALIDATION_TASKS
from celo_tasks.tasks.registry import TASKS

SOURCES = Sources(("digits_8x8",))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in META_FAMILIES if not name.startswith(("varied_", "learned_"))])
def test_family_is_sound_and_can_be_learned(name):
    """Its loss is a finite scalar, and Adam lowers it."""
    family = META_FAMILIES[name][1](SOURCES)
    data = jax.tree.map(jnp.asarray, family.load())
    optimizer = optax.adam(1e-2)
    config = family.sample(jax.random.key(0))
    params, model_state = family.init(jax.random.key(1), config)

    @jax.jit
    def step(params, model_state, state, key):
        loss = lambda p: family.loss(p, model_state, key, config, family.batch(key, config, data))
        (value, model_state), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), model_state, state, value

    state, losses = optimizer.init(params), []
    for key in jax.random.split(jax.random.key(2), 60):
        params, model_state, state, value = step(params, model_state, state, key)
        losses.append(value)
    assert np.shape(losses) == (60,) and np.isfinite(losses).all()
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:3])
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) < 10_000


def shapes(family):
    """Shapes of the parameters, which tell networks apart."""
    key = jax.random.key(0)
    params, _ = jax.eval_shape(lambda key: family.init(key, family.sample(key)), key)
    return tuple(sorted(leaf.shape for leaf in jax.tree.leaves(params)))


@pytest.mark.slow
def test_no_network_is_one_that_is_judged_or_validated_on():
    judged = {shapes(builder()) for _, builder in VALIDATION_TASKS.values()}
    judged |= {shapes(entry.make_with(entry.datasets[0])) for entry in TASKS.values()}
    # The paper's own network is in ood-17 too, and another in stress-8, in tasks that see them through gradients of evolution
    # strategies.
    papers = ("mlp", "varied_mlp", "varied_regression", "varied_large_batch_mlp")
    ours = {name: shapes(builder(SOURCES)) for name, (_, builder) in META_FAMILIES.items() if name not in papers}
    assert not {name for name, found in ours.items() if found in judged}


def test_networks_reuse_what_image_mlps_draw():
    """A network of the same kind is the same problem."""
    plain = ImageMLP(("digits_8x8",))
    other = ImageNetworks(("digits_8x8",), input_shape=(64,))
    data, key = plain.load(), jax.random.key(3)
    config = plain.sample(key)
    params, state = plain.init(key, config)
    other_params, other_state = other.init(key, config)
    assert jax.tree.all(jax.tree.map(np.array_equal, params, other_params)) and state is other_state is None
    batch = plain.batch(key, config, data)
    left = plain.loss(params, None, key, config, batch)[0]
    np.testing.assert_allclose(left, other.loss(params, None, key, config, batch)[0], rtol=1e-6)  # of float32


def test_few_images_are_the_first_of_each_set():
    sets = ("digits_8x8", "fashion_mnist_small_8x8")
    whole, few = ImageMLP(sets), ImageMLP(sets, num_images=20)
    every, data = whole.load(), few.load()
    np.testing.assert_array_equal(data["size"], [20, 20])
    for index, begin in enumerate(every["offset"]):
        for name in ("images", "labels"):
            np.testing.assert_array_equal(data[name][20 * index :][:20], every[name][begin : begin + 20])
    drawn, _ = few.batch(jax.random.key(0), {"dataset": 1}, data)
    known = {image.tobytes() for image in data["images"][20:]}
    assert {np.asarray(jnp.round(255 * image), np.uint8).tobytes() for image in drawn} <= known
    assert few.name != whole.name


def test_log_loss():
    family = LogLoss(ImageMLP(("digits_8x8",)), floor=0.1)
    losses = jnp.asarray([1.0, 2.0, 0.01, jnp.nan, jnp.inf])
    upper = np.log(1.5 * np.log(10))
    np.testing.assert_allclose(family.normalizer(losses), [0.0, np.log(2), np.log(0.1), upper, upper], rtol=1e-6)
    assert family.name == "mlp_32_digits_8x8"
    with pytest.raises(ValueError, match="test images"):
        family.held_out_batch(jax.random.key(0), None, None)


SMALL = (
    "estimator.truncation=3",
    "estimator.lengths.minimum=3",
    "estimator.lengths.maximum=6",
    "problems.families.mlp=2",
)


def recipe_of(*settings, reference="paper"):
    return with_datasets(with_iterations(load(reference, settings), 2), ("digits_8x8",), None)


def trainer_of(*settings, phase="update_rule"):
    recipe = recipe_of(*SMALL, *settings)
    families, data = meta_training._LoadedProblems(None).load(recipe, phase)
    return meta_training._trainer(recipe, phase, {}, families, data, None)


def test_trainer_of_several_families():
    two = ("problems.families.mlp=4", "problems.families.autoencoder=2")
    trainer = trainer_of(*two, "problems.objective=log_loss")
    assert isinstance(trainer.estimator, MeanOfEstimators)
    assert [part.num_pairs for part in trainer.estimator.estimators] == [4, 2]
    assert all(isinstance(part.family, LogLoss) for part in trainer.estimator.estimators)
    assert trainer.inner_steps(2) == 2 * 3 * 2 * (4 + 2)  # truncation 3, and two networks a pair
    assert trainer.inner_steps(5) == trainer.inner_steps(2)


def test_data_are_loaded_once_for_phases_that_share_them():
    recipe = recipe_of(*SMALL)
    problems = meta_training._LoadedProblems(None)
    first, second = problems.load(recipe, "update_rule"), problems.load(recipe, "scheduler")
    assert first is second and len(problems.data) == 1
    other = recipe_of(*SMALL, "phases.scheduler.problems.families.gru=2", "phases.scheduler.problems.families.mlp=1")
    assert [family.name for family in problems.load(other, "scheduler")[0]] != [family.name for family in first[0]]


def test_families_are_documented():
    page = pathlib.Path(__file__).resolve().parents[3] / "docs" / "meta-training.md"
    if not page.is_file():
        pytest.skip("docs/meta-training.md is part of the repository, not of the package")
    for name, (what, _) in META_FAMILIES.items():
        assert f"| `{name}` | {what} |" in page.read_text()


def test_late_weights_are_those_of_the_phase():
    recipe = recipe_of(*SMALL, "phases.scheduler.late_weight=2")
    bind = lambda phase: meta_training._estimator(recipe, phase, LearnedSGD(), None, 2)
    assert [bind(phase).late_weight for phase in recipe.phases] == [0.0, 2.0]
    recipe = recipe_of("estimator.type=full_es", "phases.update_rule.late_weight=1")
    with pytest.raises(ValueError, match=r"full_es weighs all steps alike: leave out phases.update_rule.late_weight"):
        meta_training._check(recipe, ())


def test_augmentation_spares_zeros_where_the_recipe_says_so():
    for follow in ("false", "true"):
        (family,), _ = meta_training._LoadedProblems(None).load(
            recipe_of(f"problems.zeros_follow={follow}"), "scheduler"
        )
        assert family.zeros_follow == (follow == "true")


JOINT = ('phases.scheduler.trains=["update_rule", "scheduler"]',)


def test_a_joint_phase_begins_with_both_parts(tmp_path, monkeypatch):
    """The update rule of the phase before, which it trains as well, and a scheduler out of the warm start or at random."""
    theta, other = (jax.device_get(Celo().init(jax.random.key(seed))) for seed in (5, 6))
    warm = str(tmp_path / "warm.npz")
    checkpoints.save_theta(warm, other, {"format_version": 3})
    moved = {}

    def run_phase(trainer, folder, *, theta, **_):
        assert set(trainer.estimator.architecture.init(jax.random.key(0))) == set(theta) == {"update_rule", "scheduler"}
        moved.update(jax.tree.map(lambda leaf: leaf + 1, theta))
        folder.mkdir(parents=True)
        return MetaTrainState(2, 0, theta, moved, (), np.zeros(2))

    monkeypatch.setattr(meta_training, "run_phase", run_phase)
    for name, start in (("random", None), ("warm", warm)):
        folder = tmp_path / name
        (folder / "update_rule").mkdir(parents=True)
        rule = {"update_rule": theta["update_rule"]}
        checkpoints.save_theta(folder / "update_rule" / "theta.npz", rule, {"format_version": 3})
        recipe = dataclasses.replace(recipe_of(*SMALL, *JOINT), warm_start=start)
        found = meta_training.meta_train(recipe, folder, phases=("scheduler",), command="")
        jax.tree.map(np.testing.assert_array_equal, found, moved)
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b + 1), found["update_rule"], theta["update_rule"])
        if start:
            jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b + 1), found["scheduler"], other["scheduler"])


def test_a_phase_adds_what_the_update_rule_did_not_have():
    theta = {"update_rule": jax.device_get(Celo().init(jax.random.key(5)))["update_rule"]}
    recipe = recipe_of(*JOINT, 'architecture.config.directions=[{type="mlp"}, {type="adam"}]')
    found = meta_training._beginning(recipe, "scheduler", theta, {})
    assert set(found["update_rule"]) == {"mlp", "adam"}
    jax.tree.map(np.testing.assert_array_equal, found["update_rule"]["mlp"], theta["update_rule"]["mlp"])
    wider = recipe_of(*JOINT, 'architecture.config.directions=[{type="mlp", hidden_sizes=[5]}]')
    found = meta_training._beginning(wider, "scheduler", theta, {})
    assert found["update_rule"]["mlp"]["hidden_0"]["bias"].shape == (5,), "another network begins at random"


def test_warm_start(tmp_path, monkeypatch):
    """Each phase is given its own part of theta, which identifies the run wherever the file lay; the result says what it is of."""
    theta = jax.device_get(Celo().init(jax.random.key(5)))
    whole, part = str(tmp_path / "whole.npz"), str(tmp_path / "checkpoint.npz")
    checkpoints.save_theta(whole, theta, {"format_version": 3})
    rule = {"update_rule": theta["update_rule"]}
    state = MetaTrainState(np.int32(3), np.int32(0), rule, rule, (), np.zeros(2))
    checkpoints.save_checkpoint(part, state, {"format": FORMAT, "settings": {}})
    given = []

    def run_phase(trainer, folder, *, theta, metadata, **_):
        folder.mkdir(parents=True)
        given.append((theta, metadata["recipe"]["warm_start"]))
        return state._replace(iteration=2, average=theta or trainer.estimator.architecture.init(jax.random.key(0)))

    monkeypatch.setattr(meta_training, "run_phase", run_phase)
    monkeypatch.setattr(TruncatedPES, "check", lambda self, data: None)  # that would compile
    for name, warm in (("both", whole), ("first", part)):
        recipe = dataclasses.replace(recipe_of(*SMALL, "architecture.config.scale.zero_init=0.5"), warm_start=warm)
        meta_training.meta_train(recipe, tmp_path / name)
    assert [started is None for started, _ in given] == [False, False, False, True]
    for (started, _), phase in zip(given, ("update_rule", "scheduler", "update_rule"), strict=False):
        assert jax.tree.all(jax.tree.map(np.array_equal, started, {phase: theta[phase]}))
    digests = [digest for _, digest in given]
    assert digests[0] == digests[1] != digests[2] == digests[3] and len(digests[0]) == 64
    alone = checkpoints.load_metadata(tmp_path / "both" / "update_rule" / "theta.npz")["config"]
    assert alone["scale"] == {"zero_init": 0.5} and alone["scheduler"] is None
    for path in (tmp_path / "both", tmp_path / "both" / "update_rule" / "theta.npz"):
        assert load_weights(path)(10).init({"w": np.ones(3), "b": np.zeros(3)}).scale_floor is not None


def test_what_no_phase_trains_is_that_of_the_warm_start(tmp_path, monkeypatch):
    theta = jax.device_get(Celo().init(jax.random.key(5)))
    checkpoints.save_theta(tmp_path / "warm.npz", theta, {"format_version": 3})
    recipe = recipe_of(*SMALL)
    recipe = dataclasses.replace(recipe, phases={"scheduler": recipe.phases["scheduler"]})
    with pytest.raises(ValueError, match="the phase scheduler needs update_rule: .* or give a warm start that has it"):
        meta_training.meta_train(recipe, tmp_path / "none")

    def run_phase(trainer, folder, *, theta, **_):
        folder.mkdir(parents=True)
        jax.tree.map(np.testing.assert_array_equal, trainer.estimator.architecture.frozen["update_rule"], rule)
        return MetaTrainState(2, 0, theta, theta, (), np.zeros(2))

    rule = theta["update_rule"]
    monkeypatch.setattr(meta_training, "run_phase", run_phase)
    monkeypatch.setattr(TruncatedPES, "check", lambda self, data: None)  # that would compile
    recipe = dataclasses.replace(recipe, warm_start=str(tmp_path / "warm.npz"))
    found = meta_training.meta_train(recipe, tmp_path / "run", command="")
    jax.tree.map(np.testing.assert_array_equal, found, theta)
    assert set(checkpoints.load_theta(tmp_path / "run" / "theta.npz")) == {"update_rule", "scheduler"}
    with pytest.raises(ValueError, match=r"warm.npz: its scheduler is of another config than the one of the phase"):
        other = dataclasses.replace(recipe.architecture, config={"scheduler": {"network": {"type": "lstm", "size": 3}}})
        meta_training.meta_train(dataclasses.replace(recipe, architecture=other), tmp_path / "other")


@dataclasses.dataclass(frozen=True)
class Nothing:
    """No settings."""


@dataclasses.dataclass(frozen=True)
class Pace(LearnedWalk):
    """An architecture whose theta is one array."""

    config: Nothing = Nothing()
    name = "pace"


def test_a_group_of_theta_may_be_an_array(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "pace", f"{__name__}:Pace")
    recipe = Recipe(Architecture("pace"), phases={"all": Phase()})
    meta_training._check(recipe, ())
    assert meta_training._beginning(recipe, "all", {}, {}) is None
    assert meta_training._beginning(recipe, "all", {}, {"pace": np.float32(7)}) == {"pace": 7}
    with pytest.raises(ValueError, match="its pace is of another config"):
        meta_training._beginning(recipe, "all", {}, {"pace": np.ones(2)})


class Named:
    """What an entry point offers: a pretrained optimizer."""

    def __init__(self, theta):
        self.theta = theta


def offer(monkeypatch, **optimizers):
    """As if an installed package offered these, and no other did any."""
    points = [
        types.SimpleNamespace(name=name, value=f"offered:{name}", load=lambda found=found: found)
        for name, found in optimizers.items()
    ]
    find = lambda group, name=None: [one for one in points if group == "celo.optimizers" and name in (None, one.name)]
    monkeypatch.setattr(importlib.metadata, "entry_points", find)


def test_a_warm_start_by_name_is_what_an_installed_package_offers(tmp_path, monkeypatch):
    theta = jax.device_get(Celo().init(jax.random.key(5)))
    offer(monkeypatch, known=Named({"update_rule": theta["update_rule"]}), function=lambda num_steps: optax.sgd(1.0))
    start = lambda name: dataclasses.replace(recipe_of(), warm_start=name)
    found = meta_training._warm_start(start("known"))
    assert set(found) == {"update_rule"} and found["update_rule"] is theta["update_rule"]
    with pytest.raises(
        ValueError, match=r"no pretrained optimizer 'knwon', did you mean known: .*pip install celo-zoo"
    ):
        meta_training._warm_start(start("knwon"))
    with pytest.raises(ValueError, match="'function' has no theta to begin with"):
        meta_training._warm_start(start("function"))
    monkeypatch.chdir(tmp_path)
    checkpoints.save_theta("known", theta, {"format_version": 3})
    assert set(meta_training._warm_start(start("known"))) == {"update_rule", "scheduler"}, "a file of that name is it"


def test_without_the_package_of_the_weights_one_sentence_says_so(tmp_path, monkeypatch):
    offer(monkeypatch)
    with pytest.raises(ValueError, match=r"no pretrained optimizer 'celo': .*`pip install celo-zoo`"):
        meta_training.meta_train(recipe_of(reference="schedule"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_warm_starts_that_cannot_be(tmp_path):
    checkpoints.save_theta(tmp_path / "rule.npz", {"rule": {"bias": np.zeros(2, np.float32)}}, {"format_version": 3})
    checkpoints.save_theta(tmp_path / "old.npz", {"scheduler": {"bias": np.zeros(2, np.float32)}}, {})
    start = lambda name: dataclasses.replace(recipe_of(reference="celo_adam"), warm_start=str(tmp_path / name))
    with pytest.raises(ValueError, match="nothing of the theta of celo_adam"):
        meta_training._warm_start(start("rule.npz"))
    with pytest.raises(ValueError, match=r"old.npz was written by an earlier version: .*celo-zoo convert"):
        meta_training._warm_start(start("old.npz"))
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        meta_training._warm_start(start("none.npz"))


SCHEDULE = (
    "problems.families={varied_mlp=2, varied_regression=2}",
    "estimator.lengths={type='log_uniform', minimum=3, maximum=8}",
)


@pytest.mark.slow
def test_the_schedules_recipe_learns_the_scheduler_alone_and_goes_on_to_the_last_bit(tmp_path):
    recipe = with_datasets(with_iterations(load("schedule", SCHEDULE), 2), ("digits_8x8",), None)
    rule = jax.device_get(recipe.learned_optimizer().init(jax.random.key(5)))["update_rule"]
    checkpoints.save_theta(tmp_path / "rule.npz", {"update_rule": rule}, {"format_version": 3})
    recipe = dataclasses.replace(recipe, warm_start=str(tmp_path / "rule.npz"))
    whole = meta_training.meta_train(recipe, tmp_path / "whole")
    assert meta_training.meta_train(recipe, tmp_path / "parts", stop=lambda: True) is None
    assert checkpoints.load_metadata(tmp_path / "parts" / "scheduler" / "checkpoint.npz")["iteration"] == 1
    again = meta_training.meta_train(recipe, tmp_path / "parts")
    jax.tree.map(np.testing.assert_array_equal, whole, again)
    jax.tree.map(np.testing.assert_array_equal, whole["update_rule"], rule)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(whole["scheduler"])), "it began at zero"
    assert load_weights(tmp_path / "whole")(10).init({"w": np.ones(3)}) is not None


def test_the_floor_of_log_losses_is_the_recipes():
    recipe = recipe_of(*SMALL, "problems.objective=log_loss", "problems.floor=0.001")
    (family,), _ = meta_training._LoadedProblems(None).load(recipe, "scheduler")
    assert family.floor == 0.001
    with pytest.raises(ValueError, match="floor must be a positive number"):
        recipe_of("problems.floor=0.0")


@pytest.mark.slow
def test_celo_adam_has_one_phase(tmp_path):
    recipe = recipe_of(*SMALL, "estimator.truncation=1", reference="celo_adam")
    theta = meta_training.meta_train(recipe, tmp_path)
    assert set(theta) == {"scheduler"}
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["architecture"] == "celo_adam" and "b1" in record["config"] and record["seeds"] == [1]
    assert load_weights(tmp_path)(10).init({"w": np.ones(3)})._fields == ScaleByCeloAdamState._fields
    assert (tmp_path / "theta.npz").exists()
    with pytest.raises(ValueError, match="phase must be one of scheduler, not 'update_rule'"):
        meta_training.meta_train(recipe, tmp_path / "other", phases=("update_rule",))
