"""Loading from a Hub: the real client against a server on this machine."""

import os
import subprocess
import sys
import traceback

import jax
import numpy as np
import pytest
from hub_server import HubServer

import celo_zoo
from celo_zoo import folders, hub, models

COMMIT = "a" * 40
OTHER = "b" * 40
TOKEN = "hf_secret0123456789secret0123456789"


@pytest.fixture
def server(model_folder):
    server = HubServer()
    files = {name: (model_folder / name).read_bytes() for name in os.listdir(model_folder)}
    server.repositories["me/celo"] = {COMMIT: files}
    server.branches["main"] = COMMIT
    yield server
    server.stop()


@pytest.fixture
def options(server, tmp_path):
    return {"endpoint": server.endpoint, "cache_dir": tmp_path / "cache"}


def files_asked(server, method="GET"):
    return sorted(path.rsplit("/", 1)[1] for kind, path, _ in server.requests if kind == method)


ALL = ["README.md", "checksums", "config.json", "model.safetensors"]


def test_load(server, options, model_folder):
    server.repositories["me/celo"][COMMIT]["pytorch_model.bin"] = b"never asked for"
    theta, config = celo_zoo.load("me/celo", **options)
    expected, expected_config = celo_zoo.load(model_folder)
    assert config == expected_config
    for left, right in zip(jax.tree.leaves(theta), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(left, right)
    assert files_asked(server) == ALL
    assert celo_zoo.info("me/celo", **options) == celo_zoo.info(model_folder)
    assert files_asked(server) == ALL  # the second time they came from the cache
    tx = celo_zoo.optimizer("me/celo", 10, **options)
    assert jax.eval_shape(tx.init, np.zeros(3, np.float32)) is not None


def test_source_names_the_commit(options):
    model = models.load_model("me/celo", models.Source(**options))
    assert model.source == f"me/celo@{COMMIT}"


def test_all_files_are_of_one_commit(server, options, model_folder, tmp_path):
    """The branch moves after the first file was fetched."""
    theta, config = celo_zoo.load(model_folder)
    newer = celo_zoo.save(theta, config, tmp_path / "newer", metadata={"command": "newer"})
    files = {name: (newer / name).read_bytes() for name in os.listdir(newer)}
    answer = server.repositories["me/celo"]

    class Moving(dict):
        def get(self, file, default=None):
            if file == "checksums" and sum(kind == "GET" for kind, _, _ in server.requests):
                server.branches["main"] = OTHER
            return super().get(file, default)

    answer[COMMIT] = Moving(answer[COMMIT])
    answer[OTHER] = files
    assert celo_zoo.info("me/celo", **options) == celo_zoo.info(model_folder)
    assert server.branches["main"] == OTHER
    assert celo_zoo.info("me/celo", **options)["provenance"] == {"command": "newer"}


def test_offline_after_caching(server, options):
    celo_zoo.load("me/celo", **options)
    server.stop()
    celo_zoo.load(f"me/celo@{COMMIT}", **options)  # a commit needs no request
    celo_zoo.load("me/celo", revision=COMMIT, local_files_only=True, **options)
    celo_zoo.load("me/celo", local_files_only=True, **options)  # the branch as last seen
    with pytest.raises(FileNotFoundError, match="not in the cache"):
        celo_zoo.load(f"me/celo@{OTHER}", local_files_only=True, **options)
    server.__init__()  # so that the fixture has something to stop


def test_only_asking_the_cache_makes_no_request(server, options):
    with pytest.raises(FileNotFoundError, match=r"checksums of me/celo@main is not in the cache"):
        celo_zoo.load("me/celo", local_files_only=True, **options)
    assert server.requests == []


@pytest.mark.parametrize("name", ALL)
def test_wrong_content_of_the_right_length_is_refused(name, server, options, monkeypatch):
    content = server.repositories["me/celo"][COMMIT][name]
    server.wrong[name] = content[:-2] + bytes([content[-2] ^ 1]) + content[-1:]
    parsed = []
    with monkeypatch.context() as patch:
        patch.setattr(models.tensors, "decode", parsed.append)
        patch.setattr(models, "_parse_config", lambda *arguments: parsed.append(arguments))
        with pytest.raises(celo_zoo.ChecksumError):
            celo_zoo.load("me/celo", **options)
    assert parsed == []
    # The client has cached the wrong bytes under the right hash. That is got over once the server is right again.
    server.wrong.clear()
    celo_zoo.load("me/celo", **options)
    celo_zoo.load("me/celo", local_files_only=True, **options)


def test_damage_is_told_when_the_hub_is_gone(server, options):
    server.wrong["config.json"] = bytes(len(server.repositories["me/celo"][COMMIT]["config.json"]))
    with pytest.raises(celo_zoo.ChecksumError):
        celo_zoo.load("me/celo", **options)
    server.repositories.clear()
    for keywords in ({}, {"local_files_only": True}):
        with pytest.raises(celo_zoo.ChecksumError, match=r"config.json does not have the SHA-256"):
            celo_zoo.load(f"me/celo@{COMMIT}", **options, **keywords)


def test_large_file_is_not_downloaded(server, options):
    server.announced_size["model.safetensors"] = folders.LARGEST["model.safetensors"] + 1
    with pytest.raises(ValueError, match=r"model.safetensors has 67,108,865 bytes"):
        celo_zoo.load("me/celo", **options)
    assert "model.safetensors" not in files_asked(server)


@pytest.mark.parametrize(
    ("ref", "error", "message"),
    [
        ("me/nothing", FileNotFoundError, "no such repository on the Hub that you may read"),
        ("me/celo@v9", FileNotFoundError, "me/celo has no revision 'v9'"),
        ("me/other", FileNotFoundError, "has no file checksums"),
        ("me/gated", PermissionError, "me/gated is gated"),
        ("me/broken", ConnectionError, "me/broken"),
        ("me/a..b", ValueError, "no valid name"),
    ],
)
@pytest.mark.parametrize("token", [TOKEN, None])
def test_errors_are_one_sentence_without_the_token(ref, error, message, token, server, options, caplog):
    server.repositories |= {"me/other": {COMMIT: {"model.bin": b"x"}}, "me/gated": "gated", "me/broken": "broken"}
    with pytest.raises(error, match=message) as caught:
        celo_zoo.load(ref, token=token, **options)
    text = str(caught.value)
    assert "\n" not in text
    everything = text + "".join(traceback.format_exception(caught.value)) + caplog.text
    everything += repr(caught.value.__context__) + repr(models.Source(token=token))
    assert TOKEN not in everything
    assert os.environ["HF_TOKEN"] not in everything


def test_an_error_that_quotes_the_token_is_cleaned(options, monkeypatch):
    import huggingface_hub

    def fail(*arguments, **keywords):
        raise RuntimeError(f"illegal header value\n'Bearer {keywords['token']}'")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(ConnectionError) as caught:
        celo_zoo.load("me/celo", token=TOKEN, **options)
    assert "illegal header value 'Bearer ***'" in str(caught.value)
    assert TOKEN not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("token", ["", "hf_a\nb", "hf_\u00e9", "two words"])
def test_what_cannot_be_a_token_is_refused_without_showing_it(token, server, options):
    with pytest.raises(ValueError, match="the token is empty or has characters") as caught:
        celo_zoo.load("me/celo", token=token, **options)
    assert not token or token not in str(caught.value)
    assert server.requests == []


def test_where_tokens_go(server, options, tmp_path):
    """A saved login goes to the client's own Hub only; a token that is passed goes where it is told to."""

    def sent():
        found = {headers.get("Authorization", headers.get("authorization")) for _, _, headers in server.requests}
        server.requests.clear()
        return found

    celo_zoo.load("me/celo", **options)
    assert sent() == {None}
    celo_zoo.load("me/celo", token=TOKEN, **options | {"cache_dir": tmp_path / "second"})
    assert sent() == {f"Bearer {TOKEN}"}
    code = "import sys; from celo_zoo import hub; hub.fetch(hub.Hub('me/celo', 'main'), cache_dir=sys.argv[1])"
    environment = os.environ | {"HF_ENDPOINT": server.endpoint}  # which the client reads when it is imported
    subprocess.run([sys.executable, "-c", code, tmp_path / "third"], env=environment, check=True, timeout=120)
    assert sent() == {f"Bearer {os.environ['HF_TOKEN']}"}


def test_forced_download_skips_the_cache(server, options):
    celo_zoo.load("me/celo", **options)
    server.requests.clear()
    hub.fetch(hub.Hub("me/celo", COMMIT), force_download=True, **options)
    assert files_asked(server) == ALL
