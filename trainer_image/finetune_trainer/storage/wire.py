"""The body of an answer, taken straight from its connection.

botocore, urllib3 and http.client pass a body on through three layers of buffers and a new object for every read. That
costs more processor time than the copying itself, and holds Python's lock more often than a thread beside the training
loop should. Past the headers nothing but the announced bytes follows, so they are received into a buffer that is used
again and again, half a mebibyte in one system call.
"""

import socket
import struct
import time
from collections.abc import Generator
from typing import Any

from finetune_trainer.errors import one_line
from finetune_trainer.storage.storage_errors import BrokenOff

_BLOCK = 512 << 10
"""Small enough to be in the processor's cache still when it is written to the file."""
_SLOWEST = 16 << 10
"""Bytes a second. What is slower is broken off and asked for again."""


class Wire:
    """The body of one answer, ``length`` bytes long.

    Args:
        body: botocore's StreamingBody, of which nothing has been read yet.
        seconds: of silence, or of less than 16 KiB a second, after which the server is given up.
    """

    def __init__(self, body: Any, length: int, seconds: float) -> None:
        self._answer = body._raw_stream  # urllib3's
        self._length = length
        self._seconds = seconds
        self._ahead = self._answer._fp.fp  # what was read ahead with the headers; then the socket, the way that
        self._socket = self._ahead.raw._sock  # botocore.compat.set_socket_timeout finds it

    def blocks(self) -> Generator[memoryview]:
        """The body's bytes; each block is valid until the next is asked for. The connection is used again afterwards.

        Raises:
            BrokenOff: the body ended early, or came too slowly.
        """
        view = memoryview(bytearray(min(_BLOCK, self._length)))
        left = self._length
        try:
            receive = self._receiver()
            while left:
                count = self._received(receive, view[:left])
                left -= count
                yield view[:count]
            self._keep()
        finally:
            self._answer.close()
            self._answer.release_conn()

    def _received(self, receive: Any, view: memoryview) -> int:
        began = time.monotonic()
        try:
            count = self._buffered(view) or receive(view)
        except (BlockingIOError, TimeoutError) as error:
            raise BrokenOff(f"nothing came for {self._seconds:g} s") from error
        except OSError as error:  # of the network: this class touches no file
            raise BrokenOff(one_line(error)) from error
        if not count:
            raise BrokenOff(f"the answer of {self._length} bytes ended early")
        if count < min(len(view), _SLOWEST * self._seconds) and time.monotonic() - began >= self._seconds:
            raise BrokenOff(f"{count} bytes in {self._seconds:g} s")
        return count

    def _buffered(self, view: memoryview) -> int:
        """What http.client read ahead. Nothing is asked of it afterwards, so it reads no further."""
        if (ahead := self._ahead) is None:
            return 0
        self._ahead = None
        content = ahead.peek()[: len(view)]
        view[: len(content)] = content
        return len(content)

    def _receiver(self) -> Any:
        if type(self._socket) is not socket.socket:
            return self._decrypted
        self._socket.settimeout(None)
        seconds, fraction = divmod(self._seconds, 1)
        limit = struct.pack("ll", int(seconds), int(fraction * 1e6))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        return lambda view: self._socket.recv_into(view, len(view), socket.MSG_WAITALL)

    def _decrypted(self, view: memoryview) -> int:
        """TLS hands out one record of at most 16 KiB at a time."""
        deadline, count = time.monotonic() + self._seconds, 0
        while count < len(view) and time.monotonic() < deadline:
            received = self._socket.recv_into(view[count:])
            if not received:
                break
            count += received
        return count

    def _keep(self) -> None:
        """Tells http.client and urllib3 that the body has been read, so that the connection goes back to its pool."""
        self._socket.settimeout(self._seconds)
        self._answer._fp.close()
        self._answer.release_conn()
