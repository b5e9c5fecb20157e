"""The examples of the README and of docstrings run as they stand."""

import doctest
import importlib
import pathlib
import re

import pytest

import celo_core

README = pathlib.Path(__file__).resolve().parents[1] / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(), flags=re.DOTALL | re.MULTILINE)
EXAMPLES = [block for block in BLOCKS if "celo_zoo" not in re.findall(r"\w+", re.sub(r"#.*", "", block))]
"""The other blocks import celo-zoo, and are run by its tests."""

SOURCE = pathlib.Path(celo_core.__file__).parent
MODULES = [
    ".".join(("celo_core", *file.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
    for file in sorted(SOURCE.rglob("*.py"))
    if ">>> " in file.read_text()
]


def test_there_are_examples():
    assert EXAMPLES and MODULES


@pytest.mark.parametrize("source", EXAMPLES)
def test_example_runs(source):
    exec(compile(source, README.name, "exec"), {})


@pytest.mark.parametrize("name", MODULES)
def test_docstrings_examples_run(name):
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert results.attempted > 0 and results.failed == 0
