"""An S3 server that does next to nothing: it makes up what is read and forgets what is written.

A server that works for its answers would take the processor from the clients that are measured on the same machine.
``s3://bucket/<n>`` holds n MiB; whatever is written is there afterwards, by size and ETag alone.

    python -m benchmarks.trainer.plain_s3 [<file>]      prints its URL, and serves until its standard input ends

With a file it serves over TLS, and writes there the certificate of the authority that vouches for it.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from finetune_local.apiserver.certificates import serving_context

_BLOCK = memoryview(os.urandom(1 << 20))
_ETAG = '"made up"'
_ROOT = Path(__file__).parents[2]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    written: dict[str, int] = {}  # noqa: RUF012 - bytes, by path

    def do_GET(self) -> None:
        if "list-type=" in self.path:
            return self._send(b"<ListBucketResult></ListBucketResult>")
        size = int(self.path.rpartition("/")[2]) << 20
        start, last = (self.headers.get("Range") or f"bytes=0-{size - 1}").removeprefix("bytes=").split("-")
        stop = min(int(last or size - 1) + 1, size)
        self._begin(206, stop - int(start), {"Content-Range": f"bytes {start}-{stop - 1}/{size}"})
        for position in range(int(start), stop, len(_BLOCK)):
            self.wfile.write(_BLOCK[: min(len(_BLOCK), stop - position)])

    def do_HEAD(self) -> None:
        name = self.path.rpartition("/")[2]
        self._begin(200, self.written[self.path] if self.path in self.written else int(name) << 20)

    def do_PUT(self) -> None:
        size = left = int(self.headers["Content-Length"])
        room = memoryview(bytearray(1 << 20))
        while left:
            left -= self.rfile.readinto(room[:left])
        path, _, part = self.path.partition("?")
        self.written[path] = size + (self.written.get(path, 0) if part else 0)
        self._begin(200, 0)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.endswith("?uploads"):
            self.written[self.path.partition("?")[0]] = 0
        inner = f"<UploadId>1</UploadId><ETag>{_ETAG}</ETag>"
        self._send(f"<CompleteMultipartUploadResult>{inner}</CompleteMultipartUploadResult>".encode())

    def _send(self, content: bytes) -> None:
        self._begin(200, len(content))
        self.wfile.write(content)

    def _begin(self, status: int, length: int, headers: dict[str, str] | None = None) -> None:
        self.send_response_only(status)
        for name, value in ({"Content-Length": str(length), "ETag": _ETAG} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(authority: Path | None = None) -> Iterator[str]:
    """A server in a process of its own; its URL. Over TLS, if there is a file for the authority's certificate."""
    command = [sys.executable, "-m", __name__, *([str(authority)] if authority else [])]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=_ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.communicate()


def _serve(authority: str | None = None) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    if authority:
        context, certificate = serving_context("127.0.0.1")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        Path(authority).write_text(certificate)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http{'s' if authority else ''}://127.0.0.1:{server.server_port}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
