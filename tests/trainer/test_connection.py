"""The connection that reports go over: kept while it is good, replaced unsaid where it is not."""

import base64
import contextlib
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue

import pytest

from finetune_trainer import connection
from finetune_trainer.connection import Connection
from tests.certificates import make_certificate

HEADERS = {"Content-Type": "application/json"}


class Server(ThreadingHTTPServer):
    """Answers every POST with ``status``. ``heard`` gets (connection, body); ``connections`` counts."""

    daemon_threads = True

    def __init__(self, port=0, certificate=None, then="keep"):
        super().__init__(("127.0.0.1", port), Handler)
        self.connections, self.status, self.then = 0, 200, then
        self.heard: Queue = Queue()
        self.held = threading.Event()
        self.sockets: list[socket.socket] = []
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.secure = bool(certificate)
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"http{'s' if self.secure else ''}://127.0.0.1:{self.server_port}/v1/reports"

    def get_request(self):
        made = super().get_request()
        self.connections += 1
        self.sockets.append(made[0])
        return made

    def handle_error(self, request, client_address):
        pass

    def hang_up(self):
        """Close what is open, as a server does that ends or finds a connection idle for too long."""
        for made in self.sockets:
            with contextlib.suppress(OSError):  # it is closed already
                made.shutdown(socket.SHUT_RDWR)
        self.sockets.clear()

    def end(self):
        self.held.set()
        self.shutdown()
        self.hang_up()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.heard.put((self.server.connections, body.decode()))
        if self.server.then == "hold":
            self.server.held.wait(30)
        if self.server.then == "drop":
            self.close_connection = True
            return
        if self.server.then == "babble":
            self.wfile.write(b"what?\r\n")
            self.close_connection = True
            return
        said = b'{"message": "received"}'
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(said)))
        if self.server.then == "close":
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_):
        pass


@pytest.fixture
def serve():
    """Starts servers, and ends them."""
    made = []

    def start(*arguments, **named):
        made.append(Server(*arguments, **named))
        return made[-1]

    yield start
    for server in made:
        server.end()


def heard(server):
    return [server.heard.get_nowait() for _ in range(server.heard.qsize())]


def post(link, *bodies):
    for body in bodies:
        link.post(body.encode(), HEADERS)


def test_several_go_over_one_connection(serve, tmp_path):
    certificate = make_certificate(tmp_path)
    server = serve(certificate=certificate)
    post(Connection(server.url, certificate), "one", "two", "three")
    assert heard(server) == [(1, "one"), (1, "two"), (1, "three")]


@pytest.mark.parametrize("secure", [True, False])
def test_what_the_server_closed_in_the_meantime_is_opened_anew_and_nothing_is_lost(serve, tmp_path, secure):
    certificate = make_certificate(tmp_path)
    server = serve(certificate=certificate if secure else None)
    link = Connection(server.url, certificate)
    post(link, "one")
    server.hang_up()
    post(link, "two", "three")
    assert heard(server) == [(1, "one"), (2, "two"), (2, "three")]


def test_a_server_that_was_started_anew_with_another_authority_is_gone_on_with(serve, tmp_path):
    first = make_certificate(tmp_path)
    server = serve(certificate=first)
    link = Connection(server.url, first)
    post(link, "one")
    server.end()
    again = serve(server.server_port, make_certificate(tmp_path))  # the same file
    post(link, "two")
    assert heard(again) == [(1, "two")]


def test_each_answer_that_ends_its_connection_is_followed_by_another_connection(serve):
    server = serve(then="close")
    post(Connection(server.url, None), "one", "two")
    assert heard(server) == [(1, "one"), (2, "two")]


def test_a_connection_grows_no_older_than_it_may_and_not_all_grow_equally_old(serve):
    server, now = serve(), [0.0]
    link = Connection(server.url, None, clock=lambda: now[0])
    post(link, "one")
    now[0] += connection._OLDEST / 2 - 1
    post(link, "two")
    now[0] += connection._OLDEST / 2 + 1
    post(link, "three")
    assert heard(server) == [(1, "one"), (1, "two"), (2, "three")]
    ends = set()
    for _ in range(5):
        other = Connection(server.url, None, clock=lambda: 0.0)
        post(other, "four")
        ends.add(other._until)
        other.close()
    assert len(ends) == 5


def test_who_hangs_up_on_a_new_connection_is_not_asked_again(serve):
    server = serve(then="drop")
    link = Connection(server.url, None)
    with pytest.raises(OSError, match="RemoteDisconnected"):
        post(link, "one")
    assert heard(server) == [(1, "one")]


def test_what_fails_on_a_kept_connection_is_tried_once_more_and_not_for_ever(serve):
    server = serve()
    link = Connection(server.url, None)
    post(link, "one")
    server.then = "drop"
    with pytest.raises(OSError, match="RemoteDisconnected"):
        post(link, "two")
    assert heard(server) == [(1, "one"), (1, "two"), (2, "two")]


def test_a_kept_connection_that_has_gone_silent_is_left_after_the_timeout(serve, monkeypatch):
    """Whether the report arrived is not known; the next one is on its way before anybody would miss it."""
    monkeypatch.setattr(connection, "TIMEOUT_SECONDS", 0.2)
    server = serve()
    link = Connection(server.url, None)
    post(link, "one")
    server.then = "hold"
    with pytest.raises(TimeoutError):
        post(link, "two")
    server.then = "keep"
    server.held.set()
    post(link, "three")
    assert heard(server) == [(1, "one"), (1, "two"), (2, "three")]


def test_an_answer_that_is_no_success_is_an_error_with_its_text_and_keeps_the_connection(serve):
    server = serve()
    link = Connection(server.url, None)
    server.status = 503
    with pytest.raises(OSError, match=r'503 Service Unavailable: {"message": "received"}'):
        post(link, "one")
    server.status = 200
    post(link, "two")
    assert heard(server) == [(1, "one"), (1, "two")]


def test_what_does_not_speak_http_is_an_error_like_any_other(serve):
    server = serve(then="babble")
    with pytest.raises(OSError, match="no answer in HTTP"):
        post(Connection(server.url, None), "one")


def test_a_proxy_of_the_environment_is_gone_through(serve, tmp_path, monkeypatch):
    certificate = make_certificate(tmp_path)
    server, asked = serve(certificate=certificate), Queue()
    listening = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=tunnel, args=(listening, server.server_port, asked), daemon=True).start()
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", f"http://me:p%40ss@127.0.0.1:{listening.getsockname()[1]}")
    link = Connection(server.url, certificate)
    post(link, "one", "two")
    link.close()
    listening.close()
    assert heard(server) == [(1, "one"), (1, "two")]
    request = asked.get(timeout=10)
    assert request.startswith(f"CONNECT 127.0.0.1:{server.server_port} ")
    assert f"Proxy-Authorization: Basic {base64.b64encode(b'me:p@ss').decode()}" in request
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    post(Connection(server.url, certificate), "three")
    assert asked.empty()


def tunnel(listening, port, asked):
    """A proxy for one connection."""
    near, _ = listening.accept()
    request = b""
    while b"\r\n\r\n" not in request:
        request += near.recv(4096)
    asked.put(request.decode())
    far = socket.create_connection(("127.0.0.1", port))
    near.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
    back = threading.Thread(target=pump, args=(far, near), daemon=True)
    back.start()
    pump(near, far)
    back.join()
    near.close()
    far.close()


def pump(source, sink):
    with contextlib.suppress(OSError):  # the other side is gone
        while content := source.recv(65536):
            sink.sendall(content)
        sink.shutdown(socket.SHUT_WR)
