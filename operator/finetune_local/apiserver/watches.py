"""Watch streams: a line of JSON for every change that a client selected, with bookmarks and an end."""

from __future__ import annotations

import asyncio
import enum
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from .errors import ApiError, bad_request
from .resources import GroupResource
from .selectors import Predicate
from .store import Change, Object, Store

BOOKMARK_INTERVAL = 60.0  # seconds without an event after which a bookmark is sent
_DEFAULT_TIMEOUT = (1800, 3600)  # seconds, drawn at random so that clients do not return all at once
INITIAL_EVENTS_END = "k8s.io/initial-events-end"


class _Order(enum.Enum):
    """What a stream is told beside changes."""

    END = enum.auto()
    SILENCE = enum.auto()


_Told = Change | bytes | _Order  # bytes are sent as they are
_Queue = asyncio.Queue[_Told]


@dataclass
class Watch:
    """What a client wants to see."""

    resource: GroupResource
    namespace: str
    matches: Predicate
    show: Callable[[Object], Object]
    """How an object is written (as it is, as a Table, as metadata only)."""
    bookmark: Callable[[Object], Object]
    """A bookmark's object from its metadata."""
    user: str = ""
    since: str = ""
    """resourceVersion; empty or "0" begins with all objects there are."""
    bookmarks: bool = False
    initial_events: bool = False
    timeout: float = field(default_factory=lambda: random.uniform(*_DEFAULT_TIMEOUT))  # noqa: S311


class WatchHub:
    """All streams that are open, so that they can be ended from outside, and disturbed: for tests of clients.

    `copies` is how often each change is sent, and `delays` by how many seconds those of a resource come late.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open: dict[_Queue, tuple[GroupResource, str]] = {}
        self.copies = 1
        self.delays: dict[GroupResource, float] = {}
        store.listen(self._heard)

    def __len__(self) -> int:
        return len(self._open)

    def _heard(self, resource: GroupResource, change: Change) -> None:
        late = self.delays.get(resource)
        for queue in [queue for queue, (watched, _) in self._open.items() if watched == resource]:
            for _ in range(self.copies):
                if late:
                    asyncio.get_running_loop().call_later(late, queue.put_nowait, change)
                else:
                    queue.put_nowait(change)

    def end(self, resource: GroupResource | None = None) -> None:
        """Ends the streams of one resource, or all."""
        self._tell(resource, _Order.END)

    def silence(self, user: str) -> None:
        """Nothing more comes by a user's streams, and they stay open, as where a firewall forgot a connection."""
        self._tell(None, _Order.SILENCE, user)

    def say(self, line: bytes, resource: GroupResource, user: str) -> None:
        """Sends a line as it is, whether it is an event or not."""
        self._tell(resource, line, user)

    def _tell(self, resource: GroupResource | None, what: _Told, user: str | None = None) -> None:
        for queue, (watched, whose) in self._open.items():
            if resource in (None, watched) and user in (None, whose):
                queue.put_nowait(what)

    async def serve(self, request: web.Request, watch: Watch) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Cache-Control": "no-cache"})
        response.enable_chunked_encoding()
        queue: _Queue = asyncio.Queue()
        if watch.since not in ("", "0"):
            await self._store.wait_until_it_moves()
        # Nothing awaits between the look at the store and the subscription: no change falls in between.
        self._open[queue] = (watch.resource, watch.user)
        try:
            first, version = self._beginning(watch)
            await response.prepare(request)
            if first:
                await response.write(first)
            if version is not None:
                await self._follow(response, watch, queue, version)
        finally:
            del self._open[queue]
        await response.write_eof()
        return response

    def _beginning(self, watch: Watch) -> tuple[bytes, int | None]:
        """What is sent at once, and the resourceVersion it reaches (None: the stream ends here)."""
        if not watch.since.isdigit() and watch.since != "":
            raise bad_request(f"resourceVersion: Invalid value: {watch.since!r}: strconv.ParseUint: invalid syntax")
        version = self._store.version
        if watch.since in ("", "0") or watch.initial_events:
            objects, version = self._store.listed(watch.resource, watch.namespace)
            lines = [_line("ADDED", watch.show(obj)) for obj in objects if watch.matches(obj)]
            if watch.initial_events and watch.bookmarks:
                lines.append(self._bookmark(watch, version, {INITIAL_EVENTS_END: "true"}))
            return b"".join(lines), version
        try:
            missed = self._store.since(watch.resource, int(watch.since))
        except ApiError as error:
            return _line("ERROR", error.status()), None
        lines = [line for change in missed if (line := _event(watch, change))]
        return b"".join(lines), version

    async def _follow(self, response: web.StreamResponse, watch: Watch, queue: _Queue, version: int) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + watch.timeout
        told = version
        while (left := deadline - loop.time()) > 0:
            try:
                change = await asyncio.wait_for(queue.get(), min(left, BOOKMARK_INTERVAL))
            except TimeoutError:
                if watch.bookmarks and self._store.version > told:
                    told = self._store.version
                    await response.write(self._bookmark(watch, told))
                continue
            lines: list[bytes] = []
            while not isinstance(change, _Order):
                if line := change if isinstance(change, bytes) else _event(watch, change):
                    lines.append(line)
                    told = change.version if isinstance(change, Change) else told
                if queue.empty():
                    break
                change = queue.get_nowait()
            if lines:
                await response.write(b"".join(lines))
            if change is _Order.SILENCE:
                await asyncio.Event().wait()  # until the client goes away
            if change is _Order.END:
                return

    @staticmethod
    def _bookmark(watch: Watch, version: int, annotations: dict[str, str] | None = None) -> bytes:
        meta: dict[str, Any] = {"resourceVersion": str(version)}
        if annotations:
            meta["annotations"] = annotations
        return _line("BOOKMARK", watch.bookmark({"metadata": meta}))


def _line(kind: str, obj: Object) -> bytes:
    return json.dumps({"type": kind, "object": obj}, separators=(",", ":")).encode() + b"\n"


def _event(watch: Watch, change: Change) -> bytes | None:
    """A change as the selector sees it: an object that comes to match is added, one that ceases to, deleted."""
    if watch.namespace and change.object["metadata"].get("namespace") != watch.namespace:
        return None
    matches = change.type != "DELETED" and watch.matches(change.object)
    matched = change.previous is not None and watch.matches(change.previous)
    if matches:
        return _line("MODIFIED" if matched else "ADDED", watch.show(change.object))
    if not matched or change.previous is None:
        return None
    last = change.previous
    meta = {**last["metadata"], "resourceVersion": change.object["metadata"]["resourceVersion"]}
    return _line("DELETED", watch.show({**last, "metadata": meta}))
