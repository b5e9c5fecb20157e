"""The command line."""

import json

import pytest
from flax import serialization
from test_published import tree_of

import celo_zoo
from celo_zoo.cli import main


def test_show(model_folder, capsys):
    assert main(["show", str(model_folder)]) == 0
    text = capsys.readouterr().out
    assert "architecture: celo, 35,803 values" in text
    assert "  hardware: 2 x cpu" in text
    assert main(["show", str(model_folder), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown.items() >= celo_zoo.info(model_folder).items()
    assert shown["source"] == str(model_folder)


def test_verify(model_folder, tmp_path, capsys):
    assert main(["verify", str(model_folder)]) == 0
    assert "all files as in checksums" in capsys.readouterr().out
    (tmp_path / "copy").mkdir()
    for path in model_folder.iterdir():
        (tmp_path / "copy" / path.name).write_bytes(path.read_bytes())
    with open(tmp_path / "copy" / "config.json", "ab") as file:
        file.write(b" ")
    assert main(["verify", str(tmp_path / "copy")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("celo-zoo: ") and captured.err.count("\n") == 1
    assert "config.json does not have the SHA-256" in captured.err


def test_convert(tmp_path, capsys):
    path, out = tmp_path / "theta.state", tmp_path / "out"
    path.write_bytes(serialization.msgpack_serialize(tree_of("celo_adam")))
    arguments = ["convert", str(path), "--architecture", "celo_adam", "--out", str(out)]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{out}\n"
    assert "rnn_params | linear" in captured.err
    assert celo_zoo.info(out)["architecture"] == "celo_adam"
    assert main(arguments) == 2
    assert "exists" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0
    assert main(["convert", str(path), "--out", str(tmp_path / "wrong")]) == 2
    assert "holds weights of 'celo_adam'" in capsys.readouterr().err
    assert not (tmp_path / "wrong").exists()


def test_empty_list(package_root, capsys):
    assert main(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main(["list"]) == 0
    assert capsys.readouterr().out == ""


def test_list(bundle, capsys):
    assert main(["list", "--json"]) == 0
    checksum = json.loads((bundle / "index.json").read_text())["celo"]
    assert json.loads(capsys.readouterr().out) == [
        {"name": "celo", "architecture": "celo", "values": 35803, "checksum": checksum}
    ]
    assert main(["list"]) == 0
    assert capsys.readouterr().out == "celo  celo, 35,803 values\n"


def test_mistakes_end_with_2(package_root, capsys):
    assert main(["show", "nothing"]) == 2
    assert capsys.readouterr().err.startswith("celo-zoo: unknown weights 'nothing'")
    for arguments in ([], ["show"], ["fly"], ["convert", "x"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2


@pytest.mark.parametrize("command", ["list", "show", "verify", "convert"])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert "usage: celo-zoo" in capsys.readouterr().out
