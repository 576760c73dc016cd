"""TLS connections of the reports endpoint: so small that thousands may stay open, and no more than there is room for.

asyncio gives each TLS connection 256 KiB to read into, whether anything comes or not; a report has two. Measured, with
aiohttp's and OpenSSL's share, of a connection that waits for its next report: 290 KiB, and 38 KiB as it is here.
"""

import asyncio
import contextlib
import resource
import ssl
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable

_BUFFER = 4096
_HANDSHAKE_SECONDS = 10
_GOODBYE_SECONDS = 1.0
"""For which a peer is waited for to close a connection too. One that sleeps between two reports hears nothing."""
_PASSING = 500
"""Connections beyond those that stay open: each is closed after its first report."""
_OTHER_FILES = 256
"""Open files that are no such connection."""


class Listener:
    """Accepts TLS connections.

    Args:
        most: connections that may stay open; fewer where the process may not open as many files.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._server: asyncio.Server | None = None
        self.open = 0
        """Connections that are open, also such whose handshake is not over."""

    @property
    def full(self) -> bool:
        """Whether more connections are open than may stay so."""
        return self.open > self._most

    async def listen(
        self, protocol: Callable[[], asyncio.Protocol], bind: str, port: int, context: ssl.SSLContext
    ) -> None:
        """Accept connections from now on, each with a protocol of its own.

        Raises:
            OSError: the address is not to be had.
        """

        def accepted() -> asyncio.BaseProtocol:
            return _Connection(self, protocol(), context) if self.open < room else _Refusal()

        room = max(1, _allowed(self._most + _PASSING + _OTHER_FILES) - _OTHER_FILES)
        self._most = max(0, min(self._most, room - _PASSING))
        self._server = await asyncio.get_running_loop().create_server(accepted, bind, port)

    def close(self) -> None:
        """Accept no more. Connections stay as they are."""
        if self._server:
            self._server.close()


class _Connection(SSLProtocol):
    """What ``create_server(ssl=…)`` makes, with a smaller buffer."""

    max_size = _BUFFER

    def __init__(self, listener: Listener, protocol: asyncio.Protocol, context: ssl.SSLContext) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(
            loop,
            protocol,
            context,
            waiter=None,  # type: ignore[arg-type]
            server_side=True,
            ssl_handshake_timeout=_HANDSHAKE_SECONDS,
            ssl_shutdown_timeout=_GOODBYE_SECONDS,
        )
        self._listener = listener

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._listener.open += 1
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._listener.open -= 1
        super().connection_lost(exc)


class _Refusal(asyncio.Protocol):
    """A connection for which there is no room."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - as asyncio has it
        transport.abort()


def _allowed(files: int) -> int:
    """Have the process allowed to open so many files; the answer is how many it may, which can be fewer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < files:
        wanted = files if hard == resource.RLIM_INFINITY else min(files, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return files if soft == resource.RLIM_INFINITY else min(files, soft)
