"""One thing at a time on its way, in a thread: while it lasts only the newest of what comes meanwhile waits."""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

from finetune_trainer.storage.parallel import Abandoned, Group

T = TypeVar("T")

_FAREWELL_SECONDS = 2.0
RATE = 160 << 20
"""Bytes a second. Each MiB stops the training loop for about 0.1 ms (measured), because requests are Python, too: at
this rate for less than 2 % of its time. An object store takes hardly more from one process."""


class Uploads(Generic[T]):
    """A queue with room for one.

    Args:
        work: does one thing; it is told in which group, and raises nothing but Abandoned.
    """

    def __init__(self, work: Callable[[T, Group], None]) -> None:
        self._work = work
        self._group = Group(rate=RATE)
        self._changed = threading.Condition()
        self._waiting: T | None = None
        self._current: T | None = None
        self._over = False
        self._thread: threading.Thread | None = None

    def put(self, thing: T) -> None:
        """Its turn comes after the present one's. What waited so far never has one."""
        with self._changed:
            self._waiting = thing
            self._changed.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True, name="uploads")
            self._thread.start()

    def pending(self) -> list[T]:
        """What is on its way, and what waits."""
        with self._changed:
            return [thing for thing in (self._current, self._waiting) if thing is not None]

    def wait(self, seconds: float) -> bool:
        """Until nothing is pending, but no longer than that. Returns whether that was reached."""
        with self._changed:
            return self._changed.wait_for(lambda: self._current is None and self._waiting is None, seconds)

    def hurry(self) -> None:
        """As fast as it goes: nobody else needs the processor any more."""
        self._group.hurry()

    def abandon(self) -> bool:
        """Ends what is on its way, and begins nothing more. Returns whether it has ended, which may take too long."""
        with self._changed:
            self._waiting, self._over = None, True
            self._changed.notify_all()
        self._group.abandon()
        return self.wait(_FAREWELL_SECONDS)

    def _run(self) -> None:
        while (thing := self._next()) is not None:
            with suppress(Abandoned):
                self._work(thing, self._group)

    def _next(self) -> T | None:
        """Waits for it; None: there will be no more."""
        with self._changed:
            self._current = None
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting is not None or self._over)
            self._current, self._waiting = self._waiting, None
            return self._current
