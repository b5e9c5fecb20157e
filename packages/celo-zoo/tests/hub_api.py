"""Answers of the Hugging Face Hub's API for model repositories."""

import re
import urllib.parse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hub_faults import Answer, Request
from hub_repositories import NAME, Refusal, Repository, check_card

if TYPE_CHECKING:
    from hub_server import HubServer

ID, REVISION, REST = f"(?P<id>{NAME})", "(?P<revision>[^/]+)", "(?P<path>.+)"
ROUTES: list[tuple[str, str, Callable[..., Any], bool]] = []


def _route(method: str, path: str, writes: bool = False) -> Callable[..., Any]:
    """A function for requests whose method and path match these expressions.

    It takes the server, the request, the repository where the path has one, and the path's other groups.
    """

    def register(function):
        ROUTES.append((method, path, function, writes))
        return function

    return register


def handle(server: "HubServer", request: Request) -> Answer:
    """Carries a request out."""
    try:
        for method, path, function, writes in ROUTES:
            match = re.fullmatch(path, request.path)
            if match and re.fullmatch(method, request.method):
                _authorise(server, request, writes)
                values = {key: urllib.parse.unquote(value) for key, value in match.groupdict("").items()}
                if "id" in values:
                    values["repository"] = _readable(server, values.pop("id"), request)
                answer = function(server, request, **values)
                return answer if isinstance(answer, Answer) else Answer.of(answer)
    except Refusal as refusal:
        return Answer.error(refusal.status, refusal.code, refusal.message, **refusal.more)
    except (ValueError, LookupError, TypeError, AttributeError, StopIteration) as error:
        return Answer.error(400, None, f"malformed request: {type(error).__name__}: {error}")
    return _unknown(server, request)


def _unknown(server: "HubServer", request: Request) -> Answer:
    server.unknown.append(f"{request.method} {request.path}")
    return Answer.error(501, None, f"this server does not know {request.method} {request.path}")


def _authorise(server: "HubServer", request: Request, writes: bool) -> None:
    if not server.tokens:
        return
    if request.token is None and writes:
        # The client takes any 401 to a repository's API for this code, but only if the address is https.
        code = "RepoNotFound" if request.path.startswith("/api/models/") else None
        raise Refusal(401, code, "Invalid username or password.")
    if request.token is not None and request.token not in server.tokens:
        raise Refusal(401, None, "Invalid credentials in Authorization header")
    if writes and server.tokens[request.token] != "write":
        raise Refusal(403, None, "Your token has no write access: use a token with the write role")


def _readable(server: "HubServer", id: str, request: Request) -> Repository:
    repository = server.repositories.get(id)
    if server.tokens and request.token is None and (repository is None or repository.private):
        if not request.path.startswith("/uploads/"):
            raise Refusal(401, "RepoNotFound", "Invalid username or password.")
    if repository is None:
        raise Refusal(404, "RepoNotFound", "Repository not found")
    return repository


def _named(server: "HubServer", request: Request) -> str:
    return f"{request.json.get('organization') or server.user}/{request.json['name']}"


@_route("POST", "/api/repos/create", writes=True)
def create(server, request):
    if request.json.get("type", "model") != "model":
        return _unknown(server, request)
    id, private = _named(server, request), request.json.get("visibility") == "private"
    server.create(id, private or bool(request.json.get("private")))
    return {"url": f"{server.endpoint}/{id}", "name": id}


@_route("DELETE", "/api/repos/delete", writes=True)
def delete(server, request):
    del server.repositories[_readable(server, _named(server, request), request).id]
    return {}


@_route("POST", "/api/validate-yaml")
def validate(server, request):
    found = check_card(request.json["content"])
    return Answer.of(found, 400 if found["errors"] else 200)


@_route("GET", "/api/whoami-v2")
def whoami(server, request):
    if request.token is None:
        raise Refusal(401, None, "Invalid username or password.")
    token = {"displayName": "test", "role": server.tokens.get(request.token, "write")}
    return {"type": "user", "name": server.user, "orgs": [], "auth": {"type": "access_token", "accessToken": token}}


@_route("GET", f"/api/models/{ID}(?:/revision/{REVISION})?")
def info(server, request, repository, revision):
    return repository.info(revision or "main", request.flag("blobs")) | {"gated": repository.id in server.gated}


@_route("GET", f"/api/models/{ID}/refs")
def refs(server, request, repository):
    return repository.refs()


@_route("GET", f"/api/models/{ID}/commits/{REVISION}")
def log(server, request, repository, revision):
    return repository.log(revision)


@_route("GET", f"/api/models/{ID}/tree/{REVISION}(?:/{REST})?")
def tree(server, request, repository, revision, path):
    return repository.tree(revision, path, request.flag("recursive"), request.flag("expand"))


@_route("POST", f"/api/models/{ID}/paths-info/{REVISION}")
def paths(server, request, repository, revision):
    form = urllib.parse.parse_qs(request.body.decode())
    entries = repository.entries(revision, form.get("expand", ["False"])[0].lower() == "true")
    return [entries[path] for path in form["paths"] if path in entries]


@_route("POST", f"/api/models/{ID}/preupload/{REVISION}", writes=True)
def preupload(server, request, repository, revision):
    known, files = repository.resolve(revision).files, []
    for path in [file["path"] for file in request.json["files"]]:
        mode = "lfs" if server.is_lfs(path) else "regular"
        oid = {"oid": known[path].etag} if path in known else {}
        files.append({"path": path, "uploadMode": mode, "shouldIgnore": False} | oid)
    return {"files": files, "commitOid": repository.resolve(revision).oid}


@_route("POST", rf"/{ID}\.git/info/lfs/objects/batch", writes=True)
def batch(server, request, repository):
    objects = []
    for oid, size in [(wanted["oid"], wanted["size"]) for wanted in request.json["objects"]]:
        objects.append({"oid": oid, "size": size})
        if oid not in repository.objects:
            repository.announced[oid] = size
            upload = {"href": f"{server.endpoint}/uploads/{repository.id}/{oid}"}
            verify = {"href": f"{server.endpoint}/{repository.id}.git/info/lfs/objects/verify"}
            objects[-1]["actions"] = {"upload": upload, "verify": verify}
    return {"transfer": "basic", "objects": objects}


@_route("PUT", f"/uploads/{ID}/(?P<oid>[0-9a-f]{{64}})")
def upload(server, request, repository, oid):
    repository.upload(oid, request.body)
    return Answer()


@_route("POST", rf"/{ID}\.git/info/lfs/objects/verify", writes=True)
def verify(server, request, repository):
    if len(repository.objects.get(request.json["oid"], b"")) != request.json["size"]:
        raise Refusal(404, None, "Object does not exist")
    return {}


@_route("POST", f"/api/models/{ID}/commit/{REVISION}", writes=True)
def commit(server, request, repository, revision):
    if request.flag("create_pr"):
        return _unknown(server, request)
    oid = repository.commit(revision, request.json)
    return {"success": True, "commitOid": oid, "commitUrl": f"{server.endpoint}/{repository.id}/commit/{oid}"}


@_route("POST", f"/api/models/{ID}/tag/{REVISION}", writes=True)
def tag(server, request, repository, revision):
    tag, oid = request.json["tag"], repository.resolve(revision).oid
    if tag in repository.tags:
        raise Refusal(409, None, "Tag reference exists already")
    repository.tags[tag] = oid
    return {}


@_route("DELETE", f"/api/models/{ID}/tag/{REVISION}", writes=True)
def untag(server, request, repository, revision):
    if revision not in repository.tags:
        raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    del repository.tags[revision]
    return {}


@_route("GET|HEAD", f"/{ID}/resolve/{REVISION}/{REST}")
def resolve(server, request, repository, revision, path):
    if repository.id in server.gated:
        raise Refusal(403, "GatedRepo", f"Access to model {repository.id} is restricted")
    commit = repository.resolve(revision)
    headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
    if path not in commit.files:
        error = Answer.error(404, "EntryNotFound", "Entry not found")
        return Answer(404, error.body, error.headers | headers)
    file = commit.files[path]
    headers |= {"ETag": f'"{file.etag}"', "Content-Type": "application/octet-stream"}
    if file.lfs:
        headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.content))}
    wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if not wanted or not any(wanted.groups()):
        return Answer(200, file.content, headers)
    size = len(file.content)
    start = int(wanted[1]) if wanted[1] else max(size - int(wanted[2]), 0)
    end = min(int(wanted[2]) + 1, size) if wanted[1] and wanted[2] else size
    if start >= end:
        return Answer(416, b"", headers | {"Content-Range": f"bytes */{size}"})
    return Answer(206, file.content[start:end], headers | {"Content-Range": f"bytes {start}-{end - 1}/{size}"})
