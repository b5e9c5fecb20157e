"""Requests to a test server and its answers, and what can go wrong between the two."""

import dataclasses
import json
import re
import time
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass
class Request:
    """A request as it came: header names in lower case, the path as quoted and without the query."""

    method: str
    path: str
    headers: dict[str, str]
    query: dict[str, str] = dataclasses.field(default_factory=dict)
    body: bytes = dataclasses.field(default=b"", repr=False)
    status: int | None = None  # of the answer; None where the connection was closed without one

    @property
    def json(self) -> Any:
        """The body; of one in lines of JSON, a list; ``None`` where it is no JSON."""
        kind = self.headers.get("content-type", "")
        if "ndjson" in kind:
            return [json.loads(line) for line in self.body.splitlines() if line.strip()]
        return json.loads(self.body) if "json" in kind else None

    @property
    def token(self) -> str | None:
        return self.headers.get("authorization", "").removeprefix("Bearer ") or None

    def flag(self, name: str) -> bool:
        return self.query.get(name, "").lower() in ("1", "true")


@dataclasses.dataclass(frozen=True)
class Answer:
    """An answer; ``sent`` is what goes out of the body, and no status means to close the connection instead."""

    status: int | None = 200
    body: bytes = b""
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    sent: bytes | None = None

    @classmethod
    def of(cls, value: Any, status: int = 200, **headers: str) -> "Answer":
        kind = {"Content-Type": "application/json; charset=utf-8"}
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        return cls(status, json.dumps(value, default=str).encode(), kind | named)

    @classmethod
    def error(cls, status: int, code: str | None = None, message: str | None = None, **more: str) -> "Answer":
        headers = {"X_Error_Code": code, "X_Error_Message": message and message.encode("ascii", "replace").decode()}
        given = {name: " ".join(text.split()) for name, text in headers.items() if text}
        return cls.of(({"error": message} if message else {}) | more, status, **given)


class Kind:
    """What a fault does: answer in place of the server, and change the server's answer."""

    def before(self) -> Answer | None:
        return None

    def after(self, answer: Answer) -> Answer:
        return answer


@dataclasses.dataclass(frozen=True)
class Status(Kind):
    """An error; nothing is done."""

    code: int
    error_code: str | None = None
    message: str | None = None

    def before(self) -> Answer:
        return Answer.error(self.code, self.error_code, self.message)


@dataclasses.dataclass(frozen=True)
class Drop(Kind):
    """The connection is closed before any answer; nothing is done."""

    def before(self) -> Answer:
        return Answer(None)


@dataclasses.dataclass(frozen=True)
class DropBody(Kind):
    """The connection is closed after half of the body that the headers promise."""

    def after(self, answer: Answer) -> Answer:
        return dataclasses.replace(answer, sent=answer.body[: len(answer.body) // 2])


@dataclasses.dataclass(frozen=True)
class WrongContent(Kind):
    """One byte in the middle of the body is another."""

    def after(self, answer: Answer) -> Answer:
        middle = len(answer.body) // 2
        changed = bytes(byte ^ 1 for byte in answer.body[middle : middle + 1])
        return dataclasses.replace(answer, sent=answer.body[:middle] + changed + answer.body[middle + 1 :])


@dataclasses.dataclass(frozen=True)
class Slow(Kind):
    """The request waits."""

    seconds: float

    def before(self) -> None:
        time.sleep(self.seconds)


@dataclasses.dataclass(frozen=True)
class LostAnswer(Kind):
    """The request is carried out, but its answer is an error, or none."""

    code: int | None = None

    def after(self, answer: Answer) -> Answer:
        return Answer(None) if self.code is None else Answer.error(self.code)


@dataclasses.dataclass(frozen=True)
class Call(Kind):
    """A function runs before the request is handled."""

    function: Callable[[], Any]

    def before(self) -> None:
        self.function()


@dataclasses.dataclass
class Fault:
    """A fault of the requests whose method and path match.

    Those that match a request act in order, up to the first that answers in the server's place.

    Attributes:
      kind: what happens.
      path: regular expression that is searched for in the path.
      method: regular expression of the whole method.
      times: how often it happens; ``None`` for always.
      after: how many matching requests are let pass first.
      seen: how many requests matched.
      fired: how often it happened.
    """

    kind: Kind
    path: str = ""
    method: str = ".*"
    times: int | None = None
    after: int = 0
    seen: int = 0
    fired: int = 0

    def fires(self, request: Request) -> bool:
        if not re.fullmatch(self.method, request.method) or not re.search(self.path, request.path):
            return False
        self.seen += 1
        fires = self.seen > self.after and (self.times is None or self.fired < self.times)
        self.fired += fires
        return fires
