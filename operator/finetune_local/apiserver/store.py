"""Objects in memory, each write with the next resourceVersion, and a bounded history for watches.

An object that is in the store is never changed in place: writers put a new one. So reading needs no copy.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from .errors import expired
from .resources import GroupResource

Object = dict[str, Any]
Key = tuple[str, str]
"""Namespace ("" for cluster-scoped objects) and name."""


def clone(value: Any) -> Any:
    """A deep copy of JSON data; much faster than copy.deepcopy."""
    if isinstance(value, dict):
        return {key: clone(one) for key, one in value.items()}
    if isinstance(value, list):
        return [clone(one) for one in value]
    return value


def key_of(obj: Object) -> Key:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


@dataclass(frozen=True, slots=True)
class Change:
    """One write. `previous` is what was there before (None when created)."""

    type: str
    version: int
    object: Object
    previous: Object | None


Objects = list[Object]
Changes = list[Change]
Listener = Callable[[GroupResource, Change], None]
Listeners = list[Listener]


@dataclass
class _Collection:
    objects: dict[Key, Object] = field(default_factory=dict)
    history: deque[Change] = field(default_factory=deque)
    floor: int = 0
    """The oldest resourceVersion that a watch may start from."""


@dataclass(frozen=True)
class Past:
    """What there was at a resourceVersion."""

    version: int
    objects: dict[GroupResource, Objects]


class Store:
    """All collections. Reads and writes do not await, so each is atomic in an event loop."""

    def __init__(self, history: int = 2000) -> None:
        self.version = 1
        self._limit = history
        self._collections: dict[GroupResource, _Collection] = {}
        self._listeners: Listeners = []
        self._past: Past | None = None
        self._moves = asyncio.Event()
        self._moves.set()

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Calls `listener` at every write, within the write. Returns how to stop that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def open(self, resource: GroupResource) -> None:
        """Starts a collection: no watch may start before this moment."""
        self._collections.setdefault(resource, _Collection(floor=self.version))

    def close(self, resource: GroupResource) -> None:
        self._collections.pop(resource, None)

    def get(self, resource: GroupResource, namespace: str, name: str) -> Object | None:
        return self._collections[resource].objects.get((namespace, name))

    def list(self, resource: GroupResource, namespace: str = "") -> Objects:
        """Objects in the order of namespace and name; of all namespaces where none is given."""
        found = self._collections[resource].objects
        keys = sorted(key for key in found if not namespace or key[0] == namespace)
        return [found[key] for key in keys]

    def listed(self, resource: GroupResource, namespace: str = "") -> tuple[Objects, int]:
        """The same as clients are shown it, and the resourceVersion of that; see `show`."""
        if self._past is None:
            return self.list(resource, namespace), self.version
        found = self._past.objects.get(resource, [])
        return [obj for obj in found if not namespace or key_of(obj)[0] == namespace], self._past.version

    def present(self) -> Past:
        """All there is now, to be shown later."""
        return Past(self.version, {resource: self.list(resource) for resource in self._collections})

    def show(self, past: Past | None) -> None:
        """Clients are shown lists as they were once, as by an API server whose cache lags; or what there is."""
        self._past = past
        if past is None:
            self._moves.set()
        else:
            self._moves.clear()

    async def wait_until_it_moves(self) -> None:
        """While the past is shown, nothing happens."""
        await self._moves.wait()

    def everything(self) -> Iterable[tuple[GroupResource, Object]]:
        for resource, collection in tuple(self._collections.items()):
            for obj in tuple(collection.objects.values()):
                yield resource, obj

    def put(self, resource: GroupResource, obj: Object) -> Object:
        """Writes an object that the caller gives away, under the next resourceVersion."""
        objects = self._collections[resource].objects
        key = key_of(obj)
        previous = objects.get(key)
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)
        objects[key] = obj
        self._tell(resource, Change("MODIFIED" if previous else "ADDED", self.version, obj, previous))
        return obj

    def remove(self, resource: GroupResource, obj: Object) -> Object:
        """Takes an object away. The last state is told with the resourceVersion of the deletion."""
        previous = self._collections[resource].objects.pop(key_of(obj))
        self.version += 1
        last = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self.version)}}
        self._tell(resource, Change("DELETED", self.version, last, previous))
        return last

    def _tell(self, resource: GroupResource, change: Change) -> None:
        collection = self._collections[resource]
        collection.history.append(change)
        while len(collection.history) > self._limit:
            collection.floor = collection.history.popleft().version
        for listener in tuple(self._listeners):
            listener(resource, change)

    def floor(self, resource: GroupResource) -> int:
        return self._collections[resource].floor

    def compact(self) -> None:
        """Forgets all history: a watch from before this moment gets 410 Expired."""
        for collection in self._collections.values():
            collection.history.clear()
            collection.floor = self.version

    def since(self, resource: GroupResource, version: int) -> Changes:
        """Writes after `version`. Raises 410 when the history does not go back that far."""
        collection = self._collections[resource]
        if version < collection.floor:
            raise expired(f"too old resource version: {version} ({collection.floor})")
        return [change for change in collection.history if change.version > version]
