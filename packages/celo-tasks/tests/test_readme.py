"""The examples of the README, of docstrings and of the pages about celo-tasks (where the repository is here) run as they stand."""

import doctest
import importlib
import pathlib
import re

import pytest

import celo_tasks

README = pathlib.Path(__file__).resolve().parents[1] / "README.md"
DOCS = README.parents[2] / "docs"
PAGES = [page for page in (README, DOCS / "meta-training.md", DOCS / "tasks.md") if page.exists()]
EXAMPLES = [
    pytest.param(example, id=f"{page.stem}{number}")
    for page in PAGES
    for number, example in enumerate(
        re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    )
]

SOURCE = pathlib.Path(celo_tasks.__file__).parent
MODULES = [
    ".".join(("celo_tasks", *file.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
    for file in sorted(SOURCE.rglob("*.py"))
    if ">>> " in file.read_text()
]


def test_there_are_examples():
    assert len(EXAMPLES) >= len(PAGES) and MODULES


@pytest.mark.parametrize("source", EXAMPLES)
def test_example_runs(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(source, README.name, "exec"), {})


@pytest.mark.parametrize("name", MODULES)
def test_docstrings_examples_run(name):
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert results.attempted > 0 and results.failed == 0
