"""The commands `task-costs`, `tuned-adam`, `validate`, `yardstick` and `behaviour`, on what is small."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo_core import ORTHOGONAL, Celo, CeloAdam, CeloConfig, SchedulerConfig, configs, get_architecture
from celo_core.directions import Adam
from celo_core.meta_training import checkpoints
from celo_core.schedulers import GradientAlignment, Linear, Time
from celo_tasks.cli.main import main
from celo_tasks.evaluation import behaviour, learned, optimizers, reference, task_costs, yardstick
from celo_tasks.evaluation.behaviour_plot import draw
from celo_tasks.evaluation.store import Run, Store
from celo_tasks.meta_training.validation import VALIDATION_TASKS
from celo_tasks.tasks.registry import find_suite

SMALL = behaviour.BehaviourSettings(
    1, 20, lengths=(20,), disturbed=(5,), batches=(4,), factors=(0.5,), gains=(2.0,), scales=(0.01, 100.0)
)


def save(folder: Path, architecture: Celo) -> Path:
    theta = architecture.init(jax.random.key(0))
    described = {"architecture": architecture.name, "config": configs.to_json(architecture.config), "format_version": 3}
    checkpoints.save_theta(folder / "theta.npz", theta, described)
    return folder


# Finding weights.


def test_weights_are_found_by_name_and_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path / "run", Celo(ORTHOGONAL))
    made = optimizers.load_weights(folder)
    monkeypatch.setattr(learned, "pretrained_names", lambda: ("mine",))
    monkeypatch.setattr(learned, "load_pretrained", lambda name: made)
    for reference_ in ("mine", str(folder), folder / "theta.npz"):
        found = learned.load_learned(reference_)
        assert found.architecture == Celo(ORTHOGONAL) and found.reference == str(reference_)
        assert found.fingerprint == made.fingerprint
        jax.tree.map(np.testing.assert_array_equal, found.theta, Celo(ORTHOGONAL).init(jax.random.key(0)))
    with pytest.raises(
        ValueError, match=r"no weights 'mien', did you mean mine: give one of the installed names \(mine\)"
    ):
        learned.load_learned("mien")


def test_an_optimizer_without_parts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned, "pretrained_names", lambda: ("closed",))
    monkeypatch.setattr(learned, "load_pretrained", lambda name: lambda num_steps: None)
    with pytest.raises(ValueError, match="'closed' has no attribute architecture"):
        learned.load_learned("closed")


# What tasks cost.


def test_task_costs_adds_to_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "costs.json"
    out.write_text(json.dumps({"machine": "another", "versions": {}, "tasks": {"small_vae": {"parameters": 7}}}))
    command = ["task-costs", "--task", "small_mlp", "--out", str(out)]
    assert main([*command, "--skip-above", "0"]) == 0
    record = json.loads(out.read_text())
    assert record["tasks"]["small_vae"] == {"parameters": 7}
    cost = record["tasks"]["small_mlp"]
    shipped = json.loads(Path(task_costs.__file__).parents[1].joinpath("tasks/costs.json").read_text())
    assert cost["milliseconds"] is None and cost["dataset"] == "fashion_mnist_small_28"
    assert cost["parameters"] == shipped["tasks"]["small_mlp"]["parameters"]
    assert main([*command, "--seconds", "0"]) == 0
    assert json.loads(out.read_text())["tasks"]["small_mlp"]["milliseconds"] > 0
    assert "small_mlp {" in capsys.readouterr().out


def test_task_costs_refuses_before_it_measures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["task-costs", "--task", "small_mpl", "--out", str(tmp_path / "costs.json")]) == 2
    assert "did you mean small_mlp" in capsys.readouterr().err
    (tmp_path / "other.json").write_text("[]")
    assert main(["task-costs", "--task", "small_mlp", "--out", str(tmp_path / "other.json")]) == 2
    assert "holds no costs of tasks" in capsys.readouterr().err


def test_floating_point_operations_grow_with_the_batch() -> None:
    family = VALIDATION_TASKS["mlp_tanh_48x24"][1]()
    data = jax.tree.map(jnp.asarray, family.load())
    few, many = (task_costs.gflop(type(family)(**{**vars(family), "batch_size": size}), data) for size in (8, 64))
    assert 4 < many / few < 16  # eight times the products, and what does not depend on the batch


# Tuned Adam of an evaluation.


def write_store(folder: Path, make_run: Callable[..., Run], tasks: dict[str, int], steps: int = 40) -> Path:
    store = Store.create(folder, "small-8", list(tasks), steps)
    for task, seeds in tasks.items():
        for seed in range(seeds):
            for level, setting in ((1.0, "0.001 constant"), (3.0, "0.01 constant")):
                store.append(make_run(np.full(steps, level + seed), task=task, setting=setting, seed=seed))
    return folder


def test_tuned_adam_is_found_again(
    tmp_path: Path, make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_store(tmp_path / "first", make_run, {"small_mlp": 3, "small_vae": 2})
    out = tmp_path / "references"
    assert main(["tuned-adam", str(folder), "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "small_vae is left out, its Adam has 2 of 3 seeds" in printed.err and "1 tasks" in printed.out
    # Another evaluation adds its tasks.
    assert main(["tuned-adam", str(write_store(tmp_path / "more", make_run, {"small_gru": 3})), "--out", str(out)]) == 0
    written = json.loads((out / "small-8.json").read_text())
    assert list(written["tasks"]) == ["small_mlp", "small_gru"], "in the suite's order"
    monkeypatch.setattr(reference, "load", lambda suite: json.loads((out / f"{suite}.json").read_text()))
    tuned = reference.find("small-8", "small_mlp", 40, lambda: "definition of small_mlp")
    assert tuned is not None and str(tuned.setting) == "1e-3 constant" and tuned.final_loss == 2.0  # mean of 1, 2 and 3
    assert reference.find("small-8", "small_mlp", 40, lambda: "another definition") is None


def test_tuned_adam_of_another_length_is_refused(
    tmp_path: Path, make_run: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "references"
    main(["tuned-adam", str(write_store(tmp_path / "short", make_run, {"small_mlp": 3})), "--out", str(out)])
    before = (out / "small-8.json").read_bytes()
    longer = write_store(tmp_path / "longer", make_run, {"small_mlp": 3}, steps=60)
    assert main(["tuned-adam", str(longer), "--out", str(out)]) == 2
    assert "is of 40 steps, and this evaluation of 60" in capsys.readouterr().err
    assert (out / "small-8.json").read_bytes() == before


def test_shipped_references_are_as_the_command_writes_them() -> None:
    for path in Path(reference.__file__).with_name("references").glob("*.json"):
        record = json.loads(path.read_text())
        assert set(record) == {"suite", "steps", "command", "tasks"}
        assert list(record["tasks"]) == [task for task in find_suite(path.stem).tasks if task in record["tasks"]]


# The validation.


def test_validation_measures_what_is_missing_and_ranks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Gradient descent with steps of 0.1 against steps of 1e-6, on one of the tasks."""
    task = behaviour.TASK
    sgd, out = get_architecture("momentum_sgd"), tmp_path / "validation.json"
    described = {"architecture": sgd.name, "config": configs.to_json(sgd.config), "format_version": 3}
    for name, rate in (("bad", 1e-6), ("good", 0.1)):
        theta = {"update_rule": {"log_learning_rate": np.float32(np.log(rate)), "momentum": np.float32(0.0)}}
        checkpoints.save_theta(tmp_path / name / "theta.npz", theta, described)
    references = [f"{name}={tmp_path / name}" for name in ("bad", "good")]
    options = ["--lengths", "30", "--seeds", "1", "--out", str(out), "--tasks", task]
    assert main(["validate", references[0], *options]) == 0
    first = json.loads(out.read_text())
    capsys.readouterr()
    assert main(["validate", *references, *options]) == 0
    table, progress = capsys.readouterr()
    assert progress.count("measured") == 1 and "good, 30 steps: measured" in progress
    both = json.loads(out.read_text())
    assert both["adam"] == first["adam"] and both["weights"]["bad"] == first["weights"]["bad"]
    ratios = {name: one["lengths"]["30"]["tasks"][task] for name, one in both["weights"].items()}
    assert ratios["bad"] < ratios["good"]
    header, bad, good = (line.split() for line in table.strip().splitlines())
    assert (header[0], header[-1]) == ("weights", task)
    assert [bad[-1], good[-1]] == [f"{ratios[name]:.2f}" for name in ("bad", "good")]
    assert main(["validate", *references, *options[:-1], "few"]) == 2
    assert "the earlier results of 30 steps are of other tasks: name another --out" in capsys.readouterr().err
    assert json.loads(out.read_text()) == both


def test_validation_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "celo", "--lengths", "300,many"]) == 2
    assert "--seeds and --lengths must be whole numbers of at least 1" in capsys.readouterr().err
    out = tmp_path / "validation.json"
    for text, expected in (
        ("[]", "is no comparison of weights: name another --out"),
        ('{"seeds": 3, "adam": {}, "weights": {}}', "is of 3 seeds: give --seeds 3 or another --out"),
    ):
        out.write_text(text)
        assert main(["validate", "celo", "--out", str(out)]) == 2
        assert expected in capsys.readouterr().err
        assert out.read_text() == text


# The yardstick.


def test_yardstick_measures_problems_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "run", Celo(CeloConfig(scheduler=None)))
    out = tmp_path / "yardstick.json"
    options = ["--datasets", "fashion_mnist_small_8x8", "--problems", "2", "--steps", "12", "--out", str(out)]
    assert main(["yardstick", f"one={tmp_path / 'run'}", str(tmp_path / "run" / "theta.npz"), *options]) == 0
    record = json.loads(out.read_text())
    first, second = record["results"].values()
    assert first == second and list(record["results"]) == ["one", str(tmp_path / "run" / "theta.npz")]
    assert set(first["mean"]) == {"100", "500", "2000", "last_100"}
    assert 1.5 < first["mean"]["100"] <= yardstick.CLIP
    assert (record["steps"], record["problems_per_data_set"], record["seed"]) == (12, 2, 0)
    assert "one {" in capsys.readouterr().out


def test_yardstick_says_what_is_missing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["yardstick", "no-such-weights", "--data-dir", str(tmp_path)]) == 2
    assert "there are no weights 'no-such-weights'" in capsys.readouterr().err
    assert main(["yardstick", "celo", "--steps", "0"]) == 2
    assert "--problems and --steps must be at least 1" in capsys.readouterr().err


def test_summary_is_over_the_horizons() -> None:
    found = yardstick.summary(np.arange(2000.0))
    assert found == {"100": 49.5, "500": 249.5, "2000": 999.5, "last_100": 1949.5}


# What has been learned.


@pytest.mark.slow
def test_behaviour_of_a_given_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The schedule is a cosine decay that nothing disturbs, and steps are relative to the parameters."""
    monkeypatch.setattr(behaviour, "BehaviourSettings", lambda **given: SMALL)
    monkeypatch.setattr(behaviour, "LEARNING_RATES", (1e-3, 1e-2))
    # Adam's direction alone compiles soonest.
    save(tmp_path / "run", Celo(dataclasses.replace(ORTHOGONAL, directions=(Adam(),))))
    assert main(["behaviour", "--weights", str(tmp_path / "run"), "--out", str(tmp_path / "found")]) == 0
    result = json.loads((tmp_path / "found" / "behaviour.json").read_text())
    assert (tmp_path / "found" / "behaviour.png").read_bytes().startswith(b"\x89PNG")
    share = np.arange(20) / 20
    height = (1000 / 500) ** 0.7  # trainings shorter than 500 steps count as 500
    np.testing.assert_allclose(
        result["schedule"]["20"]["multiplier"], height * 0.5 * (1 + np.cos(np.pi * share)), rtol=1e-4
    )
    assert result["disturbance"]["relative_multiplier"]["5"] == [1.0] * 20
    assert set(result["noise"]) == {"4"}
    # As it is the same for all steps, whatever the factor on them and the inputs.
    assert (
        result["lengthened"]["0.5"]["multiplier"]
        == result["inputs"]["2"]["multiplier"]
        == result["schedule"]["20"]["multiplier"]
    )
    assert np.ptp(result["scale"]["celo"]) < np.ptp(result["scale"]["adam"])
    assert result["weights"] == str(tmp_path / "run") and result["fingerprint"].startswith("sha256 ")


@pytest.mark.slow
def test_behaviour_of_a_scheduler_that_reads_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(behaviour, "LEARNING_RATES", (1e-3,))
    found = learned.Learned("mine", CeloAdam(), CeloAdam().init(jax.random.key(1)), None)
    result = behaviour.measure(found, behaviour.BehaviourSettings(1, 20, (20,), (5,), (4,), (2.0,), (1.0,), (1.0,)))
    relative = result["disturbance"]["relative_multiplier"]["5"]
    assert relative[:10] == [1.0] * 10 and relative[12:] != [1.0] * 8
    assert len(draw(result).axes) == 6


def test_multiplier_is_the_one_that_the_optimizer_used() -> None:
    """A scheduler that reads gradients: the step is in proportion to the multiplier that is computed again."""
    scheduler = SchedulerConfig((Time(), GradientAlignment()), Linear())
    celo = Celo(CeloConfig(scheduler=scheduler))
    theta = jax.tree.map(lambda x: x + 0.3, celo.init(jax.random.key(0)))
    without = {**theta, "scheduler": jax.tree.map(jnp.zeros_like, theta["scheduler"])}
    params = {"w": jnp.ones((4, 3))}
    steps, multipliers = [], []
    for weights in (theta, without):
        optimizer = celo.build(weights, 10)
        state = optimizer.init(params)
        state = optimizer.update({"w": jnp.arange(12.0).reshape(4, 3)}, state, params, value=1.0)[1]
        gradient, count = {"w": jnp.arange(12.0).reshape(4, 3) - 5}, jnp.int32(1)
        multipliers.append(
            behaviour.multiplier_of(scheduler, weights["scheduler"])(state, gradient, count, jnp.float32(1), 10)
        )
        steps.append(optimizer.update(gradient, state, params, value=1.0)[0]["w"])
    assert multipliers[0] != multipliers[1]
    np.testing.assert_allclose(steps[0] * multipliers[1], steps[1] * multipliers[0], rtol=1e-5)


def test_diverged_trainings_are_drawn() -> None:
    """What is not finite is None in the file and a gap in the plot."""
    assert behaviour._curve(np.array([[1.0, np.nan]])) == [1.0, None]
    curve = {"loss": [1.0, None], "multiplier": [1.0, None], "step_size": [None, 0.1]}
    scale = {"adam_learning_rate": 0.01, "scales": [0.1, 1.0], "celo": [1.0, None], "adam": [1.0, 2.0]}
    disturbance = {"factor": 3.0, "relative_multiplier": {"5": [1.0, None]}}
    result = {"weights": "mine", "steps": 20, "schedule": {"20": curve}, "noise": {"4": curve}}
    result |= {"lengthened": {"0.5": curve}, "inputs": {"255": curve}}
    figure = draw({**result, "disturbance": disturbance, "scale": scale})
    assert np.isnan(figure.axes[0].lines[0].get_ydata()[1])


def test_behaviour_refuses_what_it_cannot_measure(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["behaviour", "--steps", "3", "--out", str(tmp_path)]) == 2
    assert "at least 1 seed and 20 steps are needed" in capsys.readouterr().err
