"""An S3 server that misbehaves as it is told: it stands in front of a real one and passes on what it does not spoil."""

import http.client
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Request:
    """What a client sent."""

    method: str
    path: str
    """With the query."""
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def range(self) -> str:
        """``0-99`` or nothing."""
        return self.headers.get("range", "").removeprefix("bytes=")


@dataclass(frozen=True)
class Answer:
    """What the server answers."""

    status: int
    headers: dict[str, str]
    body: bytes = b""


Spoil = Callable[["Exchange"], None]


@dataclass
class Fault:
    """What becomes of the next requests that it fits."""

    spoil: Spoil
    fits: Callable[[Request], bool]
    times: float


class Exchange:
    """One request, and the ways in which its answer may go wrong."""

    def __init__(self, handler: BaseHTTPRequestHandler, request: Request, real: str) -> None:
        self.request = request
        self._handler = handler
        self._real = real

    def pass_on(self, request: Request | None = None) -> Answer:
        """What the real server answers."""
        sent = request or self.request
        connection = http.client.HTTPConnection(urlsplit(self._real).netloc)
        try:
            connection.request(sent.method, sent.path, sent.body, sent.headers)
            answer = connection.getresponse()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def answer(self, answer: Answer) -> None:
        """Answers in an orderly way."""
        self.begin(answer)
        self.write(answer.body)

    def begin(self, answer: Answer) -> None:
        """Status and headers. The length is that of the body, where the headers do not claim another."""
        handler = self._handler
        handler.send_response_only(answer.status)
        for name, value in ({"content-length": str(len(answer.body))} | answer.headers).items():
            if name not in ("connection", "transfer-encoding"):
                handler.send_header(name, value)
        handler.end_headers()

    def write(self, content: bytes) -> None:
        """A part of the body."""
        if self.request.method != "HEAD":
            self._handler.wfile.write(content)
            self._handler.wfile.flush()

    def await_hang_up(self) -> None:
        """Waits until the client has had enough."""
        poll = select.poll()
        poll.register(self._handler.connection, select.POLLRDHUP)
        poll.poll()
        self._handler.close_connection = True

    def reset(self) -> None:
        """Breaks the connection, in the way that the client's kernel calls a reset."""
        self._handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.hang_up()

    def hang_up(self) -> None:
        """Closes the connection."""
        self._handler.close_connection = True
        self._handler.connection.close()


def error(status: int, code: str, headers: dict[str, str] | None = None, **elements: str) -> Spoil:
    """Answers an error of S3's kind; nothing reaches the real server."""
    inner = "".join(f"<{name}>{value}</{name}>" for name, value in ({"Code": code, "Message": "no"} | elements).items())
    content = Answer(status, {"content-type": "application/xml"} | (headers or {}), f"<Error>{inner}</Error>".encode())
    return lambda exchange: exchange.answer(content)


def reset_after(count: int) -> Spoil:
    """The connection is reset when ``count`` bytes of the body were sent."""

    def spoil(exchange: Exchange) -> None:
        answer = exchange.pass_on()
        exchange.begin(answer)
        exchange.write(answer.body[:count])
        exchange.reset()

    return spoil


def ended_after(count: int) -> Spoil:
    """The body ends after ``count`` bytes, though the header announces all of them."""

    def spoil(exchange: Exchange) -> None:
        answer = exchange.pass_on()
        exchange.begin(answer)
        exchange.write(answer.body[:count])
        exchange.hang_up()

    return spoil


def shortened_to(count: int) -> Spoil:
    """The body is ``count`` bytes long, and the header says so, too."""

    def spoil(exchange: Exchange) -> None:
        answer = exchange.pass_on()
        exchange.answer(
            replace(answer, headers=answer.headers | {"content-length": str(count)}, body=answer.body[:count])
        )

    return spoil


def dripping(every: float) -> Spoil:
    """The body comes by a byte every so many seconds, until the client has had enough."""

    def spoil(exchange: Exchange) -> None:
        answer, never = exchange.pass_on(), threading.Event()
        exchange.begin(answer)
        for position in range(len(answer.body)):
            exchange.write(answer.body[position : position + 1])
            never.wait(every)

    return spoil


def deaf(exchange: Exchange) -> None:
    """What the client sends is not taken from the connection."""
    exchange.await_hang_up()


def garbled_answer(exchange: Exchange) -> None:
    """A byte of the body is another."""
    answer = exchange.pass_on()
    exchange.answer(replace(answer, body=_garbled(answer.body)))


def garbled_request(exchange: Exchange) -> None:
    """A byte of what the client sends arrives as another."""
    exchange.answer(exchange.pass_on(replace(exchange.request, body=_garbled(exchange.request.body))))


def _garbled(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def lost_answer(exchange: Exchange) -> None:
    """The request is carried out, and the client never hears of it."""
    exchange.pass_on()
    exchange.reset()


def after(doing: Callable[[], Any]) -> Spoil:
    """Something else happens first; then the request is passed on."""

    def spoil(exchange: Exchange) -> None:
        doing()
        exchange.answer(exchange.pass_on())

    return spoil


@dataclass
class FaultyS3:
    """The server."""

    url: str
    faults: list[Fault] = field(default_factory=list)
    served: list[Request] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def spoil(self, spoil: Spoil, method: str = "", path: str = "", times: float = 1, **fits: Any) -> None:
        """Spoils the next requests of this method whose path and query hold ``path``.

        Args:
            spoil: what becomes of them.
            method, path: which; empty is any.
            times: how many; ``math.inf`` for all of them.
            fits: ``where=`` a further condition.
        """
        further = fits.get("where", lambda _: True)
        condition = lambda request: request.method == (method or request.method) and path in request.path  # noqa: E731
        self.faults.append(Fault(spoil, lambda request: condition(request) and further(request), times))

    def fault(self, request: Request) -> Spoil | None:
        """What becomes of the request, if anything."""
        with self._lock:
            for fault in self.faults:
                if fault.times > 0 and fault.fits(request):
                    fault.times -= 1
                    return fault.spoil
        return None

    def of(self, method: str, path: str = "") -> list[Request]:
        """The requests of a method whose path and query hold ``path``."""
        return [request for request in self.served if request.method == method and path in request.path]


@contextmanager
def in_front_of(real: str) -> Iterator[FaultyS3]:
    """Starts the server, before the one at the URL ``real``."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def serve(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, self.path, headers, b"")
            spoil = faulty.fault(request)
            if spoil is not deaf:
                request = replace(request, body=self.rfile.read(int(headers.get("content-length", 0))))
            faulty.served.append(request)
            exchange = Exchange(self, request, real)
            try:
                if spoil:
                    spoil(exchange)
                else:
                    exchange.answer(exchange.pass_on())
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = serve  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """A client that hangs up is part of the game."""

    server = Server(("127.0.0.1", 0), Handler)
    faulty = FaultyS3(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield faulty
    finally:
        server.shutdown()
        server.server_close()
