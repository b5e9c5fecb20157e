"""Model repositories as a Hub keeps them, and the views of them that its API gives."""

import base64
import dataclasses
import datetime
import functools
import hashlib
import json
import re
from collections.abc import Iterator

import yaml

LFS = ".safetensors"
ATTRIBUTES = f"*{LFS} filter=lfs diff=lfs merge=lfs -text\n".encode()
NAME = r"[A-Za-z0-9_](?:[\w.-]*\w)?/[A-Za-z0-9_](?:[\w.-]*\w)?"


class Refusal(Exception):
    """An answer other than success: status, ``X-Error-Code``, message, and what else its JSON body holds."""

    def __init__(self, status: int, code: str | None, message: str, **more: str):
        super().__init__(message)
        self.status, self.code, self.message, self.more = status, code, message, more


def _blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclasses.dataclass(frozen=True)
class File:
    """A file's content; of one in LFS, git holds a pointer only."""

    content: bytes
    lfs: bool = False

    @functools.cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @functools.cached_property
    def pointer(self) -> bytes:
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        return text.encode()

    @functools.cached_property
    def blob_id(self) -> str:
        return _blob(self.pointer if self.lfs else self.content)

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.blob_id


@dataclasses.dataclass(frozen=True)
class Commit:
    """A commit with all files of its tree."""

    oid: str
    parent: str | None
    title: str
    description: str
    date: str
    files: dict[str, File]


class Repository:
    """A repository's history.

    Args:
      id: ``owner/name``.
      private: whether it is.
      counter: makes every commit of a server another one, also where content and parent are the same.

    Attributes:
      branches: commits' hashes by name.
      tags: commits' hashes by name.
      commits: all commits by hash, also those that no branch holds.
      objects: contents of files in LFS, by SHA-256.
      announced: sizes by SHA-256 of objects that may be uploaded.
    """

    def __init__(self, id: str, private: bool, counter: Iterator[int]):
        self.id, self.private, self._counter = id, private, counter
        self.branches: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.commits: dict[str, Commit] = {}
        self.objects: dict[str, bytes] = {}
        self.announced: dict[str, int] = {}
        self.advance("main", {".gitattributes": File(ATTRIBUTES)}, "initial commit")

    def resolve(self, revision: str) -> Commit:
        for names in (self.branches, self.tags, {oid: oid for oid in self.commits}):
            if revision in names:
                return self.commits[names[revision]]
        raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    def advance(self, branch: str, files: dict[str, File], title: str, description: str = "") -> str:
        """Commits a tree to a branch, which is started where there is none."""
        count, parent = next(self._counter), self.branches.get(branch)
        tree = sorted((path, file.blob_id) for path, file in files.items())
        oid = hashlib.sha1(json.dumps([self.id, count, parent, title, description, tree]).encode()).hexdigest()
        date = datetime.datetime(2026, 1, 1) + datetime.timedelta(seconds=count)
        self.commits[oid] = Commit(oid, parent, title, description, date.isoformat() + ".000Z", dict(files))
        self.objects |= {file.sha256: file.content for file in files.values() if file.lfs}
        self.branches[branch] = oid
        return oid

    def commit(self, branch: str, lines: list[dict]) -> str:
        """Carries out the lines of a commit request, or none of them."""
        if branch not in self.branches:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {branch}")
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit", self.branches[branch]) != self.branches[branch]:
            raise Refusal(412, None, "A commit has happened since. Please refresh and try again.")
        files = dict(self.commits[self.branches[branch]].files)
        for line in lines:
            key, value = line["key"], line["value"]
            if key == "header":
                continue
            path = value["path"]
            if not {"", ".", ".."}.isdisjoint(path.removesuffix("/").split("/")):
                raise Refusal(400, None, f"invalid path: {path}")
            if key == "file":
                files[path] = File(base64.b64decode(value["content"], validate=True))
            elif key == "lfsFile":
                content = self.objects.get(value["oid"])
                if content is None or value.get("size", len(content)) != len(content):
                    raise Refusal(400, None, f"LFS pointer of {path} points to a file that does not exist")
                files[path] = File(content, lfs=True)
            elif key in ("deletedFile", "deletedFolder"):
                folder = path.rstrip("/") + "/"
                gone = [name for name in files if (name == path if key == "deletedFile" else name.startswith(folder))]
                if not gone:
                    raise Refusal(404, "EntryNotFound", f"A file with this name doesn't exist: {path}")
                for name in gone:
                    del files[name]
            else:
                raise Refusal(400, None, f"unknown operation {key}")
        return self.advance(branch, files, header["summary"], header.get("description", ""))

    def upload(self, oid: str, content: bytes) -> None:
        """Takes an object that was announced with this hash and size."""
        if oid not in self.announced:
            raise Refusal(403, None, "no upload of this object was announced")
        if len(content) != self.announced[oid] or hashlib.sha256(content).hexdigest() != oid:
            raise Refusal(400, None, "the object has another size or SHA-256 than was announced")
        self.objects[oid] = content

    def history(self, revision: str) -> list[Commit]:
        """A revision and its ancestors, newest first."""
        commits = [self.resolve(revision)]
        while commits[-1].parent is not None:
            commits.append(self.commits[commits[-1].parent])
        return commits

    def info(self, revision: str, blobs: bool) -> dict:
        commit = self.resolve(revision)
        siblings = []
        for path, file in sorted(commit.files.items()):
            sibling = {"rfilename": path}
            if blobs:
                sibling |= {"size": len(file.content), "blobId": file.blob_id}
                if file.lfs:
                    sibling["lfs"] = {"sha256": file.sha256} | _sizes(file)
            siblings.append(sibling)
        card = metadata(commit.files["README.md"].content.decode()) if "README.md" in commit.files else None
        card = card if isinstance(card, dict) else {}
        dates = {"createdAt": self.history(revision)[-1].date, "lastModified": commit.date}
        counts = {"downloads": 0, "likes": 0, "disabled": False, "gated": False}
        described = {"tags": card.get("tags") or [], "cardData": card}
        names = {"id": self.id, "modelId": self.id, "author": self.id.split("/")[0], "sha": commit.oid}
        return names | {"private": self.private, "siblings": siblings} | dates | counts | described

    def refs(self) -> dict:
        def listed(names: dict[str, str], kind: str) -> list[dict]:
            return [{"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": oid} for n, oid in sorted(names.items())]

        empty = {"converts": [], "pullRequests": []}
        return {"branches": listed(self.branches, "heads"), "tags": listed(self.tags, "tags")} | empty

    def log(self, revision: str) -> list[dict]:
        authors = [{"user": self.id.split("/")[0]}]
        return [
            {"id": c.oid, "title": c.title, "message": c.description, "date": c.date, "authors": authors}
            for c in self.history(revision)
        ]

    def entries(self, revision: str, expand: bool = False) -> dict[str, dict]:
        """What a listing says of every file and folder, by path."""
        commit, found = self.resolve(revision), {}
        last = {"lastCommit": {"id": commit.oid, "title": commit.title, "date": commit.date}} if expand else {}
        for path, file in sorted(commit.files.items()):
            for end in [place for place, letter in enumerate(path) if letter == "/"]:
                folder = {"type": "directory", "path": path[:end], "size": 0, "oid": _blob(path[:end].encode())}
                found[path[:end]] = folder | last
            found[path] = {"type": "file", "path": path, "size": len(file.content), "oid": file.blob_id} | last
            if file.lfs:
                found[path]["lfs"] = {"oid": file.sha256} | _sizes(file)
        return found

    def tree(self, revision: str, folder: str, recursive: bool, expand: bool) -> list[dict]:
        entries, start = self.entries(revision, expand), folder.rstrip("/") + "/" if folder else ""
        inside = [entry for path, entry in entries.items() if path.startswith(start)]
        if folder and not inside:
            raise Refusal(404, "EntryNotFound", f"{folder} does not exist on {revision}")
        return [entry for entry in inside if recursive or "/" not in entry["path"][len(start) :]]

    def snapshot(self) -> dict:
        """All that can be seen of the repository, as plain values."""
        commits = {
            commit.oid: (commit.parent, commit.title, {path: file.etag for path, file in commit.files.items()})
            for commit in self.commits.values()
        }
        refs = {"branches": dict(self.branches), "tags": dict(self.tags)}
        return refs | {"commits": commits, "private": self.private}


def _sizes(file: File) -> dict[str, int]:
    return {"size": len(file.content), "pointerSize": len(file.pointer)}


def metadata(card: str) -> object:
    """The value of a card's YAML block; ``None`` where it has none or an empty one.

    Raises:
      yaml.YAMLError: it is no YAML.
    """
    match = re.match(r"\s*---[\r\n]+([\S\s]*?)[\r\n]+---(?:\r?\n|$)", card)
    return yaml.safe_load(match[1]) if match else None


def check_card(card: str) -> dict[str, list]:
    """Errors and warnings that validation of a card answers."""
    try:
        value = metadata(card)
    except yaml.YAMLError as error:
        return {"errors": [{"message": f"YAML Metadata Error: {error}"}], "warnings": []}
    if value is None:
        return {"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]}
    if not isinstance(value, dict):
        return {"errors": [{"message": '"metadata" must be of type object'}], "warnings": []}
    return {"errors": [], "warnings": []}
