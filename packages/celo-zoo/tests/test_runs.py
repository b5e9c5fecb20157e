"""The folder of a meta-training becomes weights."""

import json

import jax
import numpy as np
import pytest

import celo_zoo
from celo_core import CeloConfig, SchedulerConfig, configs
from celo_core.checks import flatten_theta
from celo_core.directions import MLP
from celo_core.meta_training import checkpoints
from celo_core.schedulers import LSTM
from celo_zoo import runs

CONFIG = CeloConfig(directions=(MLP(hidden_sizes=(2,)),), scheduler=SchedulerConfig(network=LSTM(3)))


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
        "format_version": 3,
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


def test_a_run_of_format_2_is_read(run):
    """Without a format, in its names and with its config; of before there were architectures, of Celo."""
    folder, leaves = run
    record = json.loads((folder / "run.json").read_text())
    record = {name: value for name, value in record.items() if name not in ("format_version", "architecture")}
    record["config"] = {"hidden_sizes": [2], "scheduler": {"hidden_size": 3}}
    (folder / "run.json").write_text(json.dumps(record))
    older = lambda path: (
        path.replace("/mlp/", "/").replace("scheduler/", "scheduler/network/").replace("network/init", "init")
    )
    old = dict(sorted((older(path), leaf) for path, leaf in leaves.items()))
    metadata = {"leaves": {path: list(leaf.shape) for path, leaf in old.items()}}
    checkpoints.save_checkpoint(folder / "theta.npz", list(old.values()), metadata)
    theta, config, _ = celo_zoo.load_run(folder)
    assert config == CONFIG
    for path, leaf in flatten_theta(theta).items():
        np.testing.assert_array_equal(leaf, leaves[path])


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
