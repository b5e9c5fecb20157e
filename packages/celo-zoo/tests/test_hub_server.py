"""The server that stands for the Hub in tests, as the Hub's own client sees it."""

import hashlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings

import huggingface_hub
import pytest
from hub_faults import Call, Drop, DropBody, Fault, LostAnswer, Slow, Status, WrongContent
from hub_server import HubServer
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, constants, errors

CARD = b"---\nlicense: apache-2.0\ntags: [celo]\n---\n# A card\n"
FILES = {"README.md": CARD, "model.safetensors": bytes(range(256)) * 40, "results/small.json": b'{"loss": 1}\n'}


@pytest.fixture
def server():
    with HubServer() as server:
        yield server
        assert server.unknown == []


@pytest.fixture
def api(server):
    return huggingface_hub.HfApi(endpoint=server.endpoint, token="hf_writer")


@pytest.fixture
def get(server, tmp_path):
    def get(file, **options):
        options = {"cache_dir": tmp_path / "cache", "endpoint": server.endpoint, "token": False} | options
        with open(huggingface_hub.hf_hub_download("me/celo", file, **options), "rb") as opened:
            return opened.read()

    return get


def commit(api, files=FILES, delete=(), **options):
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    operations += [CommitOperationDelete(path) for path in delete]
    # Version 1.0 of the client holds the address of the commit against this setting instead of its own endpoint.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", api.endpoint)
        return api.create_commit("me/celo", operations, commit_message="Upload", **options)


def connect(server):
    return socket.create_connection(("127.0.0.1", int(server.endpoint.rsplit(":", 1)[1])))


def asked(server, method):
    return [request.path for request in server.requests if request.method == method]


def post(server, path, body, kind="application/json"):
    request = urllib.request.Request(server.endpoint + path, body, {"Content-Type": kind})
    return urllib.request.urlopen(request)


@pytest.mark.parametrize("lfs", [True, False])
def test_publish_and_read_back(lfs, server, api, get):
    server.lfs = lfs
    api.create_repo("me/celo", private=True)
    first = server.head("me/celo")
    oid = commit(api, parent_commit=first).oid
    assert [entry.oid for entry in server.history("me/celo")] == [oid, first]
    assert list(server.files("me/celo", first)) == [".gitattributes"]
    assert {path: get(path) for path in FILES} == FILES
    assert len(asked(server, "PUT")) == lfs
    api.create_tag("me/celo", tag="v1", revision=oid)
    assert server.tags("me/celo") == {"v1": oid}
    assert get("README.md", revision="v1") == CARD
    info = api.model_info("me/celo", revision="v1", files_metadata=True)
    assert (info.sha, info.private, info.tags) == (oid, True, ["celo"])
    sibling = next(file for file in info.siblings if file.rfilename == "model.safetensors")
    listed = {entry.path: entry for entry in api.list_repo_tree("me/celo", recursive=True)}
    assert set(listed) == {*FILES, ".gitattributes", "results"}
    assert [entry.path for entry in api.list_repo_tree("me/celo", "results")] == ["results/small.json"]
    (weights,) = api.get_paths_info("me/celo", ["model.safetensors", "missing"])
    assert weights == listed["model.safetensors"]
    assert (weights.size, weights.blob_id) == (sibling.size, sibling.blob_id) and sibling.size == 256 * 40
    assert (weights.lfs and weights.lfs.sha256) == (
        hashlib.sha256(FILES["model.safetensors"]).hexdigest() if lfs else None
    )
    assert listed["README.md"].blob_id == hashlib.sha1(b"blob %d\0" % len(CARD) + CARD).hexdigest()
    refs = api.list_repo_refs("me/celo")
    assert [(ref.name, ref.target_commit) for ref in refs.branches + refs.tags] == [("main", oid), ("v1", oid)]
    assert [entry.commit_id for entry in api.list_repo_commits("me/celo")] == [oid, first]


def test_what_is_there_already(server, api):
    api.create_repo("me/celo")
    with pytest.raises(errors.HfHubHTTPError, match="409.*\n.*\n\nYou already created"):
        api.create_repo("me/celo")
    assert api.create_repo("me/celo", exist_ok=True).repo_id == "me/celo"
    oid = commit(api).oid
    server.clear()
    assert commit(api).oid == oid == server.head("me/celo")
    assert commit(api, {"renamed.safetensors": FILES["model.safetensors"]}).oid != oid
    assert asked(server, "PUT") == []
    api.create_tag("me/celo", tag="v1", revision=oid)
    with pytest.raises(errors.HfHubHTTPError, match="409.*\n.*\n\nTag reference exists already"):
        api.create_tag("me/celo", tag="v1")
    assert server.tags("me/celo") == {"v1": oid}
    api.delete_tag("me/celo", tag="v1")
    commit(api, {}, delete=["results/"])
    assert "results/small.json" not in server.files("me/celo")
    api.delete_repo("me/celo")
    assert server.snapshot() == {}
    api.delete_repo("me/celo", missing_ok=True)


def test_stale_parent(server, api):
    first = server.create("me/celo")
    server.faults.append(Fault(Call(lambda: server.commit("me/celo", {"other": b"1"})), "/commit/", times=1))
    with pytest.raises(errors.HfHubHTTPError, match="A commit has happened since"):
        commit(api, parent_commit=first)
    assert set(server.files("me/celo")) == {".gitattributes", "other"}


def test_card_is_validated(server, api):
    server.create("me/celo")
    for card in (b"---\nlicense: [\n---\n", b"---\n- a list\n---\n"):
        with pytest.raises(ValueError, match=r"Invalid metadata in README\.md"):
            commit(api, {"README.md": card})
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        commit(api, {"README.md": b"# No block\n"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        commit(api, {"README.md": CARD})


def test_tokens(server, api, get):
    server.create("me/celo")
    server.create("me/hidden", private=True)
    before = server.snapshot()
    server.tokens |= {"hf_writer": "write", "hf_reader": "read"}
    for token, status in ((False, 401), ("hf_nobody", 401), ("hf_reader", 403)):
        for write in (
            lambda token: api.create_repo("me/new", token=token),
            lambda token: commit(api, {"file": b""}, token=token),
            lambda token: api.create_tag("me/celo", tag="v1", token=token),
            lambda token: api.delete_repo("me/celo", token=token),
        ):
            with pytest.raises(errors.HfHubHTTPError) as caught:
                write(token)
            assert caught.value.response.status_code == status
            assert caught.value.server_message
    assert server.snapshot() == before
    get(".gitattributes")
    assert api.repo_exists("me/hidden", token="hf_reader") and not api.repo_exists("me/hidden", token=False)
    assert api.whoami()["auth"]["accessToken"]["role"] == "write"
    with pytest.raises(errors.HfHubHTTPError, match="Invalid user token"):
        api.whoami(token="hf_nobody")
    api.create_repo("me/new")
    commit(api)


def test_what_is_missing(server, api, get):
    for error in (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.EntryNotFoundError):
        with pytest.raises(error):
            get("missing", revision=None if error is errors.EntryNotFoundError else "v9")
        if not server.snapshot():
            server.create("me/celo")
    server.gated.add("me/celo")
    with pytest.raises(errors.GatedRepoError):
        get("README.md")
    assert api.model_info("me/celo").gated is True


def test_snapshot(server):
    states = [server.snapshot()]
    for change in (
        lambda: server.create("me/celo"),
        lambda: server.commit("me/celo", {"a": b"1"}),
        lambda: server.commit("me/celo", {"a": b"1"}, branch="other"),
        lambda: server.tag("me/celo", "v1"),
    ):
        change()
        states.append(server.snapshot())
        assert states[-1] not in states[:-1]
    with HubServer() as same:
        same.create("me/celo")
        same.commit("me/celo", {"a": b"1"})
        assert same.snapshot() == states[2]


def test_faults_of_a_download(server, get):
    server.create("me/celo")
    server.commit("me/celo", FILES)
    wrong = Fault(WrongContent(), "/model.safetensors$", "GET")
    refused = Fault(Status(403, "GatedRepo", "no"), "/README.md$", after=1, times=1)
    server.faults += [wrong, refused]
    content, right = get("model.safetensors"), FILES["model.safetensors"]
    assert [left ^ other for left, other in zip(content, right, strict=True) if left != other] == [1]
    with pytest.raises(errors.GatedRepoError):
        get("README.md")
    assert get("README.md") == CARD
    assert (wrong.seen, wrong.fired, refused.seen, refused.fired) == (1, 1, 4, 1)
    server.faults[:] = [Fault(Drop(), "/resolve/", "HEAD", times=1)]
    with pytest.raises(Exception, match="Server disconnected without sending a response"):
        get("results/small.json", force_download=True)
    server.faults[:] = [Fault(Slow(0.2), "/resolve/", "HEAD")]
    start = time.monotonic()
    assert get("results/small.json") == FILES["results/small.json"]
    assert time.monotonic() - start > 0.2


def test_half_a_body_and_ranges(server):
    server.create("me/celo")
    server.commit("me/celo", FILES)
    url, right = f"{server.endpoint}/me/celo/resolve/main/model.safetensors", FILES["model.safetensors"]
    server.faults.append(Fault(DropBody(), "/resolve/", times=1))
    with connect(server) as connection:
        connection.sendall(f"GET {url.removeprefix(server.endpoint)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"Content-Length: 10240" in head and body == right[:5120]
    for wanted, part in (("5120-", right[5120:]), ("-7", right[-7:]), ("3-9", right[3:10]), ("0-99999", right)):
        request = urllib.request.Request(url, headers={"Range": f"bytes={wanted}"})
        with urllib.request.urlopen(request) as answer:
            assert (answer.status, answer.read()) == (206, part)
    with pytest.raises(urllib.error.HTTPError, match="416"):
        urllib.request.urlopen(urllib.request.Request(url, headers={"Range": "bytes=10240-"}))


@pytest.mark.parametrize("kind", [Drop(), Status(500), LostAnswer(), LostAnswer(504)])
def test_faults_of_writing(kind, server, api):
    done = isinstance(kind, LostAnswer)
    states = [server.snapshot()]
    for path, call in (
        ("/repos/create$", lambda: api.create_repo("me/celo")),
        ("/commit/main$", lambda: commit(api)),
        ("/tag/main$", lambda: api.create_tag("me/celo", tag="v1")),
    ):
        fault = Fault(kind, path, "POST")
        server.faults.append(fault)
        with pytest.raises(Exception, match="Server disconnected|500|504"):
            call()
        assert fault.fired == 1
        assert (server.snapshot() != states[-1]) is done
        server.faults.clear()
        if not done:
            call()
        states.append(server.snapshot())


def test_an_object_is_checked(server, api):
    server.create("me/celo")
    before = server.snapshot()
    oid = hashlib.sha256(b"right").hexdigest()
    address = f"{server.endpoint}/uploads/me/celo/{oid}"

    def put(content):
        return urllib.request.urlopen(urllib.request.Request(address, content, method="PUT")).status

    with pytest.raises(urllib.error.HTTPError, match="403"):
        put(b"right")
    server.faults.append(Fault(Status(400), "^/uploads/", times=1))
    with pytest.raises(RuntimeError, match="Error while uploading"):
        commit(api, {"model.safetensors": b"right"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        put(b"wrong")
    line = b'{"key": "header", "value": {"summary": "x"}}\n{"key": "lfsFile", "value": {"path": "a", "oid": "%s"}}'
    with pytest.raises(urllib.error.HTTPError, match="400"):
        post(server, "/api/models/me/celo/commit/main", line % oid.encode(), "application/x-ndjson")
    assert server.snapshot() == before
    assert put(b"right") == 200
    post(server, "/api/models/me/celo/commit/main", line % oid.encode(), "application/x-ndjson")
    assert server.files("me/celo")["a"] == b"right"


def test_malformed_and_unknown_requests(server, capfd):
    server.create("me/celo")
    before = server.snapshot()
    for path in ("/api/repos/create", "/api/models/me/celo/commit/main", "/api/models/me/celo/tag/main"):
        for body in (b"{", b"{}", b"[]", b"\xff"):
            with pytest.raises(urllib.error.HTTPError, match="400"):
                post(server, path, body)
    with pytest.raises(urllib.error.HTTPError, match="501") as caught:
        post(server, "/api/models/me/celo/nothing", b"{}")
    assert b"POST /api/models/me/celo/nothing" in caught.value.read()
    assert server.unknown == ["POST /api/models/me/celo/nothing"]
    server.clear()
    with connect(server) as connection:
        connection.sendall(b"POST /api/repos/create HTTP/1.1\r\nContent-Length: many\r\n\r\n")
        assert connection.recv(99).startswith(b"HTTP/1.1 400 ")
    assert server.snapshot() == before
    assert capfd.readouterr() == ("", "")


def test_connections_are_kept_and_end_with_the_server(server, api):
    server.create("me/celo")
    with connect(server) as connection:
        for _ in range(2):
            connection.sendall(b"HEAD /me/celo/resolve/main/.gitattributes HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
        server.stop()
        assert connection.recv(1) == b""
    server.stop()


def test_standalone():
    command = [sys.executable, os.path.join(os.path.dirname(__file__), "hub_server.py"), "--token", "hf_t"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            api = huggingface_hub.HfApi(endpoint=process.stdout.readline().strip(), token="hf_t")
            assert api.create_repo("me/celo").repo_id == "me/celo"
            with pytest.raises(errors.HfHubHTTPError, match="401"):
                api.create_repo("me/other", token=False)
        finally:
            process.terminate()
