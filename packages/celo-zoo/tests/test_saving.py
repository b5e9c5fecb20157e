"""Writing weights: what is refused, and that a folder appears whole or not at all."""

import dataclasses
import os

import pytest
from conftest import PROVENANCE
from test_models import copy_of

import celo_zoo
from celo_core import Celo, CeloConfig
from celo_core.directions import MLP
from celo_zoo import folders, models


def test_save_refuses_what_does_not_belong_together(model_folder, tmp_path):
    theta, config = celo_zoo.load(model_folder)
    with pytest.raises(ValueError, match="lacks update_rule"):
        celo_zoo.save({"scheduler": theta["scheduler"]}, config, tmp_path / "model")
    with pytest.raises(ValueError, match="no architecture has a config of type dict"):
        celo_zoo.save(theta, {"hidden_sizes": [4, 4]}, tmp_path / "model")
    with pytest.raises(ValueError, match="not JSON"):
        celo_zoo.save(theta, config, tmp_path / "model", metadata={"loss": float("nan")})
    with pytest.raises(ValueError, match="not JSON"):
        celo_zoo.save(theta, config, tmp_path / "model", metadata={"when": object()})
    with pytest.raises(celo_zoo.FormatError, match="metadata have 1,0"):
        celo_zoo.save(theta, config, tmp_path / "model", metadata={"log": "x" * 2**20})
    with pytest.raises(celo_zoo.FormatError, match="theta"):
        celo_zoo.save(theta | {"scheduler": "none"}, config, tmp_path / "model")
    with pytest.raises(celo_zoo.RefError, match="no name of a repository"):
        celo_zoo.save(theta, config, tmp_path / "model", repository="celo")
    assert os.listdir(tmp_path) == []


@pytest.fixture(params=["third file", "read back", "first rename", "keyboard"])
def failing(request, monkeypatch):
    """Something breaks in the middle of a save."""
    if request.param == "read back":
        honest = models.read_folder
        monkeypatch.setattr(
            models,
            "read_folder",
            lambda *a, **k: dataclasses.replace(
                honest(*a, **k), architecture=Celo(CeloConfig(directions=(MLP(hidden_sizes=()),)))
            ),
        )
        return celo_zoo.WriteError
    error = KeyboardInterrupt if request.param == "keyboard" else OSError
    calls = []

    def fail(*arguments):
        calls.append(arguments)
        if request.param == "first rename" or len(calls) == 3:
            raise error("no space left on device")

    monkeypatch.setattr(folders.os, "rename" if request.param == "first rename" else "fsync", fail)
    return KeyboardInterrupt if request.param == "keyboard" else celo_zoo.WriteError


@pytest.mark.parametrize("exists", [False, True])
def test_failed_save_leaves_nothing(exists, failing, model_folder, tmp_path):
    theta, config = celo_zoo.load(model_folder).theta, CeloConfig()
    target = tmp_path / "model"
    if exists:
        copy_of(model_folder, target)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(failing):
        celo_zoo.save(theta, config, target, metadata={"command": "another"}, overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert os.listdir(tmp_path) == (["model"] if exists else [])


def test_failure_of_the_second_rename_puts_the_old_folder_back(model_folder, tmp_path, monkeypatch):
    theta, config = celo_zoo.load(model_folder)
    target = copy_of(model_folder, tmp_path / "model")
    rename, calls = os.rename, []

    def fail_once(source, destination):
        calls.append(destination)
        if len(calls) == 2:
            raise OSError("disk on fire")
        rename(source, destination)

    monkeypatch.setattr(folders.os, "rename", fail_once)
    with pytest.raises(OSError, match="disk on fire"):
        celo_zoo.save(theta, config, target, metadata={"command": "another"}, overwrite=True)
    assert len(calls) == 3
    assert os.listdir(tmp_path) == ["model"]
    assert celo_zoo.info(target)["provenance"] == PROVENANCE


def test_overwrite(model_folder, tmp_path):
    theta, config = celo_zoo.load(model_folder)
    target = celo_zoo.save(theta, config, tmp_path / "model")
    with pytest.raises(FileExistsError, match="exists: choose another folder"):
        celo_zoo.save(theta, config, target, metadata={"command": "two"})
    assert celo_zoo.info(target)["provenance"] == {}
    celo_zoo.save(theta, config, target, metadata={"command": "two"}, overwrite=True)
    assert celo_zoo.info(target)["provenance"] == {"command": "two"}
    assert os.listdir(tmp_path) == ["model"]


def test_overwrite_spares_other_folders_and_files(model_folder, tmp_path):
    theta, config = celo_zoo.load(model_folder)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    (tmp_path / "note").write_text("a file")
    with pytest.raises(FileExistsError, match=r"holds other files, such as 'chapter1.tex'"):
        celo_zoo.save(theta, config, tmp_path / "thesis", overwrite=True)
    with pytest.raises(FileExistsError, match="is not a folder"):
        celo_zoo.save(theta, config, tmp_path / "note", overwrite=True)
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "years of work"
    assert (tmp_path / "note").read_text() == "a file"


def test_overwrite_through_a_link(model_folder, tmp_path):
    theta, config = celo_zoo.load(model_folder)
    target = celo_zoo.save(theta, config, tmp_path / "model")
    (tmp_path / "link").symlink_to(target)
    celo_zoo.save(theta, config, tmp_path / "link", metadata={"command": "two"}, overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert celo_zoo.info(target)["provenance"] == {"command": "two"}
