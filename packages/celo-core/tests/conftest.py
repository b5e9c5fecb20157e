"""Settings of this package's tests: eight simulated CPU devices, and where reference data lie."""

import importlib.metadata
import os
import pathlib
import sys
from collections.abc import Iterator

# Before JAX starts. Simulated devices exist on the CPU only.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
if tuple(int(part) for part in importlib.metadata.version("jaxlib").split(".")[:2]) >= (0, 10):
    # On a busy machine a collective may take long without a deadlock: XLA would end the process after 40 s.
    os.environ["XLA_FLAGS"] += " --xla_cpu_collective_call_terminate_timeout_seconds=300"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile much and compute little: without most of XLA's optimisations they take half the time.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
sys.path.insert(0, str(pathlib.Path(__file__).parent))  # helpers next to the tests, under any import mode of pytest

import jax
import pytest


@pytest.fixture
def as_for_users() -> Iterator[None]:
    """Enables XLA's optimisations, for tests of the compiled program itself."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="session")
def golden_dir() -> pathlib.Path:
    """Folder of vectors computed by the reference implementation; tests that need it are skipped where it is absent."""
    default = pathlib.Path(__file__).resolve().parents[3].parent / "shared"
    folder = pathlib.Path(os.environ.get("CELO_SHARED", default)) / "golden"
    if not folder.is_dir():
        pytest.skip(f"no reference vectors at {folder}: set CELO_SHARED to the folder that holds them")
    return folder
