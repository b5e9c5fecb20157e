"""The examples of READMEs and docstrings run as they stand, also those of celo-core that need weights."""

import doctest
import importlib
import inspect
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import celo_core
import celo_zoo

HERE = pathlib.Path(__file__).resolve()
# The package's, the workspace's, and celo-core's, whose own tests leave out what needs weights.
READMES = [HERE.parents[1] / "README.md", HERE.parents[3] / "README.md", HERE.parents[2] / "celo-core" / "README.md"]
EXAMPLES = [
    pytest.param(example, id=f"{readme.parent.name}{number}")
    for readme in READMES
    if readme.exists()
    for number, example in enumerate(
        re.findall(r"^```python\n(.*?)^```", readme.read_text(), flags=re.DOTALL | re.MULTILINE)
    )
    if re.search(r"^import .*\bcelo_zoo\b", example, flags=re.MULTILINE)
]

SOURCE = pathlib.Path(celo_zoo.__file__).parent
MODULES = [
    ".".join(("celo_zoo", *file.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
    for file in sorted(SOURCE.rglob("*.py"))
    if ">>> " in file.read_text()
]


def test_there_are_examples():
    assert len(EXAMPLES) >= sum(readme.exists() for readme in READMES) and MODULES


@pytest.mark.parametrize("source", EXAMPLES)
def test_example_runs(source):
    exec(compile(source, "README.md", "exec"), {})


@pytest.mark.parametrize("name", MODULES)
def test_docstrings_examples_run(name):
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert results.attempted > 0 and results.failed == 0


def test_celo_takes_the_weights_as_its_docstring_says():
    """Without the config, which is that of the weights all the same: the step is the one with the config passed."""
    lines = [line.strip() for line in inspect.getdoc(celo_core.celo).splitlines()]
    source = lines[lines.index('theta, config = celo_zoo.load("celo")') :][:2]
    namespace = {"celo_core": celo_core, "celo_zoo": celo_zoo}
    exec("\n".join(source), namespace)
    params = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
    loss, grads = jax.value_and_grad(lambda p: jnp.sum((p["w"] + p["b"]) ** 2))(params)
    with_config = celo_core.celo(namespace["theta"], num_steps=100, config=namespace["config"])
    step = lambda tx: tx.update(grads, tx.init(params), params, value=loss)[0]
    updates = step(namespace["tx"])
    jax.tree.map(np.testing.assert_array_equal, updates, step(with_config))
    moved = optax.apply_updates(params, updates)
    assert jnp.sum((moved["w"] + moved["b"]) ** 2) < loss
