"""Names: bundled, folders and repositories; the index's digest; how they are bundled; the entry point."""

import importlib.metadata
import json
import pathlib

import jax
import numpy as np
import pytest

import celo_zoo
from celo_core import get_architecture
from celo_zoo import bundling, index, references
from celo_zoo.cli import main


def test_bundled_weights_load_by_name(bundle, model_folder):
    assert celo_zoo.names() == ["celo"]
    theta, config = celo_zoo.load("celo")
    expected, expected_config = celo_zoo.load(model_folder)
    assert config == expected_config
    for left, right in zip(jax.tree.leaves(theta), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(left, right)


def test_bundling_twice_replaces(package_root, model_folder, tmp_path):
    bundling.bundle(model_folder, "celo")
    assert celo_zoo.info("celo") == celo_zoo.info(model_folder)
    theta, config = celo_zoo.load(model_folder)
    other = celo_zoo.save(
        theta, config, tmp_path / "other", metadata=celo_zoo.info(model_folder)["provenance"] | {"seeds": [7]}
    )
    entry = bundling.bundle(other, "celo")
    assert json.loads((package_root / "index.json").read_text()) == {
        "celo": {
            "architecture": "celo",
            "digest": celo_zoo.load(other).digest,
            "repository": None,
            "commit": None,
            "bundled": True,
        }
    }
    assert index.entries() == {"celo": entry}
    assert celo_zoo.info("celo")["provenance"]["seeds"] == [7]
    assert sorted(path.name for path in package_root.iterdir()) == ["index.json", "weights"]


def test_bundle_command(package_root, model_folder, tmp_path, capsys):
    assert main(["bundle", str(model_folder), "mine", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == {"name": "mine", **json.loads((package_root / "index.json").read_text())["mine"]}
    assert celo_zoo.load("mine").digest == answer["digest"]
    for arguments, message in (
        ([str(model_folder), "other", "--not-bundled"], "other would be nowhere"),
        ([str(model_folder), "other", "--published", "owner/repo@main"], "give all 40 digits of the commit"),
    ):
        assert main(["bundle", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert celo_zoo.names() == ["mine"]


def test_another_package_can_be_bundled_into(package_root, model_folder, tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "index.json").write_text("{}")
    entry = bundling.bundle(model_folder, "celo", tmp_path / "source")
    assert json.loads((tmp_path / "source" / "index.json").read_text())["celo"]["digest"] == entry.digest
    assert celo_zoo.names() == []


def test_bundling_refuses_unfit_weights(package_root, model_folder, tmp_path):
    theta, config = celo_zoo.load(model_folder)
    bare = celo_zoo.save(theta, config, tmp_path / "bare", metadata={"command": "x"})
    with pytest.raises(ValueError, match="lacks commit, data, seeds, seconds, hardware"):
        bundling.bundle(bare, "celo")
    (bare / "config.json").write_text("{}")
    with pytest.raises(celo_zoo.ChecksumError):
        bundling.bundle(bare, "celo")
    with pytest.raises(ValueError, match="no name for weights"):
        bundling.bundle(model_folder, "../celo")
    assert celo_zoo.names() == []
    assert not (package_root / "weights").exists()


def test_bundled_weights_must_match_the_index(bundle, model_folder, tmp_path):
    theta, config = celo_zoo.load(model_folder)
    # A whole folder, right in itself, but not the one that the package was made with.
    celo_zoo.save(theta, config, bundle / "weights" / "celo", overwrite=True)
    with pytest.raises(celo_zoo.ChecksumError, match="install it again"):
        celo_zoo.load("celo")


def test_unknown_name_lists_the_names(bundle):
    with pytest.raises(ValueError, match=r"unknown weights 'sgd': give a known name \(celo\)"):
        celo_zoo.load("sgd")


def test_entry_point(bundle):
    (entry,) = importlib.metadata.entry_points(group="celo.optimizers", name="celo")
    tx = entry.load()(20)
    params = np.ones(3, np.float32)
    updates, _ = tx.update(params, tx.init(params), params, value=np.float32(1.5))
    assert updates.shape == (3,)


def test_parse(bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "celo").mkdir()
    (tmp_path / "runs" / "one").mkdir(parents=True)
    assert references.parse("celo") == references.Known("celo")
    assert references.parse("./celo") == references.Folder(pathlib.Path("celo"))
    assert references.parse(pathlib.Path("celo")) == references.Folder(pathlib.Path("celo"))
    assert references.parse("runs/one") == references.Folder(pathlib.Path("runs/one"))
    assert references.parse("runs/two") == references.Hub("runs/two", "main")
    assert references.parse("owner/repo@v1.0") == references.Hub("owner/repo", "v1.0")
    assert references.parse("owner/repo", "refs/pr/1") == references.Hub("owner/repo", "refs/pr/1")
    assert references.parse("owner/repo@v1", "v1") == references.Hub("owner/repo", "v1")


@pytest.mark.parametrize(
    ("ref", "revision", "error", "message"),
    [
        ("", None, ValueError, "unknown weights ''"),
        ("a/b/c", None, ValueError, "unknown weights"),
        ("../x/y", None, FileNotFoundError, "there is no folder"),
        ("/no/such/folder", None, FileNotFoundError, "there is no folder"),
        (pathlib.Path("no/such"), None, FileNotFoundError, "there is no folder"),
        ("owner/re po", None, ValueError, "unknown weights"),
        ("owner/..", None, ValueError, "unknown weights"),
        ("owner/repo@", None, ValueError, "not a revision"),
        ("owner/repo@a..b", None, ValueError, "not a revision"),
        ("owner/repo@/etc", None, ValueError, "not a revision"),
        ("owner/repo", "", ValueError, "not a revision"),
        ("owner/repo@a", "b", ValueError, "two revisions"),
        ("celo", "main", ValueError, "has no revision 'main'"),
    ],
)
def test_unfit_references(ref, revision, error, message, bundle):
    with pytest.raises(error, match=message):
        celo_zoo.load(ref, revision=revision)


def test_index_of_this_package_is_consistent():
    assert {path.name for path in (index.ROOT / "weights").glob("*")} == set(index.names())


def test_weights_entry_point_reads_a_folder(bundle, tmp_path):
    (entry,) = importlib.metadata.entry_points(group="celo.weights", name="folder")
    theta, config = celo_zoo.load("celo")
    celo_zoo.save(theta, config, tmp_path / "mine")
    pretrained = entry.load()(tmp_path / "mine")
    assert pretrained.architecture == get_architecture("celo", config)
    jax.tree.map(np.testing.assert_array_equal, pretrained.theta, theta)
    params = np.ones(3, np.float32)
    updates, _ = pretrained(20).update(params, pretrained(20).init(params), params, value=np.float32(1.5))
    assert updates.shape == (3,)
    again = entry.load()(tmp_path / "mine")
    assert pretrained.fingerprint == again.fingerprint == entry.load()("celo").fingerprint  # of what decides updates
    celo_zoo.save(
        {**theta, "update_rule": jax.tree.map(lambda leaf: 2 * leaf, theta["update_rule"])}, config, tmp_path / "twice"
    )
    assert entry.load()(tmp_path / "twice").fingerprint != pretrained.fingerprint
