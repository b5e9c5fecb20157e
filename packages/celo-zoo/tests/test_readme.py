"""The READMEs' examples run as they stand."""

import pathlib
import re

import pytest

HERE = pathlib.Path(__file__).resolve()
READMES = [HERE.parents[1] / "README.md", HERE.parents[3] / "README.md"]  # the package's and the workspace's
EXAMPLES = [
    example
    for readme in READMES
    if readme.exists()
    for example in re.findall(r"^```python\n(.*?)^```", readme.read_text(), flags=re.DOTALL | re.MULTILINE)
]


def test_there_are_examples():
    assert EXAMPLES


@pytest.mark.parametrize("source", EXAMPLES)
def test_example_runs(source):
    exec(compile(source, "README.md", "exec"), {})
