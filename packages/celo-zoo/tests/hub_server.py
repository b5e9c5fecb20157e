"""A loopback server that speaks the part of the Hugging Face Hub's protocol that downloading a file needs."""

import hashlib
import http.server
import threading


class HubServer:
    """Repositories are ``{"owner/name": {commit: {file: bytes}}}``; ``branches`` maps names to commits.

    Attributes:
      wrong: files, by name, whose body is to be sent in place of the promised content.
      requests: (method, path, headers) of every request.
    """

    def __init__(self):
        self.repositories, self.branches, self.wrong, self.requests = {}, {}, {}, []
        self.announced_size = {}
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def stop(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: HubServer

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body):
        self.hub.requests.append((self.command, self.path, dict(self.headers)))
        owner, name, resolve, revision, file = self.path.strip("/").split("/", 4)
        assert resolve == "resolve"
        repository = self.hub.repositories.get(f"{owner}/{name}")
        if repository == "gated":
            return self._fail(403, "GatedRepo")
        if repository == "broken":
            return self._fail(400, "")  # not 500: the client would try that again for half a minute
        if repository is None:
            return self._fail(404, "RepoNotFound")
        commit = self.hub.branches.get(revision, revision)
        if commit not in repository:
            return self._fail(404, "RevisionNotFound")
        content = repository[commit].get(file)
        if content is None:
            return self._fail(404, "EntryNotFound")
        sent = self.hub.wrong.get(file, content)
        self.send_response(200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(self.hub.announced_size.get(file, len(sent))))
        self.end_headers()
        if body:
            self.wfile.write(sent)

    def _fail(self, status, code):
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments):
        pass
