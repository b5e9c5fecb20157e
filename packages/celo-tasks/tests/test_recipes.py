"""Recipes: in TOML and back, against the defaults of what they are made of, by --set, and of other packages' parts."""

import dataclasses
import json
import os
import subprocess
import sys
import textwrap
import tomllib

import jax
import numpy as np
import pytest

from celo_core import ORTHOGONAL, CeloConfig, FullES, LogUniformLength, MetaTrainConfig, TruncatedPES, configs
from celo_core.architectures.momentum_sgd import MomentumSGD
from celo_core.estimators import DecayingSigma
from celo_tasks.cli.main import main
from celo_tasks.meta_training import recipe_files
from celo_tasks.meta_training.families import META_FAMILIES
from celo_tasks.meta_training.recipe import Phase, Problems, Recipe, load, whole, with_datasets, with_iterations

names = pytest.mark.parametrize("name", recipe_files.names())


@names
def test_round_trip_through_toml(name):
    recipe = load(name)
    text = recipe_files.write(whole(recipe))
    again = configs.from_json(Recipe, tomllib.loads(text), "recipe")
    assert whole(again) == whole(recipe)
    assert configs.from_json(Recipe, json.loads(json.dumps(recipe.settings())), "recipe") == recipe


def test_the_papers_recipe_is_all_defaults():
    recipe = load("paper")
    assert recipe == Recipe() and list(recipe.phases) == ["update_rule", "scheduler"]
    assert recipe.learned_optimizer().config == CeloConfig()
    assert recipe.learned_optimizer("update_rule").config == CeloConfig(scheduler=None)
    assert recipe.estimator == TruncatedPES(
        truncation=50, num_pairs=32, sigma=0.01, lengths=LogUniformLength(100, 2000)
    )
    assert recipe.problems == Problems({"mlp": 32}, None, augmentation=("global", "tensor", "parameter"))
    assert recipe.phases["scheduler"].training == MetaTrainConfig(iterations=100_000, learning_rate=3e-4, seed=1)


def test_the_fast_recipe():
    rule, scheduler = load("fast").phases.values()
    assert (rule.training.iterations, scheduler.training.iterations) == (3000, 3000)
    assert (rule.training.learning_rate, scheduler.training.learning_rate) == (4e-3, 1e-3)
    assert rule.training.average_decay == 0.98 and rule.training.final_fraction == 0.03


def test_the_shipped_recipe_makes_what_is_shipped():
    recipe = load("shipped")
    assert recipe.learned_optimizer().config == ORTHOGONAL
    assert recipe.estimator_of("orthogonal").sigma == DecayingSigma(0.05, 0.03)
    assert recipe.estimator_of("joint").sigma == DecayingSigma(0.03, 0.01)
    assert "few_images_mlp" in recipe.problems_of("orthogonal").families
    assert "few_images_mlp" not in recipe.problems_of("joint").families


def test_the_schedules_recipe_trains_a_scheduler_for_what_is_shipped():
    recipe = load("schedule")
    config = recipe.learned_optimizer().config
    assert dataclasses.replace(config, scheduler=None) == dataclasses.replace(ORTHOGONAL, scheduler=None)
    assert config.scheduler.prior == ORTHOGONAL.scheduler.prior
    assert not np.any(jax.tree.leaves(recipe.learned_optimizer().init(jax.random.key(0))["scheduler"])[0])
    (phase,) = recipe.phases.values()
    assert phase.trains == ("scheduler",) and recipe.warm_start == "celo"
    assert recipe.estimator == FullES(
        sigma=0.15, objective="final", same_length=True, clip_difference=1.0, lengths=LogUniformLength(200, 3000)
    )
    assert set(recipe.problems.families) <= {name for name in META_FAMILIES if name.startswith("varied_")}


def test_settings_change_what_they_name():
    recipe = load(
        "paper",
        [
            "estimator.type=noise_reuse_es",
            "estimator.sigma={first=0.1, last=0.05}",
            "problems.families.vit = 8",
            "architecture.config.scheduler.network.size=8",
            "phases.update_rule.training.iterations=500",
            "phases.scheduler.replaces.step_scale=0.002",
            "warm_start=runs/x",
        ],
    )
    assert recipe.estimator.type == "noise_reuse_es" and recipe.estimator.sigma == DecayingSigma(0.1, 0.05)
    assert recipe.problems.families == {"mlp": 32, "vit": 8}
    assert recipe.learned_optimizer().config.scheduler.network.size == 8
    assert recipe.learned_optimizer("scheduler").config.step_scale == 0.002
    assert recipe.phases["update_rule"].training.iterations == 500 and recipe.warm_start == "runs/x"
    assert load("paper", ["warm_start=none"]) == load("paper")
    longer = with_iterations(recipe, 7)
    assert {phase.training.iterations for phase in longer.phases.values()} == {7}


def test_another_architecture_has_one_phase_of_all_of_it(tmp_path):
    (tmp_path / "mine.toml").write_text('[architecture]\nname = "momentum_sgd"\n')
    named = load(str(tmp_path / "mine.toml"))
    assert named.phases == {"all": Phase()} and named.learned_optimizer() == MomentumSGD()
    assert load("fast", ["architecture.name=momentum_sgd"]).phases == named.phases
    longer = load("paper", ["architecture.name=momentum_sgd", "phases.all.training.iterations=7"])
    assert longer.phases["all"].training.iterations == 7
    assert load("fast", ["architecture.name=celo"]) == load("fast"), "it has that name already"


def test_settings_of_a_run_are_what_differs_from_the_defaults():
    assert Recipe().settings() == {"estimator": {"type": "pes"}} or Recipe().settings() == {}
    found = load("paper", ["problems.families.mlp=4", "seed=2"]).settings()
    assert found["problems"] == {"families": {"mlp": 4}} and found["seed"] == 2


def test_data_sets_are_named_once_and_only_where_nothing_is_said():
    asked = []
    default = lambda: asked.append(1) or ("digits_8x8",)
    recipe = Recipe(phases={"a": Phase(("update_rule",), problems=Problems({"gru": 2}))})
    found = with_datasets(recipe, None, default)
    assert found.problems.datasets == found.problems_of("a").datasets == ("digits_8x8",) and asked == [1]
    assert with_datasets(load("shipped"), None, default).problems.datasets == load("shipped").problems.datasets
    assert with_datasets(load("shipped"), ("x",), default).problems_of("joint").datasets == ("x",)


def test_recipe_shows_what_meta_train_takes(tmp_path, capsys):
    assert main(["recipe", "fast"]) == 0
    written = capsys.readouterr().out
    assert written.startswith("# The paper's Celo for a fiftieth")
    (tmp_path / "mine.toml").write_text(written)
    assert load(str(tmp_path / "mine.toml")) == load("fast")
    assert main(["recipe", "fast", "--set", "estimator.sigma=0.5"]) == 0
    (tmp_path / "other.toml").write_text(capsys.readouterr().out)
    assert load(str(tmp_path / "other.toml")).estimator.sigma == 0.5


def test_files_that_are_no_recipes(tmp_path):
    (tmp_path / "broken.toml").write_text("a = [")
    (tmp_path / "bytes.toml").write_bytes(b"\xff")
    (tmp_path / "unknown.toml").write_text("[estimater]\ntype = 'pes'\n")
    for name, message in (
        ("broken", "is not TOML"),
        ("bytes", "is no text"),
        ("unknown", "recipe has no field 'estimater', did you mean estimator"),
        ("missing", "there is no recipe"),
    ):
        with pytest.raises(ValueError, match=message):
            load(str(tmp_path / f"{name}.toml"))


PACKAGE = """
import dataclasses
import jax, jax.numpy as jnp, optax
from celo_core import FamilyDefaults, LearnedOptimizer, TruncatedES

@dataclasses.dataclass(frozen=True)
class SignConfig:
    scale: float = 1.0

@dataclasses.dataclass(frozen=True)
class Sign(LearnedOptimizer):
    config: SignConfig = SignConfig()
    name = "sign"

    def init(self, key):
        return {"rate": {"log": jnp.float32(-4.0)}}

    def build(self, theta, num_steps, **options):
        rate = self.config.scale * jnp.exp(theta["rate"]["log"])
        move = lambda grads, _: jax.tree.map(lambda g: -rate * jnp.sign(g), grads)
        return optax.with_extra_args_support(optax.stateless(move))

@dataclasses.dataclass(frozen=True)
class Bowl(FamilyDefaults):
    name = "bowl"
    def load(self):
        return {"scale": jnp.ones(3)}
    def sample(self, key):
        return {}
    def init(self, key, config):
        return {"w": jax.random.normal(key, (3,))}, None
    def batch(self, key, config, data):
        return data["scale"]
    def loss(self, params, model_state, key, config, batch):
        return jnp.sum(batch * params["w"] ** 2), model_state
    def normalizer(self, loss):
        return jnp.clip(jnp.nan_to_num(loss, nan=10.0), 0, 10)

def bowl(sources):
    return Bowl()

@dataclasses.dataclass(frozen=True)
class Doubled(TruncatedES, type="doubled_es"):
    factor: float = 2.0
    def estimate(self, key, theta, state, data):
        (gradient, loss, info), state = super().estimate(key, theta, state, data)
        return (jax.tree.map(lambda g: self.factor * g, gradient), loss, info), state
"""

ENTRY_POINTS = """
[celo.architectures]
sign = outside:Sign
[celo.families]
bowl = outside:bowl
[celo.estimators]
doubled_es = outside:Doubled
"""

RECIPE = """
architecture = { name = "sign", config = { scale = 2.0 } }
[problems]
families = { bowl = 2 }
datasets = []
augmentation = ["none"]
[estimator]
type = "doubled_es"
factor = 3.0
truncation = 2
lengths = { type = "constant", steps = 4 }
[phases.rate]
trains = ["rate"]
training = { iterations = 3, block = 3, learning_rate = 0.1 }
"""


@pytest.mark.slow
def test_another_packages_parts_are_meta_trained(tmp_path):
    """An architecture, a family and an estimator that are named by entry points alone, from a package made here."""
    site = tmp_path / "site"
    (site / "outside-1.0.dist-info").mkdir(parents=True)
    (site / "outside.py").write_text(PACKAGE)
    (site / "outside-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (site / "outside-1.0.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    program = textwrap.dedent(
        """
        import sys
        from celo_tasks.cli.main import main
        from celo_tasks.evaluation.optimizers import load_weights
        out = sys.argv[1]
        assert main(["meta-train", "--out", out, "--recipe", sys.argv[2], "--validate-every", "0"]) == 0
        assert main(["recipe", out, "--whole"]) == 0
        weights = load_weights(out)
        assert weights.architecture.config.scale == 2.0 and weights.theta["rate"]["log"] != -4.0
        weights(10).init({"w": 1.0})
        """
    )
    paths = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", program, str(tmp_path / "run"), str(tmp_path / "recipe.toml")]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "factor = 3.0" in done.stdout
    assert json.loads((tmp_path / "run" / "run.json").read_text())["networks"] == ["bowl, of another package"]
