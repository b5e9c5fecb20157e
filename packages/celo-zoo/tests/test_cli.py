"""The command line, on folders and against a server on this machine."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import pytest
from flax import serialization
from hub_faults import Fault, Status
from hub_server import HubServer
from test_convert import tree_of
from test_evaluation import REPORT
from test_runs import run as run  # a fixture

import celo_zoo
from celo_zoo.cli import main

TOKEN = "hf_secret0123456789secret0123456789"

SUMMARY = {"source", "commit", "digest", "reference", "folder", "architecture", "values"}


@pytest.fixture
def hub(monkeypatch):
    """A server, and the options that lead to it."""
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    with HubServer() as server:
        server.tokens = {TOKEN: "write"}
        yield server, ["--endpoint", server.endpoint, "--token-env", "MY_TOKEN"]
        assert server.unknown == []


def answer(capsys, *arguments):
    """What a command prints as JSON."""
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refusal(capsys, *arguments):
    """The sentence that a command ends with."""
    assert main([*map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    line = captured.err.splitlines()[-1]
    assert line.startswith("celo-zoo: ")
    return line


def test_show(model_folder, capsys):
    assert main(["show", str(model_folder)]) == 0
    text = capsys.readouterr().out
    assert "architecture: celo, 35,803 values" in text
    assert "  hardware: 2 x cpu" in text
    shown = answer(capsys, "show", model_folder)
    assert shown.items() >= celo_zoo.info(model_folder).items()
    assert shown["source"] == str(model_folder)


def test_verify(model_folder, tmp_path, capsys):
    assert main(["verify", str(model_folder)]) == 0
    first, reference = capsys.readouterr().out.splitlines()
    assert first == f"{model_folder}: every file is as in its checksums, and 35,803 finite values fit the config"
    assert answer(capsys, "verify", reference).keys() == SUMMARY
    shutil.copytree(model_folder, tmp_path / "copy")
    with open(tmp_path / "copy" / "config.json", "ab") as file:
        file.write(b" ")
    assert "config.json does not have the SHA-256" in refusal(capsys, "verify", tmp_path / "copy")
    assert "as expected" in refusal(capsys, "verify", f"{model_folder}@sha256:{'0' * 64}")


def test_convert(tmp_path, capsys):
    path, out = tmp_path / "theta.state", tmp_path / "out"
    path.write_bytes(serialization.msgpack_serialize(tree_of("celo_adam")))
    arguments = ["convert", str(path), "--out", str(out)]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{out}\n"
    assert "rnn_params | linear" in captured.err
    assert celo_zoo.info(out)["architecture"] == "celo_adam"
    assert "exists" in refusal(capsys, *arguments)
    assert answer(capsys, *arguments, "--overwrite", "--note", "An experiment.")["architecture"] == "celo_adam"
    assert celo_zoo.info(out)["provenance"]["notes"] == ["An experiment."]
    wrong = ["convert", str(path), "--architecture", "celo", "--out", str(tmp_path / "wrong")]
    assert "holds weights of 'celo_adam'" in refusal(capsys, *wrong)
    assert not (tmp_path / "wrong").exists()


def test_convert_a_run(run, tmp_path, capsys):
    folder, _ = run
    converted = answer(capsys, "convert", folder, "--out", tmp_path / "out", "--repository", "me/celo")
    assert converted["folder"] == str(tmp_path / "out")
    assert celo_zoo.info(tmp_path / "out")["repository"] == "me/celo"


def test_list(bundle, capsys):
    digest = hashlib.sha256((bundle / "weights/celo/checksums").read_bytes()).hexdigest()
    known = {"architecture": "celo", "digest": digest, "repository": None, "commit": None, "bundled": True}
    assert answer(capsys, "list") == [{"name": "celo", **known}]
    assert main(["list"]) == 0
    assert capsys.readouterr().out == f"celo  celo  in the package  sha256:{digest}\n"


def test_empty_list(package_root, capsys):
    assert answer(capsys, "list") == []
    assert main(["list"]) == 0
    assert capsys.readouterr().out == ""


def test_publish_fetch_verify(hub, model_folder, tmp_path, capsys):
    server, options = hub
    planned = answer(capsys, "publish", model_folder, "me/celo", "--dry-run", *options)
    assert server.snapshot() == {}
    assert planned["commit"] is None and len(planned["changes"]) == 4
    assert main(["publish", str(model_folder), "me/celo", *options]) == 0
    captured = capsys.readouterr()
    reference = captured.out.splitlines()[-1]
    assert reference == f"me/celo@{server.head('me/celo')}@sha256:{planned['digest']}"
    assert [line.split()[0] for line in captured.out.splitlines()[1:5]] == ["added"] * 4
    assert captured.err.splitlines()[-1] == "celo-zoo: tagging it v1"

    cache = ["--cache-dir", tmp_path / "cache"]
    fetched = answer(capsys, "fetch", "me/celo@v1", "--out", tmp_path / "mine", *cache, *options)
    assert fetched["reference"] == reference and fetched["folder"] == str(tmp_path / "mine")
    assert sorted(os.listdir(tmp_path / "mine")) == ["README.md", "checksums", "config.json", "model.safetensors"]
    assert "exists" in refusal(capsys, "fetch", "me/celo", "--out", tmp_path / "mine", *cache, *options)
    cached = answer(capsys, "fetch", reference, *cache, *options)["folder"]
    assert cached.startswith(str(tmp_path / "cache"))
    assert answer(capsys, "verify", reference, "--offline", *cache)["reference"] == reference

    # Somebody alters the weights and makes the checksums fit.
    theta, config = celo_zoo.load(model_folder)
    altered = celo_zoo.save(theta, config, tmp_path / "altered", metadata={"command": "nothing to see here"})
    server.commit("me/celo", {name: (altered / name).read_bytes() for name in os.listdir(altered)})
    server.tag("me/celo", "v2")
    assert f"not {planned['digest']} as expected" in refusal(
        capsys, "verify", f"me/celo@v2@sha256:{planned['digest']}", *cache, *options
    )
    assert answer(capsys, "verify", reference, *cache, *options)["reference"] == reference


def test_publish_with_results_and_notes(hub, run, tmp_path, capsys):
    server, options = hub
    folder, _ = run
    (tmp_path / "card.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    publish = ["publish", folder, "me/celo", *options]
    results = ["--results", REPORT]
    answer(capsys, *publish, *results, "--license", "mit", "--note", "Small.", "--tag", "first", "--message", "Hello")
    card = server.files("me/celo")["README.md"].decode()
    assert "license: mit" in card and "- Small." in card and "model-index" in card
    assert server.tags("me/celo").keys() == {"first"}
    assert server.history("me/celo")[0].title == "Hello"
    answer(capsys, *publish, "--card", tmp_path / "card.md")
    assert server.files("me/celo")["README.md"].decode().endswith("# Mine\n")
    assert "no file" in refusal(capsys, *publish, "--card", tmp_path / "nothing.md")
    assert "cannot be read (Is a directory)" in refusal(capsys, *publish, "--card", tmp_path)
    assert "no file" in refusal(capsys, *publish, "--results", tmp_path / "nothing.json")
    assert "has no results of 'sgd'" in refusal(capsys, *publish, *results, "--results-name", "sgd")


def test_failed_publication(hub, model_folder, capsys):
    server, options = hub
    server.faults.append(Fault(Status(403), "/commit/"))
    line = refusal(capsys, "publish", model_folder, "me/celo", *options)
    assert line.startswith("celo-zoo: me/celo was not changed: the token may not do that")
    assert server.snapshot() == {}
    assert TOKEN not in line


def test_empty_token_variable(model_folder, capsys, monkeypatch):
    monkeypatch.delenv("NO_TOKEN", raising=False)
    line = refusal(capsys, "publish", model_folder, "me/celo", "--token-env", "NO_TOKEN")
    assert "the environment variable NO_TOKEN is empty" in line


def test_command_turns_xet_off_for_another_hub(hub, model_folder, tmp_path):
    """In a fresh process, where the client has not read its environment yet; and the token is in no output."""
    server, options = hub
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_DISABLE_XET"}
    command = [sys.executable, "-m", "celo_zoo.cli", "publish", str(model_folder), "me/celo", *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert server.tags("me/celo").keys() == {"v1"}
    assert TOKEN not in done.stdout + done.stderr


def test_mistakes_end_with_2(package_root, capsys):
    assert "unknown weights 'nothing'" in refusal(capsys, "show", "nothing")
    for arguments in ([], ["show"], ["fly"], ["convert", "x"], ["publish", "x"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2


COMMANDS = ["list", "show", "fetch", "verify", "publish", "convert", "bundle"]


@pytest.mark.parametrize("columns", ["80", "300"])
@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help(command, columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(" ".join(["usage: celo-zoo", *command])) and "--json" in text
    assert max(map(len, text.splitlines())) <= 100


def test_what_needs_no_weights_imports_no_jax():
    """In a fresh process; how long it takes depends on the machine, and on this."""
    code = (
        "import sys\n"
        "from celo_zoo.cli import main\n"
        "for arguments in (['--help'], ['--version'], ['list'], ['verify', '--help'], [], ['verfy'], ['list', '--jsn']):\n"
        "    try:\n        main(arguments)\n    except SystemExit:\n        pass\n"
        "    assert not {'jax', 'numpy', 'huggingface_hub'} & sys.modules.keys(), arguments\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "sha256:" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ("verfy celo", "did you mean verify?"),
        ("verify celo --tokn-env X", "did you mean --token-env?"),
        ("publish x me/x --dry-rn=1", "did you mean --dry-run?"),
        ("convert x --ot y", "did you mean --out?"),  # what is missing is found first, and hides the option
        ("--verison", "did you mean --version?"),
        ("convert x --out y --architecture cello", "did you mean celo?"),
        ("verify celo --nothing-like-it", None),
        ("quaff celo", None),
        ("verify celo -- --tokn-env", None),  # no option, behind the two dashes
    ],
)
def test_hints(arguments, hint, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments.split())
    assert caught.value.code == 2
    captured = capsys.readouterr()
    last = captured.err.splitlines()[-1]
    assert last.endswith(hint) if hint else "did you mean" not in last
    assert captured.out == ""
    usage = "usage: celo-zoo " + (arguments.split()[0] if arguments.split()[0] in COMMANDS else "[")
    assert captured.err.startswith(usage)


def test_hints_at_names_of_weights(bundle, capsys):
    assert "unknown weights 'cello': did you mean 'celo'?" in refusal(capsys, "show", "cello")
    assert "did you mean" not in refusal(capsys, "show", "adamw")


# --- the end of its output -------------------------------------------------------------------------------------------


def run_into(output, *arguments, buffered=True):
    """Exit status, and what comes on standard error, of a command whose standard output is ``output``."""
    environment = os.environ | {"PYTHONUNBUFFERED": "" if buffered else "1"}
    command = [sys.executable, "-m", "celo_zoo.cli", *arguments]
    done = subprocess.run(command, env=environment, stdout=output, stderr=subprocess.PIPE, text=True, timeout=120)
    return done.returncode, done.stderr


@pytest.fixture
def closed_pipe():
    """The end to write to of a pipe that nobody reads any more, as of ``| head -1`` once it has its line."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("arguments", [["list"], ["list", "--json"], ["--help"]])
def test_closed_pipe_ends_quietly(arguments, buffered, closed_pipe):
    assert run_into(closed_pipe, *arguments, buffered=buffered) == (141, "")


def test_closed_pipe_for_errors_too(closed_pipe):
    command = [sys.executable, "-m", "celo_zoo.cli", "show", "nothing"]
    assert subprocess.run(command, stdout=closed_pipe, stderr=closed_pipe, timeout=120).returncode == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no disk that is always full")
@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("arguments", [["list"], ["--help"]])
def test_full_disk_is_an_error_of_the_output(arguments, buffered):
    with open("/dev/full", "w") as full:
        status, text = run_into(full, *arguments, buffered=buffered)
    assert status == 2
    assert text.startswith("celo-zoo: the output could not be written (No space left on device)")
    assert text.count("\n") == 1


def test_letters_that_the_terminal_does_not_have(model_folder, tmp_path):
    theta, config = celo_zoo.load(model_folder)
    folder = celo_zoo.save(theta, config, tmp_path / "model", metadata={"command": "caf\u00e9"})
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "celo_zoo.cli", "show", str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "  command: caf\\xe9\n" in done.stdout
