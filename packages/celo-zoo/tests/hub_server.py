"""A loopback server that speaks the Hugging Face Hub's protocol for model repositories, and fails where it is told to.

``python hub_server.py --port 8080 --token T`` serves an empty Hub until it is interrupted.
"""

import argparse
import contextlib
import http.server
import itertools
import re
import socket
import sys
import threading
import time
import urllib.parse

import hub_api
from hub_faults import Answer, Fault, Request
from hub_repositories import LFS, NAME, Commit, File, Refusal, Repository


class HubServer:
    """A Hub on this machine, from construction to `stop`.

    Attributes:
      tokens: rights, "read" or "write", by token; where it is empty, everybody may do everything.
      gated: repositories whose files nobody may get.
      lfs: whether files named ``*.safetensors`` are to be uploaded by LFS; otherwise none.
      user: owner of repositories that are created without one.
      faults: what is to go wrong.
      requests: all that came, in order.
      unknown: method and path of the requests that the server does not know.
    """

    def __init__(self, port: int = 0):
        self.tokens: dict[str, str] = {}
        self.gated: set[str] = set()
        self.lfs, self.user = True, "me"
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.unknown: list[str] = []
        self.repositories: dict[str, Repository] = {}
        self._counter, self._lock = itertools.count(), threading.RLock()
        self._connections: set[socket.socket] = set()
        self._server = _Server(("127.0.0.1", port), type("Handler", (_Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def __enter__(self) -> "HubServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the server and all connections; the state stays."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def clear(self) -> None:
        """Forgets the requests so far."""
        self.requests.clear()
        self.unknown.clear()

    def create(self, id: str, private: bool = False) -> str:
        """Makes a repository and returns its first commit."""
        with self._lock:
            if not re.fullmatch(NAME, id):
                raise Refusal(400, None, f"Invalid repo name: {id}")
            if id in self.repositories:
                raise Refusal(409, None, "You already created this model repo", url=f"{self.endpoint}/{id}")
            self.repositories[id] = Repository(id, private, self._counter)
            return self.head(id)

    def delete(self, id: str) -> None:
        with self._lock:
            del self.repositories[id]

    def commit(self, id: str, files: dict[str, bytes], branch: str = "main", title: str = "Upload") -> str:
        """Adds or replaces files; a branch that is not there starts at main."""
        with self._lock:
            repository = self.repositories[id]
            base = repository.branches.setdefault(branch, repository.branches["main"])
            added = {path: File(content, self.is_lfs(path)) for path, content in files.items()}
            return repository.advance(branch, repository.commits[base].files | added, title)

    def tag(self, id: str, tag: str, revision: str = "main") -> None:
        with self._lock:
            self.repositories[id].tags[tag] = self.head(id, revision)

    def head(self, id: str, revision: str = "main") -> str:
        return self.repositories[id].resolve(revision).oid

    def files(self, id: str, revision: str = "main") -> dict[str, bytes]:
        return {path: file.content for path, file in self.repositories[id].resolve(revision).files.items()}

    def history(self, id: str, revision: str = "main") -> list[Commit]:
        """Commits, newest first."""
        return self.repositories[id].history(revision)

    def tags(self, id: str) -> dict[str, str]:
        return dict(self.repositories[id].tags)

    def snapshot(self) -> dict[str, dict]:
        """All repositories with visibility, branches, tags and commits, to be compared with a later one."""
        with self._lock:
            return {id: repository.snapshot() for id, repository in self.repositories.items()}

    def answer(self, request: Request) -> Answer:
        """Answers a request, with the faults that it meets."""
        with self._lock:
            self.requests.append(request)
        faults, answer = [], None
        for fault in list(self.faults):
            with self._lock:
                fires = answer is None and fault.fires(request)
            if fires:
                faults.append(fault)
                answer = fault.kind.before()
        if answer is None:
            with self._lock:
                answer = hub_api.handle(self, request)
        for fault in faults:
            answer = fault.kind.after(answer)
        request.status = answer.status
        return answer

    def is_lfs(self, path: str) -> bool:
        return self.lfs and path.endswith(LFS)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet

    def setup(self):
        super().setup()
        self.hub._connections.add(self.connection)

    def finish(self):
        self.hub._connections.discard(self.connection)
        super().finish()

    def _do(self):
        path, _, query = self.path.partition("?")
        headers = {name.lower(): text for name, text in self.headers.items()}
        try:
            request = Request(self.command, path, headers, dict(urllib.parse.parse_qsl(query)), self._body())
        except ValueError as error:
            self.close_connection = True
            return self._send(Answer.error(400, None, f"malformed request: {error}"))
        self._send(self.hub.answer(request))

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _do

    def _body(self):
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(max(int(self.headers.get("Content-Length", 0)), 0))
        parts = []
        while size := int(self.rfile.readline().strip(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def _send(self, answer):
        if answer.status is None:
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, text in (answer.headers | {"Content-Length": str(len(answer.body))}).items():
            self.send_header(name, text)
        self.end_headers()
        if self.command == "HEAD":
            return
        sent = answer.body if answer.sent is None else answer.sent
        self.wfile.write(sent)
        self.close_connection |= len(sent) < len(answer.body)

    def log_message(self, *arguments):
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0, the default, for a free one")
    parser.add_argument("--token", help="a token that may write; without, everybody may do everything")
    parser.add_argument("--regular", action="store_true", help="no LFS; clients that have hf_xet active need this")
    arguments = parser.parse_args()
    with HubServer(arguments.port) as server, contextlib.suppress(KeyboardInterrupt):
        server.tokens |= {arguments.token: "write"} if arguments.token else {}
        server.lfs = not arguments.regular
        print(server.endpoint, flush=True)
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main()
