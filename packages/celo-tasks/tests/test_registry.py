"""Every task by name: it can be made without data, and what the list says of it is true."""

import subprocess
import sys
from pathlib import Path

import pytest

from celo_core import TaskFamily
from celo_tasks.cli.main import main
from celo_tasks.datasets import IMAGE_SPECS, TEXT_SPECS
from celo_tasks.evaluation.program import parameter_count
from celo_tasks.tasks import registry


def test_the_suites_have_as_many_tasks_as_their_names_say() -> None:
    for name, suite in registry.SUITES.items():
        assert len(suite.tasks) == len(set(suite.tasks)) == int(name.rsplit("-", 1)[1])
        assert set(suite.tasks) <= set(registry.TASKS)


@pytest.mark.parametrize("name", registry.TASKS)
def test_every_task_is_made_from_each_of_its_data_sets(name: str) -> None:
    entry = registry.TASKS[name]
    for dataset in entry.datasets:
        assert dataset in IMAGE_SPECS or dataset in TEXT_SPECS
    family = entry.make_with(entry.datasets[-1])
    assert isinstance(family, TaskFamily) and family.name
    cost = entry.cost()
    assert cost is not None
    assert cost.parameters == parameter_count(entry.make_with(registry._costs()["tasks"][name]["dataset"]))


def test_small_tasks_need_no_download(no_tfds_data: Path) -> None:
    for name in registry.SUITES["small-8"].tasks:
        assert registry.TASKS[name].dataset() is not None


def test_absent_data_are_named_with_the_command_that_fetches_them(no_tfds_data: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"needs the data set cifar100_32rgb.*celo-tasks prepare cifar100_32rgb"
    ):
        registry.TASKS["vit_cifar100_wide_shallow"].make()


def test_importing_builds_nothing() -> None:
    heavy = ("celo_tasks.tasks.small_", "celo_tasks.tasks.velodrome_", "celo_tasks.families", "tensorflow_datasets")
    code = f"""
import sys, celo_tasks, celo_tasks.tasks.registry
sys.exit(any(name.startswith({heavy!r}) for name in sys.modules))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_list(no_tfds_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--suite", "small-8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9 and all(line.endswith("yes") for line in lines[1:])
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert "mixer_cifar100_tiny16" in out and " no" in out
    assert main(["list", "--suite", "velodrom"]) == 2
    assert "small-8 or velodrome-17" in capsys.readouterr().err
