"""Bodies taken straight from the connection: the connection stays usable, over TLS too."""

import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from finetune_api.run import ExitCode
from finetune_api.spec import Storage
from finetune_local.apiserver.certificates import serving_context
from finetune_trainer.errors import TrainerError
from finetune_trainer.storage.patience import Patience
from finetune_trainer.storage.store import Store

CONTENT = os.urandom(3_000_001)
PIECE = 1 << 20


@pytest.fixture(params=["http", "https"])
def server(request, tmp_path, monkeypatch):
    """Serves CONTENT by ranges, and counts its connections. ``drip`` is what the next answer does instead."""
    connections = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self):
            super().setup()
            connections.append(self.client_address)

        def do_GET(self):
            start, stop = (int(number) for number in self.headers["Range"].removeprefix("bytes=").split("-"))
            body = CONTENT[start : stop + 1]
            self.send_response(206)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{len(CONTENT)}")
            for name, value in server.headers.items():
                self.send_header(name, value)
            self.end_headers()
            if server.spoil:
                server.spoil.pop()(self, body)
            else:
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_):
            """A client that hangs up is part of the game."""

    server = Server(("127.0.0.1", 0), Handler)
    if request.param == "https":
        context, authority = serving_context("127.0.0.1")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        (tmp_path / "ca.pem").write_text(authority)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    server.connections, server.spoil, server.headers = connections, [], {"ETag": '"v1"'}
    server.url = f"{request.param}://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def store(server, **patience) -> Store:
    return Store(Storage(endpoint_url=server.url), Patience(pause_seconds=0, **patience), piece=PIECE)


def test_a_body_arrives_as_it_is_and_its_connection_is_used_again(server, tmp_path):
    """More blocks than one, pieces at a time, a last piece that is shorter, and another object afterwards."""
    ours = store(server)
    for name in ("first", "second"):
        ours.download("s3://bucket/key", tmp_path / name)
        assert (tmp_path / name).read_bytes() == CONTENT
    assert len(server.connections) <= 3  # 2 × 3 pieces, of which the first comes alone


def test_a_server_that_closes_after_every_answer_is_connected_to_again(server, tmp_path):
    server.headers["Connection"] = "close"
    store(server).download("s3://bucket/key", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert len(server.connections) == 3


def stop_after(count):
    def spoil(handler, body):
        handler.wfile.write(body[:count])
        handler.close_connection = True
        handler.connection.close()

    return spoil


def drip(handler, body):
    never = threading.Event()
    for position in range(len(body)):
        handler.wfile.write(body[position : position + 1])
        never.wait(0.05)


@pytest.mark.parametrize("spoil", [stop_after(0), stop_after(700_000), drip])
def test_a_body_that_ends_early_or_drips_is_asked_for_again(server, tmp_path, spoil):
    server.spoil.append(spoil)
    store(server, silence_seconds=0.5).download("s3://bucket/key", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_body_that_always_drips_is_given_up_in_words(server, tmp_path):
    server.spoil += [drip] * 3
    with pytest.raises(TrainerError, match=r"bytes in 0\.2 s") as caught:
        store(server, silence_seconds=0.2, tries=3).download("s3://bucket/key", tmp_path / "file")
    assert caught.value.code is ExitCode.STORAGE_UNAVAILABLE
