"""How long a Job waits before it replaces failed pods."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from finetune_local.jobs.pods import finished_at

_LONGEST_SECONDS = 600.0


@dataclass(frozen=True)
class Backoff:
    """Failures since the last success, and when the last one was. Remembered between syncs, not stored."""

    failures: int = 0
    last_failure: datetime | None = None

    def after(self, succeeded: Sequence[dict[str, Any]], failed: Sequence[dict[str, Any]]) -> "Backoff":
        """The record once these newly finished pods are counted in."""
        if not succeeded and not failed:
            return self
        ends = sorted(map(finished_at, failed))
        if succeeded:
            last_success = max(map(finished_at, succeeded))
            ends = [end for end in ends if end > last_success]
            return Backoff(len(ends), ends[-1] if ends else None)
        return Backoff(self.failures + len(ends), ends[-1])

    def remaining(self, now: datetime, base_seconds: float) -> float:
        """Seconds to wait before the next pod: the base, doubled with every failure, ten minutes at most."""
        if self.failures == 0 or self.last_failure is None:
            return 0.0
        wait = min(base_seconds * 2.0 ** (self.failures - 1), _LONGEST_SECONDS)
        return max(0.0, wait - (now - self.last_failure).total_seconds())
