"""Importing the package has no side effects."""

import subprocess
import sys

import pytest

SCRIPT = """
import logging, os, sys
import jax
environment, handlers, settings = dict(os.environ), list(logging.root.handlers), dict(jax.config.values)
import {module}
import celo_core
for name in celo_core.ARCHITECTURES:
    celo_core.get_architecture(name)
forbidden = {{"tensorflow", "tensorflow_datasets", "huggingface_hub", "celo_tasks", "celo_zoo", "equinox"}}
assert not forbidden & set(sys.modules), forbidden & set(sys.modules)
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized(), "a backend of JAX was started"
assert dict(os.environ) == environment, "the environment was changed"
assert list(logging.root.handlers) == handlers, "logging was configured"
changed = {{key for key, value in jax.config.values.items() if key in settings and settings[key] != value}}
assert not changed, changed
"""


@pytest.mark.parametrize("module", ["celo_core", "celo_core.testing"])
def test_import_is_silent(module):
    result = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", SCRIPT.format(module=module)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
