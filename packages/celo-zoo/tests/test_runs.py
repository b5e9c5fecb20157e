"""The folder of a meta-training becomes weights."""

import json

import jax
import numpy as np
import pytest

import celo_zoo
from celo_core import CeloConfig, LSTMSchedulerConfig, configs
from celo_core.checks import flatten_theta
from celo_core.meta_training import checkpoints
from celo_zoo import runs

CONFIG = CeloConfig(hidden_sizes=(2,), scheduler=LSTMSchedulerConfig(hidden_size=3))


@pytest.fixture
def run(tmp_path):
    """What celo-tasks meta-train leaves behind, but for its logs."""
    folder = tmp_path / "run"
    folder.mkdir()
    random = np.random.default_rng(0)
    from celo_core import get_architecture
    from celo_zoo import schema

    shapes = flatten_theta(schema.expected_shapes(get_architecture("celo", CONFIG)))
    leaves = {path: random.normal(size=shapes[path].shape).astype(np.float32) for path in sorted(shapes)}
    metadata = {"leaves": {path: list(leaf.shape) for path, leaf in leaves.items()}}
    checkpoints.save_checkpoint(folder / "theta.npz", list(leaves.values()), metadata)
    record = {
        "command": "celo-tasks meta-train",
        "architecture": "celo",
        "config": configs.to_json(CONFIG),
        "seeds": [0],
    }
    (folder / "run.json").write_text(json.dumps(record))
    return folder, leaves


def test_load_run(run, tmp_path):
    folder, leaves = run
    assert runs.is_run(folder) and runs.is_run(str(folder))
    theta, config, metadata = celo_zoo.load_run(folder)
    assert config == CONFIG
    assert metadata == {"command": "celo-tasks meta-train", "seeds": [0]}
    for path, leaf in flatten_theta(theta).items():
        np.testing.assert_array_equal(leaf, leaves[path])
    saved = celo_zoo.save(theta, config, tmp_path / "weights", metadata=metadata)
    assert not runs.is_run(saved)
    assert celo_zoo.info(saved)["provenance"] == metadata
    assert len(jax.tree.leaves(theta)) == len(leaves)


def test_a_record_of_before_architectures_is_of_celo(run):
    folder, _ = run
    record = json.loads((folder / "run.json").read_text())
    del record["architecture"]
    (folder / "run.json").write_text(json.dumps(record))
    assert celo_zoo.load_run(folder)[1] == CONFIG


@pytest.mark.parametrize("name", ["theta.npz", "run.json"])
def test_unfinished_run_is_refused(name, run):
    folder, _ = run
    (folder / name).unlink()
    assert not runs.is_run(folder)
    with pytest.raises(celo_zoo.NotFoundError, match=f"has no {name}: finish its meta-training first"):
        celo_zoo.load_run(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", "{"),
        ("run.json", "[]"),
        ("run.json", "{}"),
        ("run.json", '{"config": {"surprise": 1}}'),
        ("run.json", '{"architecture": "other", "config": {}}'),
        ("run.json", '{"config": {}}'),
        ("theta.npz", "nothing"),
    ],
)
def test_damaged_run_is_refused(name, content, run):
    folder, _ = run
    (folder / name).write_text(content)
    with pytest.raises(celo_zoo.FormatError):
        celo_zoo.load_run(folder)
