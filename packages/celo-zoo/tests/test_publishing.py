"""Publishing: the real client against a server on this machine, which fails in every way that it can."""

import logging
import traceback

import numpy as np
import pytest
from hub_faults import Call, Drop, DropBody, Fault, LostAnswer, Slow, Status, WrongContent
from hub_server import HubServer
from test_runs import run as run  # a fixture

import celo_zoo
from celo_zoo import folders, remote

TOKEN = "hf_secret0123456789secret0123456789"
READER = "hf_reader0123456789reader0123456789"
REPOSITORY = "me/celo"

COMMIT = "/api/models/me/celo/commit/"
TAG = "/api/models/me/celo/tag/"


@pytest.fixture
def server():
    with HubServer() as server:
        server.tokens = {TOKEN: "write", READER: "read"}
        yield server
        assert server.unknown == []


@pytest.fixture
def options(server, monkeypatch):
    monkeypatch.setattr(remote, "_PAUSES", (0.01, 0.01, 0.01))
    return {"endpoint": server.endpoint, "token": TOKEN}


@pytest.fixture(params=["missing", "there"])
def before(request, server):
    """The state of the Hub before publishing: without the repository, or with something in it."""
    if request.param == "there":
        server.create(REPOSITORY)
        server.commit(REPOSITORY, {"README.md": b"# nothing yet\n", "notes.txt": b"mine"})
    return server.snapshot()


@pytest.fixture(scope="session")
def other_folder(model_folder, tmp_path_factory):
    """Other weights than those of model_folder."""
    theta, config = celo_zoo.load(model_folder)
    theta["update_rule"]["mlp"]["output"]["bias"] = np.zeros(2, np.float32)
    return celo_zoo.save(theta, config, tmp_path_factory.mktemp("models") / "other")


def files_of(server):
    return {name: server.files(REPOSITORY)[name] for name in (folders.CHECKSUMS, *folders.LISTED)}


@pytest.mark.parametrize("lfs", [True, False])
def test_publish(lfs, before, server, options, model_folder, tmp_path):
    server.lfs = lfs
    told = []
    published = celo_zoo.publish(model_folder, REPOSITORY, progress=told.append, message="First", **options)
    ours, *older = server.history(REPOSITORY)
    assert (ours.title, published.commit) == ("First", ours.oid)
    assert ours.parent == older[0].oid
    assert published.parent == (older[0].oid if before else None)
    assert len(older) == (2 if before else 1)  # all files in one commit
    assert server.tags(REPOSITORY) == {"v1": ours.oid}
    assert published.tag == "v1"
    assert sorted(server.files(REPOSITORY)) == sorted(
        [".gitattributes", folders.CHECKSUMS, *folders.LISTED, *(["notes.txt"] if before else [])]
    )
    assert {change.path: change.kind for change in published.changes} == {
        "README.md": "changed" if before else "added",
        "config.json": "added",
        "model.safetensors": "added",
        "checksums": "added",
    }
    loaded = celo_zoo.load(published.reference, cache_dir=tmp_path / "cache", **options)
    assert loaded.digest == published.digest
    assert loaded.document["repository"] == REPOSITORY
    assert loaded.document["provenance"] == celo_zoo.info(model_folder)["provenance"]
    assert f'celo_zoo.optimizer("{REPOSITORY}"' in server.files(REPOSITORY)["README.md"].decode()
    # Storage is written to at an address that is only valid for that.
    assert {request.token for request in server.requests if request.method != "PUT"} == {TOKEN}
    # It was verified by files that no cache had.
    assert any(request.path.endswith("/model.safetensors") and request.method == "GET" for request in server.requests)
    assert told[-1] == "tagging it v1"


def test_publishing_the_same_again_changes_nothing(server, options, model_folder):
    first = celo_zoo.publish(model_folder, REPOSITORY, **options)
    before = server.snapshot()
    again = celo_zoo.publish(model_folder, REPOSITORY, **options)
    assert (again.commit, again.tag, again.digest) == (first.commit, "v1", first.digest)
    assert {change.kind for change in again.changes} == {"unchanged"}
    assert server.snapshot() == before


def test_publish_what_was_fetched(server, options, model_folder, tmp_path):
    first = celo_zoo.publish(model_folder, REPOSITORY, **options)
    before = server.snapshot()
    found = celo_zoo.fetch(first.reference, tmp_path / "mine", cache_dir=tmp_path / "cache", **options)
    assert found.folder == tmp_path / "mine"
    assert celo_zoo.publish(found.folder, REPOSITORY, **options).commit == first.commit
    assert server.snapshot() == before


def test_next_version(server, options, model_folder, other_folder):
    first = celo_zoo.publish(model_folder, REPOSITORY, **options)
    second = celo_zoo.publish(other_folder, REPOSITORY, **options)
    assert (second.tag, second.parent) == ("v2", first.commit)
    assert server.tags(REPOSITORY) == {"v1": first.commit, "v2": second.commit}
    third = celo_zoo.publish(model_folder, REPOSITORY, tag="paper-1.0", **options)
    assert server.tags(REPOSITORY)["paper-1.0"] == third.commit
    assert third.digest == first.digest
    assert celo_zoo.publish(other_folder, REPOSITORY, tag=None, **options).tag is None
    assert len(server.tags(REPOSITORY)) == 3


def test_tag_of_other_weights_is_refused_before_anything_is_sent(server, options, model_folder, other_folder):
    celo_zoo.publish(model_folder, REPOSITORY, **options)
    before = server.snapshot()
    with pytest.raises(celo_zoo.ExistsError, match="has a tag 'v1' on other weights"):
        celo_zoo.publish(other_folder, REPOSITORY, tag="v1", **options)
    assert server.snapshot() == before


def test_private(server, options, model_folder):
    celo_zoo.publish(model_folder, REPOSITORY, private=True, **options)
    assert server.repositories[REPOSITORY].private


def test_dry_run(before, server, options, model_folder):
    planned = celo_zoo.publish(model_folder, REPOSITORY, dry_run=True, **options)
    assert server.snapshot() == before
    assert {request.method for request in server.requests} == {"GET"}
    assert (planned.commit, planned.reference, planned.tag) == (None, None, "v1")
    done = celo_zoo.publish(model_folder, REPOSITORY, **options)
    assert (planned.changes, planned.digest, planned.parent) == (done.changes, done.digest, done.parent)


# --- what can be published -------------------------------------------------------------------------------------------


def test_theta(server, options, model_folder):
    theta, config = celo_zoo.load(model_folder)
    published = celo_zoo.publish(theta, REPOSITORY, config=config, metadata={"seeds": [5]}, **options)
    assert celo_zoo.load(published.reference, **options).document["provenance"] == {"seeds": [5]}


def test_run(run, server, options):
    folder, _ = run
    published = celo_zoo.publish(folder, REPOSITORY, **options)
    provenance = celo_zoo.load(published.reference, **options).document["provenance"]
    assert provenance == {"command": "celo-tasks meta-train", "seeds": [0]}


def test_card_of_its_own_is_kept(server, options, model_folder, tmp_path):
    theta, config = celo_zoo.load(model_folder)
    card = "---\nlicense: mit\n---\n\n# Mine\n"
    own = celo_zoo.save(theta, config, tmp_path / "own", card=card)
    celo_zoo.publish(own, REPOSITORY, **options)
    assert server.files(REPOSITORY)["README.md"].decode() == card
    celo_zoo.publish(own, REPOSITORY, card=card.replace("mit", "apache-2.0"), **options)
    assert b"apache-2.0" in server.files(REPOSITORY)["README.md"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"repository": "celo"}, celo_zoo.RefError, "no name of a repository"),
        ({"tag": "../x"}, celo_zoo.RefError, "no name for a tag"),
        ({"tag": "main"}, celo_zoo.RefError, "no name for a tag"),
        ({"card": "# no front matter\n"}, celo_zoo.FormatError, "front matter"),
        ({"card": "---\nlicense: [\n---\n"}, celo_zoo.FormatError, "front matter"),
        ({"metadata": {"loss": float("nan")}}, celo_zoo.FormatError, "not JSON"),
        ({"evaluation": [{}]}, celo_zoo.FormatError, "the evaluation"),
        ({"token": "two words"}, celo_zoo.RefError, "the token"),
        ({"weights": "no/such/folder"}, celo_zoo.RefError, "unknown weights"),
        ({"weights": {"w": np.zeros(2)}}, celo_zoo.FormatError, "no architecture"),
    ],
)
def test_what_is_unfit_is_refused_before_anything_is_sent(arguments, error, message, server, options, model_folder):
    given = {"weights": model_folder, "repository": REPOSITORY, **options} | arguments
    with pytest.raises(error, match=message):
        celo_zoo.publish(**given)
    assert server.requests == []


# --- failures --------------------------------------------------------------------------------------------------------

FAULTS = {
    "cannot be reached": (Fault(Drop(), "^/api/models/me/celo", "GET"), celo_zoo.HubError),
    "preupload is forbidden": (Fault(Status(403), "/preupload/"), celo_zoo.AccessError),
    "storage refuses": (Fault(Status(403), "/info/lfs/objects/batch"), celo_zoo.AccessError),
    "card is not validated": (Fault(Drop(), "/api/validate-yaml"), celo_zoo.HubError),
    "server error": (Fault(Status(500), COMMIT), celo_zoo.HubError),
    "gateway timeout": (Fault(Status(504), COMMIT), celo_zoo.HubError),
    "dropped connection": (Fault(Drop(), COMMIT), celo_zoo.HubError),
    "bad request": (Fault(Status(400), COMMIT), celo_zoo.HubError),
    "unknown token": (Fault(Status(401), COMMIT), celo_zoo.AccessError),
    "no right to write": (Fault(Status(403), COMMIT), celo_zoo.AccessError),
    "conflict": (Fault(Status(409), COMMIT), celo_zoo.HubError),
    "stale parent": (Fault(Status(412), COMMIT), celo_zoo.ConflictError),
}


@pytest.mark.parametrize("name", FAULTS)
def test_failure_leaves_the_repository_as_it_was(name, before, server, options, model_folder):
    fault, error = FAULTS[name]
    server.faults = [Fault(fault.kind, fault.path, fault.method)]
    with pytest.raises(error) as caught:
        celo_zoo.publish(model_folder, REPOSITORY, **options)
    assert server.faults[0].fired
    assert server.snapshot() == before
    assert "\n" not in str(caught.value)
    server.faults.clear()
    celo_zoo.publish(model_folder, REPOSITORY, **options)  # the same again works once the Hub does
    assert server.tags(REPOSITORY) == {"v1": server.head(REPOSITORY)}


@pytest.mark.parametrize("kind", [Status(500), Status(401), Status(403), Status(402), Drop()], ids=str)
def test_repository_that_cannot_be_made(kind, server, options, model_folder):
    server.faults.append(Fault(kind, "/api/repos/create"))
    with pytest.raises(celo_zoo.ZooError, match="me/celo could not be created"):
        celo_zoo.publish(model_folder, REPOSITORY, **options)
    assert server.snapshot() == {}


def test_made_although_the_answer_was_lost(server, options, model_folder):
    server.faults.append(Fault(LostAnswer(), "/api/repos/create"))
    published = celo_zoo.publish(model_folder, REPOSITORY, **options)
    assert server.head(REPOSITORY) == published.commit


def test_made_repository_that_cannot_be_removed_again_is_told(server, options, model_folder):
    server.faults += [Fault(Status(500), COMMIT), Fault(Status(403), "/api/repos/delete")]
    told = []
    with pytest.raises(celo_zoo.HubError):
        celo_zoo.publish(model_folder, REPOSITORY, progress=told.append, **options)
    assert "could not be removed again: it is empty" in told[-1]
    assert list(server.files(REPOSITORY)) == [".gitattributes"]


def test_made_repository_that_got_a_file_meanwhile_is_not_removed(server, options, model_folder):
    put = Call(lambda: server.commit(REPOSITORY, {"theirs.txt": b"1"}))
    server.faults += [Fault(put, COMMIT, times=1), Fault(Status(500), COMMIT)]
    with pytest.raises(celo_zoo.ZooError):
        celo_zoo.publish(model_folder, REPOSITORY, **options)
    assert "theirs.txt" in server.files(REPOSITORY)


@pytest.mark.parametrize("kind", [LostAnswer(), LostAnswer(500), LostAnswer(504), DropBody()], ids=str)
def test_commit_that_landed_although_the_answer_was_lost(kind, before, server, options, model_folder):
    server.faults.append(Fault(kind, COMMIT, times=1))
    published = celo_zoo.publish(model_folder, REPOSITORY, **options)
    assert server.faults[0].fired == 1
    assert server.history(REPOSITORY)[0].oid == published.commit
    assert len(server.history(REPOSITORY)) == (3 if before else 2)  # it was made once
    assert server.tags(REPOSITORY) == {"v1": published.commit}


@pytest.mark.parametrize("kind", [None, Drop()], ids=str)
def test_somebody_else_commits_meanwhile(kind, server, options, model_folder):
    server.create(REPOSITORY)
    compete = Call(lambda: server.commit(REPOSITORY, {"config.json": b"theirs"}))
    server.faults.append(Fault(compete, COMMIT, times=1))
    if kind is not None:
        server.faults.append(Fault(kind, COMMIT, times=1))
    with pytest.raises(celo_zoo.ConflictError, match="somebody else changed"):
        celo_zoo.publish(model_folder, REPOSITORY, **options)
    assert server.files(REPOSITORY)["config.json"] == b"theirs"
    assert folders.WEIGHTS not in server.files(REPOSITORY)
    assert server.tags(REPOSITORY) == {}


def test_nobody_can_tell(server, options, model_folder):
    """The commit's answer is lost and the Hub is gone then; publishing again finds the commit."""
    server.create(REPOSITORY)
    server.faults += [Fault(LostAnswer(), COMMIT), Fault(Status(503), "^/api/models/me/celo/(revision|refs)", after=2)]
    with pytest.raises(celo_zoo.HubError, match="unknown whether the commit was made nevertheless"):
        celo_zoo.publish(model_folder, REPOSITORY, **options)
    server.faults.clear()
    celo_zoo.publish(model_folder, REPOSITORY, **options)
    assert len(server.history(REPOSITORY)) == 2
    assert server.tags(REPOSITORY) == {"v1": server.head(REPOSITORY)}


def test_fault_of_the_storage_and_slow_answers(before, server, options, model_folder):
    """The client tries the storage again by itself; older ones leave that to the caller."""
    server.faults += [Fault(Status(503), "/info/lfs/", "POST", times=1), Fault(Slow(0.2), "", times=5)]
    try:
        published = celo_zoo.publish(model_folder, REPOSITORY, **options)
    except celo_zoo.HubError:
        assert server.snapshot() == before
        published = celo_zoo.publish(model_folder, REPOSITORY, **options)
    assert server.head(REPOSITORY) == published.commit


@pytest.mark.parametrize("kind", [Status(500), Drop(), LostAnswer(), Status(403)], ids=str)
def test_tag_that_fails(kind, server, options, model_folder):
    server.faults.append(Fault(kind, TAG))
    if isinstance(kind, LostAnswer):
        assert celo_zoo.publish(model_folder, REPOSITORY, **options).tag == "v1"
        assert server.faults[0].fired == 1
        return
    with pytest.raises(celo_zoo.ZooError, match="published and verified as commit .* but without the tag") as caught:
        celo_zoo.publish(model_folder, REPOSITORY, **options)
    assert isinstance(caught.value, celo_zoo.AccessError if kind == Status(403) else celo_zoo.HubError)
    commit = server.head(REPOSITORY)
    server.faults.clear()
    assert celo_zoo.publish(model_folder, REPOSITORY, **options).commit == commit
    assert server.tags(REPOSITORY) == {"v1": commit}


def test_hub_that_gives_back_something_else(server, options, model_folder):
    server.faults.append(Fault(WrongContent(), "/resolve/.*/model.safetensors", "GET"))
    with pytest.raises(celo_zoo.ChecksumError, match="could not be verified by downloading it, and got no tag"):
        celo_zoo.publish(model_folder, REPOSITORY, **options)
    assert server.tags(REPOSITORY) == {}
    server.faults.clear()
    celo_zoo.publish(model_folder, REPOSITORY, **options)
    assert server.tags(REPOSITORY) == {"v1": server.head(REPOSITORY)}


# --- tokens ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (READER, "the token may not do that to me/celo; make one with write access"),
        ("hf_nobody0123456789", "the Hub rejected the token"),
        (None, "a saved login is not sent to another Hub"),
        (False, "log in with hf auth login"),
    ],
)
def test_token_without_rights(token, message, before, server, options, model_folder, caplog):
    with caplog.at_level(logging.DEBUG), pytest.raises(celo_zoo.AccessError) as caught:
        celo_zoo.publish(model_folder, REPOSITORY, **options | {"token": token})
    assert message in str(caught.value)
    assert server.snapshot() == before
    text = caplog.text + "".join(traceback.format_exception(caught.value))
    assert READER not in text and "hf_savedlogin" not in text


@pytest.mark.parametrize("fault", [None, *FAULTS])
def test_token_is_never_shown(fault, server, options, model_folder, caplog, capfd):
    if fault is not None:
        server.faults.append(Fault(FAULTS[fault][0].kind, FAULTS[fault][0].path, FAULTS[fault][0].method))
    told = []
    with caplog.at_level(logging.DEBUG):
        try:
            told.append(repr(celo_zoo.publish(model_folder, REPOSITORY, progress=told.append, **options)))
        except celo_zoo.ZooError as error:
            told += traceback.format_exception(error)
            told.append(repr(error.__context__))
    text = "".join(told) + caplog.text + "".join(capfd.readouterr())
    assert len(text) > 100
    assert TOKEN not in text
