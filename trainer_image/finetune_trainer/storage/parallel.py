"""Several pieces of work at a time that end together: all done, or the first error and nothing left running."""

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_DEBT_SECONDS = 0.03
"""How far work with a rate may run ahead of it: few long pauses disturb others less than many short ones."""
_FAREWELL_SECONDS = 2.0
"""What abandoned work gets to tidy up; whoever is told to stop waits no longer for it."""


class Abandoned(Exception):
    """The work is no longer wanted, because another piece of it failed or the process is to stop."""


class Group:
    """Pieces of work that share one fate. A group below another one shares that one's, too.

    Args:
        above: the other one.
        rate: bytes a second that all of them together may send, until somebody says :meth:`hurry`.
    """

    def __init__(self, above: "Group | None" = None, rate: float | None = None) -> None:
        self._above = above
        self._top: Group = above._top if above else self
        self._rate = rate
        self._paid_until = 0.0
        self._changed: threading.Condition = above._changed if above else threading.Condition()
        self._abandoned = False

    @property
    def abandoned(self) -> bool:
        """Whether the work is no longer wanted."""
        return self._abandoned or (self._above is not None and self._above.abandoned)

    def abandon(self) -> None:
        """Tells every piece to end: at its next block, and in the middle of a pause."""
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()

    def require(self) -> None:
        """Raises Abandoned where the work is no longer wanted."""
        if self.abandoned:
            raise Abandoned

    def hurry(self) -> None:
        """From here on there is no rate, also for those that wait for it."""
        with self._changed:
            self._top._rate = None
            self._changed.notify_all()

    def spend(self, size: int) -> None:
        """Before ``size`` bytes are sent: waits as long as the rate wants it. Raises Abandoned as :meth:`pause`."""
        top = self._top
        with self._changed:
            if top._rate is not None:
                now = time.monotonic()
                top._paid_until = max(top._paid_until, now) + size / top._rate
                if (debt := top._paid_until - now) > _DEBT_SECONDS:
                    self._changed.wait_for(lambda: self.abandoned or top._rate is None, debt)
        self.require()

    def pause(self, seconds: float) -> None:
        """Waits. Raises Abandoned, at once, where the work is no longer wanted."""
        with self._changed:
            self._changed.wait_for(lambda: self.abandoned, seconds)
        self.require()


def in_parallel(items: Iterable[T], work: Callable[[T, Group], R], width: int, above: Group | None = None) -> list[R]:
    """``work`` on each of ``items``, up to ``width`` at a time; the results in the order of the items.

    Items are taken from the iterable as there is room for them. The first error ends the rest and is raised.
    """
    group = Group(above)
    futures: list[Future[R]] = []
    running: set[Future[R]] = set()
    pool = ThreadPoolExecutor(width)
    try:
        for item in items:
            futures.append(pool.submit(work, item, group))
            running.add(futures[-1])
            if len(running) >= width:
                running = _after(running, FIRST_COMPLETED)
        _after(running, FIRST_EXCEPTION)
        return [future.result() for future in futures]
    except BaseException:
        group.abandon()
        wait(futures, _FAREWELL_SECONDS)
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _after(futures: set[Future[R]], event: str) -> set[Future[R]]:
    """Waits for the event; the futures that are not done yet. Raises the error of one that failed."""
    done, running = wait(futures, return_when=event)
    for future in done:
        future.result()
    return running
