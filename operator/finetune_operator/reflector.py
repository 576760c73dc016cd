"""Follows one kind of objects: a list, then a watch with bookmarks from where the list ended, and after a gap a new
list, so that what was deleted in the gap is noticed.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Generic, Protocol, TypeVar

from finetune_operator.connection import ApiError, Connection, Resource, Unreachable
from finetune_operator.observed import Raw

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0

T = TypeVar("T")
_Kept = TypeVar("_Kept", contravariant=True)


class Store(Protocol[_Kept]):
    """Who keeps what is followed."""

    def listed(self, found: Sequence[_Kept], namespace: str | None) -> None:
        """All there is, in a namespace or at all (None): what is kept of it and not among these is gone."""

    def event(self, kind: str, found: _Kept) -> None:
        """One was ADDED, MODIFIED or DELETED."""


class Reflector(Generic[T]):
    """Keeps a store up to date, for ever."""

    def __init__(
        self,
        connection: Connection,
        resource: Resource,
        namespace: str | None,
        read: Callable[[Raw], T],
        store: Store[T],
        warn: Callable[[str], None],
        selector: str = "",
    ) -> None:
        """``read`` makes what is kept of an object, ``selector`` is one of labels, and ``warn`` is told what fails."""
        self._connection = connection
        self._resource = resource
        self._namespace = namespace
        self._read: Callable[[Raw], T] = read
        self._store: Store[T] = store
        self._warn = warn
        self._selected = {"labelSelector": selector} if selector else {}
        self.synced = asyncio.Event()

    async def run(self) -> None:
        """List and watch until cancelled; what fails is tried again, after pauses that grow."""
        version: str | None = None
        pause = FIRST_PAUSE
        while True:
            began, wait = time.monotonic(), 0.0
            try:
                if version is None:
                    version = await self._list()
                version = await self._follow(version)
                pause = FIRST_PAUSE
                continue
            except ApiError as e:
                version = None
                if e.code == 410:
                    continue
                problem, wait = str(e), e.retry_after
                if e.code == 403 and self._namespace is not None:
                    self.synced.set()  # the other namespaces need not wait for the rights in this one
            except _Broken as e:
                version, problem = e.version, str(e)
            except Unreachable as e:
                problem = str(e)
            if time.monotonic() - began > LONGEST_PAUSE:
                pause = FIRST_PAUSE  # it held for a while: one fault, and not a row of them
            self._warn_of(problem, max(pause, wait))
            await asyncio.sleep(max(wait, pause * random.uniform(0.5, 1.0)))  # noqa: S311
            pause = min(LONGEST_PAUSE, pause * 2)

    def _warn_of(self, problem: str, pause: float) -> None:
        where = f" of namespace {self._namespace}" if self._namespace is not None else ""
        self._warn(f"{self._resource[1]}{where}: {problem}; trying again in {pause:.1f} s")

    async def _list(self) -> str:
        found, version = await self._connection.list_all(self._resource, self._namespace, self._selected, self._read)
        self._store.listed(found, self._namespace)
        self.synced.set()
        return version

    async def _follow(self, version: str) -> str:
        """Watch until the server ends it; the answer is where to go on."""
        try:
            async with aclosing(
                self._connection.watch(self._resource, self._namespace, self._selected, version)
            ) as events:
                async for event in events:
                    if event["type"] != "BOOKMARK":
                        self._store.event(event["type"], self._read(event["object"]))
                    version = event["object"]["metadata"]["resourceVersion"]
        except Unreachable as e:
            raise _Broken(version, str(e)) from e
        return version


class _Broken(Exception):
    """A watch broke; it can go on from ``version``."""

    def __init__(self, version: str, problem: str) -> None:
        super().__init__(problem)
        self.version = version
