"""The examples of the README, and of the page on meta-training where the repository is here, run as they stand."""

import pathlib
import re

import pytest

README = pathlib.Path(__file__).resolve().parents[1] / "README.md"
PAGES = [page for page in (README, README.parents[2] / "docs" / "meta-training.md") if page.exists()]
EXAMPLES = [
    example
    for page in PAGES
    for example in re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
]


def test_there_are_examples():
    assert EXAMPLES


@pytest.mark.parametrize("source", EXAMPLES)
def test_example_runs(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(source, README.name, "exec"), {})
