"""The public names, which are imported when they are first used."""

import ast
import inspect
import pathlib
import subprocess
import sys

import pytest

import celo_zoo

NAMES = (
    *("AccessError", "BackendError", "ChecksumError", "ConflictError", "ExistsError", "FormatError", "HubError"),
    *("NewerFormatError", "NotFoundError", "Pretrained", "Publication", "RefError", "SettingError", "WriteError"),
    *("ZooError", "convert_published", "fetch", "info", "load", "load_run", "names", "optimizer", "publish", "save"),
)


def test_names_are_there_and_known_to_dir():
    assert set(NAMES) <= set(dir(celo_zoo))
    for name in NAMES:
        exec(f"from celo_zoo import {name}", {})
        assert inspect.getmodule(getattr(celo_zoo, name)).__name__.startswith("celo_zoo.")
    with pytest.raises(AttributeError, match="module 'celo_zoo' has no attribute 'laod'"):
        _ = celo_zoo.laod
    with pytest.raises(ImportError, match="laod"):
        exec("from celo_zoo import laod", {})


def test_type_checkers_see_the_same_names():
    tree = ast.parse(pathlib.Path(celo_zoo.__file__).read_text())
    (checked,) = (node for node in tree.body if isinstance(node, ast.If))
    found = {(node.module.split(".")[1], alias.asname) for node in checked.body for alias in node.names}
    assert found == {(module, name) for module, names in celo_zoo._LATER.items() for name in names}


def test_modules_are_there_and_jax_comes_when_it_is_needed():
    code = (
        "import sys, celo_zoo\n"
        "assert celo_zoo.names() and celo_zoo.evaluation.from_report and celo_zoo.references.parse\n"
        "assert not {'jax', 'numpy'} & sys.modules.keys()\n"
        "assert celo_zoo.models.load is celo_zoo.load and 'jax' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
