"""What docs/weights.md promises about names is what the code has."""

import pathlib
import re

import jax
import pytest

from celo_core import ARCHITECTURES, get_architecture
from celo_zoo import folders, schema, tensors

PAGE = pathlib.Path(__file__).resolve().parents[3] / "docs" / "weights.md"


@pytest.fixture
def page():
    if not PAGE.is_file():
        pytest.skip("docs/weights.md is part of the repository, not of the package")
    return PAGE.read_text()


def test_leaf_names_are_documented(page):
    page = page.split("## Leaves")[1].split("##")[0]
    header = re.search(r"^\| leaf \|(.*)\|$", page, re.MULTILINE)
    names = [name.strip(" `") for name in header[1].split("|")]
    assert names == list(ARCHITECTURES)
    rows = re.findall(r"^\| `([a-z_0-9/]+/[a-z_0-9/]+)` \|(.*)\|$", page, re.MULTILINE)
    documented = {name: {} for name in names}
    for leaf, cells in rows:
        for name, cell in zip(names, cells.split("|"), strict=True):
            if cell.strip():
                sizes = [] if cell.strip() == "scalar" else cell.split("x")
                documented[name][leaf] = tuple(map(int, sizes))
    for name in names:
        shapes = tensors.flatten(schema.expected_shapes(get_architecture(name)))
        assert documented[name] == {path: leaf.shape for path, leaf in shapes.items()}


def test_format_is_documented(page, model_folder):
    assert f"`config.json`, version {schema.FORMAT_VERSION}:" in page
    document = schema.document(get_architecture("celo").config, "celo")
    for key in document:
        assert f"`{key}`" in page
    for name in (folders.CHECKSUMS, *folders.LISTED):
        assert f"| `{name}` |" in page
    for dtype in tensors.DTYPES.values():
        assert dtype.name in page


UNSTABLE = PAGE.with_name("unstable.md")


OF_TASKS = {"meta-training.md", "tasks.md"}
"""Pages whose examples need celo-tasks, and are run by its tests."""

EXAMPLES = {
    page.name: sources
    for page in sorted(PAGE.parent.glob("*.md"))
    if (sources := re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE))
    and page.name not in OF_TASKS
}


def test_pages_with_examples_are_found(page):
    assert {"compatibility.md", "unstable.md", "using.md"} <= set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(name):
    """One after the other in one namespace, as a reader meets them."""
    sources = EXAMPLES[name]
    cache, namespace = jax.config.jax_compilation_cache_dir, {}
    try:
        for source in sources:
            exec(compile(source, name, "exec"), namespace)
    finally:
        jax.config.update("jax_compilation_cache_dir", cache)


def test_tables_for_unstable_trainings_are_filled():
    if not UNSTABLE.is_file():
        pytest.skip("docs/unstable.md is part of the repository, not of the package")
    page = UNSTABLE.read_text()
    names = re.findall(r"^<!-- (\w+): begin -->$", page, re.MULTILINE)
    results = UNSTABLE.parent / "results" / "levers"
    assert {file.stem for file in results.glob("*.json")} <= set(names)
    for name in names:
        table = page.split(f"<!-- {name}: begin -->")[1].split(f"<!-- {name}: end -->")[0]
        assert len(table.strip().splitlines()) > 2
