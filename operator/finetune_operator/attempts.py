"""The attempts of a FineTuneJob, as its status has them: which is the present one, and when it may begin.

Each attempt is one Job. The present one is the one with the highest number, or, once that has ended, the next. Read
from the raw status: a reason that only a newer version knows must not make a job start anew.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from finetune_api.conditions import Reason
from finetune_operator.observed import Raw
from finetune_operator.times import parse_time

MOST_KEPT = 10
"""Attempts that a status holds."""
_NO_WAIT = (Reason.SUSPENDED, Reason.CHECKED)
"""After what the next attempt begins at once."""


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """How an attempt ended."""

    reason: Reason
    message: str
    counted: bool = False
    """Against ``spec.runPolicy.maxRetries``."""


@dataclass(frozen=True)
class Attempts:
    """Those that a status tells of."""

    recorded: tuple[Raw, ...] = ()
    """Oldest first."""
    failures: int = 0
    """That count against ``spec.runPolicy.maxRetries``."""

    @classmethod
    def of(cls, status: Raw) -> "Attempts":
        """From a raw status."""
        known = [a for a in status.get("attempts") or () if isinstance(a, dict) and isinstance(a.get("number"), int)]
        failures = status.get("failures")
        return cls(tuple(sorted(known, key=lambda a: int(a["number"]))), failures if isinstance(failures, int) else 0)

    @property
    def number(self) -> int:
        """Of the present attempt."""
        if not self.recorded:
            return 0
        last = self.recorded[-1]
        return int(last["number"]) + ("finishedAt" in last)

    @property
    def present(self) -> Raw:
        """The record of the present attempt; empty where its Job was never seen."""
        return self.recorded[-1] if self.recorded and "finishedAt" not in self.recorded[-1] else {}

    @property
    def trained(self) -> bool:
        """Whether one of them was more than a check."""
        return any(not a.get("check") for a in self.recorded)

    @property
    def ended(self) -> tuple[Raw, ...]:
        """Those that have ended."""
        return tuple(a for a in self.recorded if "finishedAt" in a)

    @property
    def divisor(self) -> int:
        """The micro-batch divisor of the present attempt: doubled whenever memory ran out."""
        if self.present:
            return int(self.present.get("microBatchDivisor") or 1)
        if not self.ended:
            return 1
        last = self.ended[-1]
        return int(last.get("microBatchDivisor") or 1) * (2 if last.get("reason") == Reason.OUT_OF_MEMORY else 1)

    def begins_at(self, uid: str, now: datetime, shortest: float, longest: float) -> datetime | None:
        """When the present attempt may begin at the earliest; None: at once.

        The wait doubles with every attempt in a row that did not last ``longest``, from ``shortest`` up to ``longest``
        seconds, give or take a quarter. Which quarter follows from UID and number, so that whoever looks again comes to
        the same moment.
        """
        last = self.ended[-1] if self.ended else None
        if last is None or last.get("reason") in _NO_WAIT:
            return None
        row = next((n for n, a in enumerate(reversed(self.ended)) if _breaks(a, longest)), len(self.ended))
        wait = min(longest, shortest * 2.0 ** max(0, row - 1)) * (0.75 + 0.5 * _chance(uid, int(last["number"])))
        ended = parse_time(str(last["finishedAt"]))
        return ended + timedelta(seconds=wait) if ended <= now else None  # else a clock was turned back


def _breaks(attempt: Raw, longest: float) -> bool:
    """Whether an attempt is none of a row of failures."""
    return attempt.get("reason") == Reason.CHECKED or _lasted(attempt) >= longest


def _lasted(attempt: Raw) -> float:
    """Seconds; 0 where that is not known."""
    if not attempt.get("startedAt"):
        return 0.0
    return (parse_time(str(attempt["finishedAt"])) - parse_time(str(attempt["startedAt"]))).total_seconds()


def _chance(uid: str, number: int) -> float:
    """0 to 1, the same for the same attempt."""
    return int(hashlib.sha256(f"{uid}/{number}".encode()).hexdigest()[:8], 16) / 2**32
