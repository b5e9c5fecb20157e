"""Every task by name: it can be made without data, and what the list says of it is true."""

import importlib.metadata
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from celo_core import TaskFamily
from celo_tasks.baselines import LEARNING_RATES
from celo_tasks.cli.main import main
from celo_tasks.datasets import IMAGE_SPECS, TEXT_SPECS
from celo_tasks.evaluation import reference
from celo_tasks.evaluation.loading import task_identity
from celo_tasks.evaluation.program import parameter_count
from celo_tasks.tasks import entries, registry, task


def test_the_suites_have_as_many_tasks_as_their_names_say() -> None:
    for name, suite in registry.SUITES.items():
        number = 3 if name == "quickstart" else int(name.rsplit("-", 1)[1])
        assert len(suite.tasks) == len(set(suite.tasks)) == number
        assert set(suite.tasks) <= set(registry.TASKS) and suite.learning_rates in LEARNING_RATES


@pytest.mark.parametrize("name", registry.TASKS)
def test_every_task_is_made_from_each_of_its_data_sets(name: str) -> None:
    entry = registry.TASKS[name]
    for dataset in entry.datasets:
        assert dataset in IMAGE_SPECS or dataset in TEXT_SPECS or dataset in (entries.DIABETES, entries.GENERATED)
    family = entry.make_with(entry.datasets[-1])
    assert isinstance(family, TaskFamily) and family.name
    cost = entry.cost()
    assert cost is not None
    assert cost.parameters == parameter_count(entry.make_with(entries._costs()["tasks"][name]["dataset"]))


def test_small_tasks_need_no_download(no_tfds_data: Path) -> None:
    for name in [one for suite in ("small-8", "stress-8", "quickstart") for one in registry.SUITES[suite].tasks]:
        assert registry.TASKS[name].dataset() is not None


def test_absent_data_are_named_with_the_command_that_fetches_them(no_tfds_data: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"needs the data set cifar100_32rgb.*celo-tasks prepare cifar100_32rgb"
    ):
        registry.TASKS["vit_cifar100_wide_shallow"].make()


def test_importing_builds_nothing() -> None:
    heavy = ("jax", "flax", "optax", "celo_core", "celo_tasks.families", "celo_tasks.datasets", "tensorflow_datasets")
    code = f"""
import sys, celo_tasks, celo_tasks.tasks.registry
sys.exit(any(name.startswith({heavy!r}) for name in sys.modules))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_decorated_function_is_a_task_under_its_own_name_or_another() -> None:
    @task(kind="nothing", datasets=("digits_8x8",))
    def mine(name: str, dataset: str, data_dir: str | None) -> Any:
        """Gives back what it was called with."""
        return name, dataset, data_dir

    assert (mine.name, mine.suite, mine.published, mine.cost()) == ("mine", None, None, None)
    assert mine.make("folder") == ("mine", "digits_8x8", "folder")
    other = task("another", kind="nothing", datasets=("digits_8x8",))(mine.function)
    assert other.make_with("mnist_28") == ("another", "mnist_28", None)


def test_tasks_of_other_packages_are_found_by_their_entry_points(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {
        "theirs": "celo_test_plugin:theirs",
        "misnamed": "celo_test_plugin:theirs",
        "number": "celo_test_plugin:number",
        "absent": "no_such_module:absent",
        "small_mlp": "no_such_module:ours_comes_first",
    }
    points = importlib.metadata.EntryPoints(
        importlib.metadata.EntryPoint(name, value, registry.GROUP) for name, value in values.items()
    )
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **wanted: points.select(**wanted))
    plugin = types.ModuleType("celo_test_plugin")
    plugin.theirs = registry.TaskEntry("theirs", "MLP", ("digits_8x8",), lambda *given: given)  # type: ignore[attr-defined]
    plugin.number = 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, plugin.__name__, plugin)
    assert registry.find_task("theirs").make_with("digits_8x8") == ("theirs", "digits_8x8", None)
    assert registry.find_task("small_mlp") is registry.TASKS["small_mlp"]
    for name, message in (
        ("number", "is no task 'number'"),
        ("misnamed", "is no task 'misnamed'"),
        ("absent", "'absent' cannot be imported from no_such_module:absent"),
        ("thiers", "did you mean theirs"),
    ):
        with pytest.raises(ValueError, match=message):
            registry.find_task(name)
    assert main(["list", "--suite", "small-8"]) == 0
    assert "theirs" not in capsys.readouterr().err
    assert main(["list"]) == 0
    assert "installed packages offer: absent, misnamed, number, theirs" in capsys.readouterr().err


def test_the_old_name_of_a_suite_is_answered_with_the_new_one(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["list"], ["evaluate", "--optimizer", "sgd"]):
        assert main([*command, "--suite", "velodrome-17"]) == 2
        assert "velodrome-17 is called ood-17 now" in capsys.readouterr().err
    assert set(registry.RENAMED.values()) <= set(registry.SUITES) and not set(registry.RENAMED) & set(registry.SUITES)


def test_stored_references_are_of_suites_and_of_their_tasks() -> None:
    for name, suite in registry.SUITES.items():
        if name == "quickstart":  # its learning rates are fewer, and Adam is part of it
            continue
        known = reference.load(name)
        assert known["suite"] == name and known["steps"] == suite.steps
        assert known["tasks"] and set(known["tasks"]) <= set(suite.tasks)


def test_tasks_are_still_those_that_tuned_adam_was_run_on(no_tfds_data: Path) -> None:
    """A changed definition would have another identity, and the stored runs of Adam would serve no longer."""
    stored = {task: one for suite in registry.SUITES for task, one in reference.load(suite)["tasks"].items()}
    assert len(stored) >= 13
    for name, one in stored.items():
        assert registry.find_task(name).dataset() == one["dataset"]
        assert task_identity(name, None) == one["identity"], name


def test_list(no_tfds_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--suite", "small-8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9 and all(line.endswith("yes") for line in lines[1:])
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert "mixer_cifar100_tiny16" in out and " no" in out
    assert main(["list", "--suite", "velodrom"]) == 2
    assert "small-8, ood-17, stress-8 or quickstart" in capsys.readouterr().err
