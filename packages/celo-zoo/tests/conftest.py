"""Settings and fixtures of this package's tests."""

import hashlib
import json
import os
import pathlib
import shutil
import sys

# Before huggingface_hub is imported: it reads its environment then.
os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ.pop("HF_HUB_OFFLINE", None)
os.environ["HF_TOKEN"] = "hf_savedlogin00000000000000000000000"  # stands for a user's own; the tests see where it goes
os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(pathlib.Path(__file__).parent))  # helpers beside the tests, under any import mode of pytest

import jax
import numpy as np
import pytest

import celo_zoo
from celo_core import get_architecture
from celo_zoo import index, schema

PROVENANCE = {
    "command": "celo-tasks meta-train --out runs/`x`",
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "recipe": {"datasets": ["digits_8x8"], "min_length": 100, "max_length": 2000},
    "data": {"source": "prepared arrays", "sha256": "00" * 32},
    "seeds": [0, 1],
    "seconds": 12.5,
    "hardware": "2 x cpu",
}


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A saved Celo with random meta-parameters; not to be altered."""
    architecture = get_architecture("celo")
    random = np.random.default_rng(3)
    theta = jax.tree.map(
        lambda leaf: random.normal(0.0, 0.1, leaf.shape).astype(np.float32), schema.expected_shapes(architecture)
    )
    return celo_zoo.save(theta, architecture.config, tmp_path_factory.mktemp("models") / "model", metadata=PROVENANCE)


@pytest.fixture
def package_root(tmp_path, monkeypatch):
    """An empty place for bundled weights, in use during the test."""
    root = tmp_path / "package"
    root.mkdir()
    (root / "index.json").write_text("{}\n")
    monkeypatch.setattr(index, "ROOT", root)
    return root


@pytest.fixture
def bundle(package_root, model_folder):
    """A package with the test's model as ``celo``."""
    shutil.copytree(model_folder, package_root / "weights" / "celo")
    checksum = hashlib.sha256((model_folder / "checksums").read_bytes()).hexdigest()
    entry = {"architecture": "celo", "digest": checksum, "repository": None, "commit": None, "bundled": True}
    (package_root / "index.json").write_text(json.dumps({"celo": entry}))
    return package_root


@pytest.fixture(scope="session")
def shared_dir():
    """Folder of the reference implementation's vectors and published weights; tests that need it are skipped them."""
    default = pathlib.Path(__file__).resolve().parents[3].parent / "shared"
    folder = pathlib.Path(os.environ.get("CELO_SHARED", default))
    if not (folder / "golden").is_dir() or not (folder / "reference").is_dir():
        pytest.skip(f"no reference vectors at {folder}: set CELO_SHARED to the folder that holds them")
    return folder
