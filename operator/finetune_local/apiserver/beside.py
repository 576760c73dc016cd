"""What runs beside the requests and follows the writes, as a controller does in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from .resources import GroupResource
from .store import Change, Store


class Beside:
    """Calls `work` once after the writes that `heard` says it is for. Its own writes count too: it works until a pass
    writes nothing more."""

    def __init__(
        self, store: Store, heard: Callable[[GroupResource, Change], bool], work: Callable[[], None], name: str
    ) -> None:
        self._store, self._heard, self._work, self._name = store, heard, work, name
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stop_listening: Callable[[], None] | None = None

    def start(self) -> None:
        self._stop_listening = self._store.listen(self._written)
        self._task = asyncio.create_task(self._run(), name=self._name)

    async def stop(self) -> None:
        if self._stop_listening:
            self._stop_listening()
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def _written(self, resource: GroupResource, change: Change) -> None:
        if self._heard(resource, change):
            self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            # A pause lets the answer to the write leave first, as it does where this is a process apart.
            await asyncio.sleep(0)
            self._work()
