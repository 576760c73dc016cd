"""A keyed work queue: a key waits at most once, one worker holds a key at a time, failures back off.

Keys wait in lanes, one for each tenant, and lanes take turns: whoever adds a thousand keys delays his own.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

FIRST_BACKOFF = 0.2
LONGEST_BACKOFF = 60.0


class Lanes(Generic[K]):
    """Waiting keys, each once: first come, first served within a lane, and one key of each lane in turn."""

    def __init__(self, lane_of: Callable[[K], Hashable]) -> None:
        self._lane_of = lane_of
        self._lanes: dict[Hashable, dict[K, None]] = {}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, key: K) -> bool:
        """Whether the key is new; one that waits keeps its place."""
        lane = self._lanes.setdefault(self._lane_of(key), {})
        if key in lane:
            return False
        lane[key] = None
        self._length += 1
        return True

    def take(self) -> K:
        """The next key; its lane goes to the end of the round."""
        name = next(iter(self._lanes))
        lane = self._lanes.pop(name)
        key = next(iter(lane))
        del lane[key]
        if lane:
            self._lanes[name] = lane
        self._length -= 1
        return key


class WorkQueue(Generic[K]):
    """Keys to be worked on.

    A key that is added while it is being worked on is worked on once more afterwards. ``pause`` holds new work back
    (a replica that does not lead) without forgetting keys.

    Args:
        lane_of: names the lane that a key waits in; without it all wait in one.
        waited: is told the seconds that a key was ready before a worker took it.
    """

    def __init__(
        self,
        lane_of: Callable[[K], Hashable] = lambda _: None,
        jitter: Callable[[], float] = random.random,
        waited: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._ready: Lanes[K] = Lanes(lane_of)
        self._since: dict[K, float] = {}
        self._waited = waited
        self._busy: set[K] = set()
        self._again: set[K] = set()
        self._failures: dict[K, int] = {}
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._wake = asyncio.Event()
        self._open = asyncio.Event()
        self._jitter = jitter

    def resume(self) -> None:
        """Let workers take keys. A new queue is paused."""
        self._open.set()

    def pause(self) -> None:
        """Let workers finish the keys they hold and take no more."""
        self._open.clear()

    def add(self, key: K) -> None:
        """Work on a key as soon as a worker is free."""
        if timer := self._timers.pop(key, None):
            timer.cancel()
        if key in self._busy:
            self._again.add(key)
        elif self._ready.add(key):
            self._since[key] = time.monotonic()
            self._wake.set()

    def __len__(self) -> int:
        """Keys that are ready and that no worker holds."""
        return len(self._ready)

    def add_after(self, key: K, seconds: float) -> None:
        """Work on a key later; an earlier turn, asked for before or after, takes its place."""
        loop = asyncio.get_running_loop()
        due = loop.time() + max(0.0, seconds)
        if timer := self._timers.get(key):
            if timer.when() <= due:
                return
            timer.cancel()
        self._timers[key] = loop.call_at(due, self._due, key)

    def _due(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def backoff(self, key: K) -> float:
        """Seconds to wait after one more failure of a key: exponential, with jitter."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        return min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(failures, 20)) * (0.5 + self._jitter() / 2)

    def idle(self) -> bool:
        """Whether nothing waits and nothing is being worked on (delayed keys do not count)."""
        return not (self._ready or self._busy)

    async def work(
        self, handle: Callable[[K], Awaitable[float | None]], failed: Callable[[K, Exception], None]
    ) -> None:
        """Take keys for ever. ``handle`` returns the seconds after which to come back, or None.

        An exception of ``handle`` is told to ``failed``, and the key comes back after its backoff.
        """
        while True:
            key = await self._take()
            try:
                after = await handle(key)
            except Exception as e:
                failed(key, e)
                self.add_after(key, self.backoff(key))
            else:
                self._failures.pop(key, None)
                if after is not None:
                    self.add_after(key, after)
            finally:
                self._done(key)

    async def _take(self) -> K:
        while True:
            await self._open.wait()
            if self._ready:
                key = self._ready.take()
                self._busy.add(key)
                self._waited(time.monotonic() - self._since.pop(key))
                return key
            self._wake.clear()
            await self._wake.wait()

    def _done(self, key: K) -> None:
        self._busy.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)
