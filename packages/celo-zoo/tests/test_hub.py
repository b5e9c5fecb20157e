"""Loading from a Hub: the real client against a server on this machine."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import traceback

import jax
import numpy as np
import pytest
from hub_faults import Call, DropBody, Fault, Slow, Status, WrongContent
from hub_server import HubServer

import celo_zoo
from celo_zoo import bundling, folders, hub, index, schema, tensors

OTHER = "b" * 40
TOKEN = "hf_secret0123456789secret0123456789"


@pytest.fixture
def server(model_folder):
    with HubServer() as server:
        server.create("me/celo")
        server.commit("me/celo", {name: (model_folder / name).read_bytes() for name in os.listdir(model_folder)})
        yield server
        assert server.unknown == []


@pytest.fixture
def options(server, tmp_path):
    return {"endpoint": server.endpoint, "cache_dir": tmp_path / "cache"}


def files_asked(server, method="GET"):
    return sorted(request.path.rsplit("/", 1)[1] for request in server.requests if request.method == method)


ALL = ["README.md", "checksums", "config.json", "model.safetensors"]


def test_load(server, options, model_folder):
    server.commit("me/celo", {"pytorch_model.bin": b"never asked for"})
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


def test_source_names_the_commit(server, options):
    found = celo_zoo.load("me/celo", **options)
    commit = server.head("me/celo")
    assert (found.source, found.commit) == (f"me/celo@{commit}", commit)
    assert found.reference == f"me/celo@{commit}@sha256:{found.digest}"
    server.commit("me/celo", {"config.json": b"{}"})
    assert celo_zoo.load(found.reference, **options).digest == found.digest
    with pytest.raises(celo_zoo.ChecksumError, match=f"has the digest {found.digest}, not {'0' * 64}"):
        celo_zoo.load(f"me/celo@{commit}@sha256:{'0' * 64}", **options)


def test_all_files_are_of_one_commit(server, options, model_folder, tmp_path):
    """The branch moves after the first file was fetched."""
    theta, config = celo_zoo.load(model_folder)
    newer = celo_zoo.save(theta, config, tmp_path / "newer", metadata={"command": "newer"})
    files = {name: (newer / name).read_bytes() for name in os.listdir(newer)}
    move = Call(lambda: server.commit("me/celo", files))
    server.faults.append(Fault(move, "/config.json", "HEAD", times=1))
    assert celo_zoo.info("me/celo", **options) == celo_zoo.info(model_folder)
    assert server.files("me/celo")["README.md"] == files["README.md"]
    assert celo_zoo.info("me/celo", **options)["provenance"] == {"command": "newer"}


def test_offline_after_caching(server, options):
    celo_zoo.load("me/celo", **options)
    server.stop()
    celo_zoo.load(f"me/celo@{server.head('me/celo')}", **options)  # a commit needs no request
    celo_zoo.load("me/celo", revision=server.head("me/celo"), local_files_only=True, **options)
    celo_zoo.load("me/celo", local_files_only=True, **options)  # the branch as last seen
    with pytest.raises(FileNotFoundError, match="not in the cache"):
        celo_zoo.load(f"me/celo@{OTHER}", local_files_only=True, **options)


def test_only_asking_the_cache_makes_no_request(server, options):
    with pytest.raises(FileNotFoundError, match=r"checksums of me/celo@main is not in the cache"):
        celo_zoo.load("me/celo", local_files_only=True, **options)
    assert server.requests == []


@pytest.mark.parametrize("name", ALL)
def test_wrong_content_of_the_right_length_is_refused(name, server, options, monkeypatch):
    server.faults.append(Fault(WrongContent(), f"/{name}$", "GET"))
    parsed = []
    with monkeypatch.context() as patch:
        patch.setattr(tensors, "decode", parsed.append)
        patch.setattr(schema, "decode", lambda *arguments: parsed.append(arguments))
        with pytest.raises(celo_zoo.ChecksumError):
            celo_zoo.load("me/celo", **options)
    assert parsed == []
    # The client has cached the wrong bytes under the right hash. That is got over once the server is right again.
    server.faults.clear()
    celo_zoo.load("me/celo", **options)
    celo_zoo.load("me/celo", local_files_only=True, **options)


def test_damage_is_told_when_the_hub_is_gone(server, options):
    commit = server.head("me/celo")
    server.faults.append(Fault(WrongContent(), "/config.json$", "GET"))
    with pytest.raises(celo_zoo.ChecksumError):
        celo_zoo.load("me/celo", **options)
    server.delete("me/celo")
    for keywords in ({}, {"local_files_only": True}):
        with pytest.raises(celo_zoo.ChecksumError, match=r"config.json does not have the SHA-256"):
            celo_zoo.load(f"me/celo@{commit}", **options, **keywords)


def test_large_file_is_not_downloaded(server, options):
    server.commit("me/celo", {"model.safetensors": bytes(folders.LARGEST["model.safetensors"] + 1)})
    with pytest.raises(ValueError, match=r"model.safetensors has 67,108,865 bytes"):
        celo_zoo.load("me/celo", **options)
    assert "model.safetensors" not in files_asked(server)


@pytest.mark.parametrize(
    ("ref", "error", "message"),
    [
        ("me/nothing", FileNotFoundError, "no such repository on the Hub that you may read"),
        ("me/celo@v9", FileNotFoundError, "me/celo has no revision 'v9'"),
        ("me/other", FileNotFoundError, "there is no checksums of me/other@main"),
        ("me/gated", PermissionError, "me/gated is gated"),
        ("me/broken", ConnectionError, "me/broken"),
        ("me/a..b", ValueError, "no valid name"),
    ],
)
@pytest.mark.parametrize("token", [TOKEN, None])
def test_errors_are_one_sentence_without_the_token(ref, error, message, token, server, options, caplog):
    for name in ("me/other", "me/gated", "me/broken"):
        server.create(name)
    server.gated.add("me/gated")
    server.faults.append(Fault(Status(400), "^/me/broken/"))  # not 500: the client would try that again for a while
    with pytest.raises(error, match=message) as caught:
        celo_zoo.load(ref, token=token, **options)
    text = str(caught.value)
    assert "\n" not in text
    everything = text + "".join(traceback.format_exception(caught.value)) + caplog.text
    everything += repr(caught.value.__context__) + repr(hub.Options(token=token))
    assert TOKEN not in everything
    assert os.environ["HF_TOKEN"] not in everything


@pytest.mark.parametrize("secret", [TOKEN, os.environ["HF_TOKEN"]], ids=["given", "saved"])
def test_an_error_that_quotes_a_token_is_cleaned(secret):
    def fail():
        raise RuntimeError(f"illegal header value\n'Bearer {secret}'")

    with pytest.raises(celo_zoo.HubError) as caught:
        hub.call(fail, "me/celo", hub.Options(token=TOKEN), doing="nothing came")
    assert "nothing came (RuntimeError: illegal header value 'Bearer ***')" in str(caught.value)
    assert secret not in "".join(traceback.format_exception(caught.value)) + repr(caught.value.__context__)


@pytest.mark.parametrize("token", ["", "hf_a\nb", "hf_\u00e9", "two words"])
def test_what_cannot_be_a_token_is_refused_without_showing_it(token, server, options):
    with pytest.raises(ValueError, match="the token is empty or has characters") as caught:
        celo_zoo.load("me/celo", token=token, **options)
    assert not token or token not in str(caught.value)
    assert server.requests == []


def test_where_tokens_go(server, options, tmp_path):
    """A saved login goes to the client's own Hub only; a token that is passed goes where it is told to."""

    def sent():
        found = {request.headers.get("authorization") for request in server.requests}
        server.clear()
        return found

    celo_zoo.load("me/celo", **options)
    assert sent() == {None}
    celo_zoo.load("me/celo", token=TOKEN, **options | {"cache_dir": tmp_path / "second"})
    assert sent() == {f"Bearer {TOKEN}"}
    code = "import sys; from celo_zoo import hub; hub.download(hub.Hub('me/celo', 'main'), hub.Options(cache_dir=sys.argv[1]))"
    environment = os.environ | {"HF_ENDPOINT": server.endpoint}  # which the client reads when it is imported
    subprocess.run([sys.executable, "-c", code, tmp_path / "third"], env=environment, check=True, timeout=120)
    assert sent() == {f"Bearer {os.environ['HF_TOKEN']}"}


def test_forced_download_skips_the_cache(server, options):
    celo_zoo.load("me/celo", **options)
    server.clear()
    hub.download(hub.Hub("me/celo", server.head("me/celo")), hub.Options(**options), force_download=True)
    assert files_asked(server) == ALL


# --- faults of downloading -------------------------------------------------------------------------------------------


def test_body_that_is_dropped(server, options):
    """The client goes on by itself, or the next load does; what is read is whole in the end."""
    server.faults.append(Fault(DropBody(), "/model.safetensors$", "GET", times=1))
    try:
        celo_zoo.load("me/celo", **options)
    except celo_zoo.HubError:  # older clients leave that to the caller
        celo_zoo.load("me/celo", **options)
    assert server.faults[0].fired == 1


@pytest.mark.parametrize(
    ("code", "error"), [(500, celo_zoo.HubError), (401, celo_zoo.AccessError), (403, celo_zoo.AccessError)]
)
def test_download_that_fails(code, error, server, options):
    server.faults.append(Fault(Status(code), "/config.json$", "GET", times=1))
    with pytest.raises(error, match=r"config.json of me/celo@main could not be fetched"):
        celo_zoo.load("me/celo", **options)
    celo_zoo.load("me/celo", **options)


def test_slow_answers(server, options):
    server.faults.append(Fault(Slow(0.2)))
    celo_zoo.load("me/celo", **options)
    assert server.faults[0].fired > 4


def run_python(code, *arguments, **environment):
    """Runs Python with another environment, which the client reads when it is imported; returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_environment_of_the_client(server, tmp_path):
    """HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE are what users of the Hub know."""
    code = (
        "import celo_zoo, sys\n"
        "try:\n    print(celo_zoo.load(sys.argv[1]).folder)\n"
        "except celo_zoo.NotFoundError as error:\n    print(error)\n"
    )
    environment = {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path / "home")}
    assert "HF_HUB_OFFLINE is set: unset it once" in run_python(code, "me/celo", HF_HUB_OFFLINE="1", **environment)
    assert server.requests == []
    folder = run_python(code, "me/celo", **environment)
    assert folder.startswith(str(tmp_path / "home"))
    server.clear()
    assert run_python(code, "me/celo", HF_HUB_OFFLINE="1", **environment) == folder
    assert run_python(code, f"me/celo@{server.head('me/celo')}", HF_HUB_OFFLINE="1", **environment) == folder
    assert server.requests == []


@pytest.mark.slow
def test_example_of_a_published_card_runs(server, model_folder, tmp_path):
    """As it stands, on a machine that has nothing of the repository."""
    theta, config = celo_zoo.load(model_folder)
    folder = celo_zoo.save(theta, config, tmp_path / "model", repository="me/celo")
    server.commit("me/celo", {name: (folder / name).read_bytes() for name in os.listdir(folder)})
    (example,) = re.findall(r"```python\n(.*?)```", server.files("me/celo")["README.md"].decode(), re.DOTALL)
    assert 'celo_zoo.optimizer("me/celo"' in example
    printed = run_python(example, HF_ENDPOINT=server.endpoint, HF_HOME=str(tmp_path / "home"))
    assert re.fullmatch(r"first loss \d+\.\d+, last loss \d+\.\d+\n", printed)


# --- names that are on the Hub ---------------------------------------------------------------------------------------


@pytest.fixture
def listed(server, package_root, model_folder):
    """A package that knows a name, ``far``, of which it has no copy."""
    entry = index.Entry("celo", celo_zoo.load(model_folder).digest, "me/celo", server.head("me/celo"), bundled=False)
    (package_root / "index.json").write_text(json.dumps({"far": dataclasses.asdict(entry)}))
    return entry


def test_a_name_means_the_same_bytes_wherever_the_branch_is(listed, server, options):
    server.commit("me/celo", {"config.json": b"{}"})
    server.clear()
    found = celo_zoo.load("far", **options)
    assert (found.digest, found.commit) == (listed.digest, listed.commit)
    assert found.reference == f"me/celo@{listed.commit}@sha256:{listed.digest}"
    server.stop()
    assert celo_zoo.load("far", **options).digest == listed.digest


def test_a_name_whose_repository_was_rewritten_is_refused(listed, package_root, options):
    other = dataclasses.replace(listed, digest="0" * 64)
    (package_root / "index.json").write_text(json.dumps({"far": dataclasses.asdict(other)}))
    with pytest.raises(celo_zoo.ChecksumError, match=f"has the digest {listed.digest}, not {'0' * 64}"):
        celo_zoo.load("far", **options)
    with pytest.raises(celo_zoo.ChecksumError, match="in this version of celo-zoo"):
        celo_zoo.load(f"far@sha256:{'1' * 64}", **options)


def test_bundled_weights_serve_without_a_request(bundle, server):
    entry = dataclasses.asdict(index.entries()["celo"]) | {"repository": "me/celo", "commit": server.head("me/celo")}
    (bundle / "index.json").write_text(json.dumps({"celo": entry}))
    assert celo_zoo.load("celo").digest == entry["digest"]
    assert celo_zoo.load(f"celo@sha256:{entry['digest']}", local_files_only=True).source == "celo"
    assert server.requests == []


def test_listing_what_is_published(package_root, server, options, model_folder, tmp_path):
    """Bundling by reference downloads what it lists."""
    published = f"me/celo@{server.head('me/celo')}"
    entry = bundling.bundle(model_folder, "near", package_root, published=published, **options)
    assert entry == index.Entry("celo", celo_zoo.load(model_folder).digest, *published.split("@"), bundled=True)
    far = bundling.bundle(published, "far", package_root, published=published, bundled=False, **options)
    assert far == dataclasses.replace(entry, bundled=False)
    assert index.entries() == {"far": far, "near": entry}
    assert [path.name for path in (package_root / "weights").iterdir()] == ["near"]
    assert celo_zoo.load("far", **options).digest == celo_zoo.load("near").digest

    server.commit("me/celo", {"README.md": b"other"})
    other = f"me/celo@{server.head('me/celo')}"
    for weights, published, bundled, error in (
        (model_folder, other, True, celo_zoo.ChecksumError),
        (model_folder, "me/celo@main", True, ValueError),
        (model_folder, None, False, ValueError),
    ):
        with pytest.raises(error):
            bundling.bundle(weights, "more", package_root, published=published, bundled=bundled, **options)
    assert celo_zoo.names() == ["far", "near"]
