"""A hub of models on loopback: what huggingface_hub asks of one to describe a repository and to download from it."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """``models`` are the files of each repository; ``org/gated`` lets nobody in, ``org/down`` always fails."""

    def __init__(self, models: Mapping[str, Mapping[str, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.models = dict(models)
        self.private: dict[str, str] = {}
        """The token that a repository wants."""
        self.calls: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving(models: Mapping[str, Mapping[str, bytes]]) -> Iterator[Hub]:
    """A hub that is up."""
    hub = Hub(models)
    threading.Thread(target=hub.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path, _, _ = self.path.partition("?")
        self.server.calls.append(path)
        parts = path.strip("/").split("/")
        described = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if described else parts[:2])
        wanted = self.server.private.get(name)
        if wanted is not None and self.headers["Authorization"] != f"Bearer {wanted}":
            self.answer(401, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif described:
            self.describe(name, parts[5] if len(parts) > 5 else None, tree="tree" in parts)
        else:
            self.send_file(name, "/".join(parts[4:]))

    def describe(self, name, revision, tree):
        files = self.server.models.get(name)
        if name == "org/gated":
            self.answer(403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"})
        elif name == "org/down":
            self.answer(503, b"")
        elif files is None:
            self.answer(401, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif revision not in (None, "main", "v1", COMMIT):
            self.answer(404, b"", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Revision not found"})
        elif tree:
            listed = [{"type": "file", "path": n, "size": len(c), "oid": "0" * 40} for n, c in files.items()]
            self.answer(200, json.dumps(listed).encode())
        else:
            siblings = [{"rfilename": file} for file in files]
            card = {"cardData": {"license": "apache-2.0"}} if name == "org/tiny" else {}
            self.answer(200, json.dumps({"id": name, "sha": COMMIT, "siblings": siblings} | card).encode())

    def send_file(self, name, file):
        content = self.server.models[name][file]
        self.answer(200, content, {"ETag": f'"{hash(content):x}"', "X-Repo-Commit": COMMIT})

    def answer(self, status, body, headers=()):
        self.send_response(status)
        for key, value in dict(headers).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass
