"""SIGTERM: the word that this pod is to end, because its node is needed for something else or goes away."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from finetune_api.run import GRACE_SECONDS, ExitCode
from finetune_trainer.errors import Stopped

_FAREWELL_SECONDS = 15.0
"""Of the grace period: for the forward pass that must end first, and for what comes after the last upload."""


class StopRequest:
    """Raises Stopped in the main thread, or is only noted where the work knows a better moment to end.

    A second SIGTERM ends the process at once, whatever it is at.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._asked_at: float | None = None
        self._deferred = False

    def listen(self) -> None:
        """From here on SIGTERM means this."""
        signal.signal(signal.SIGTERM, self._stop)

    def ignore(self) -> None:
        """From here on the end is known, and what is left to do takes no longer than a pod's grace."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def asked(self) -> bool:
        """Whether the process is to end."""
        return self._asked_at is not None

    def seconds_left(self) -> float:
        """Until everything must be safe, because SIGKILL follows; the whole of it where nobody has asked yet."""
        room = GRACE_SECONDS - _FAREWELL_SECONDS
        return room if self._asked_at is None else max(0.0, room - (self._clock() - self._asked_at))

    def obey(self) -> None:
        """Raises Stopped where the process was asked to end meanwhile."""
        if self.asked():
            raise Stopped

    def defer(self) -> None:
        """From here on SIGTERM is only noted, because what is left takes no longer than to save it for another pod."""
        self._deferred = True

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within, SIGTERM is only noted: whoever works there looks at :meth:`asked`."""
        self.defer()
        try:
            yield
        finally:
            self._deferred = False

    def _stop(self, _signal: int, _frame: FrameType | None) -> None:
        if self.asked():
            os._exit(ExitCode.PREEMPTED)
        self._asked_at = self._clock()
        if not self._deferred:
            raise Stopped
