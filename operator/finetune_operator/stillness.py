"""How long the operator itself has seen nothing change about a job, whatever the clocks say."""

import time
from collections.abc import Callable, Hashable, Sequence

from finetune_operator import failures
from finetune_operator.observed import JobState, PodState

LOOK = 30.0
"""Seconds between two looks at a job whose stillness matters."""


class Stillness:
    """Counts, by FineTuneJob, the seconds in which it was looked at and stayed as it was.

    Between two looks no more than twice ``LOOK`` counts: while the process was paused, was not leading or could not
    reach anybody, it cannot know that nothing happened. A restart begins at zero.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, tuple[Hashable, float, float]] = {}

    def seen(self, uid: str, what: Hashable) -> float:
        """A job was looked at; the answer is for how long it has been like this, in seconds."""
        now = self._clock()
        before, at, still = self._seen.get(uid, (None, now, 0.0))
        still = still + min(max(0.0, now - at), 2 * LOOK) if before == what else 0.0
        self._seen[uid] = (what, now, still)
        return still

    def stirred(self, uid: str) -> None:
        """Something about a job changed just now that a look does not show: it told of progress."""
        if before := self._seen.get(uid):
            self._seen[uid] = (before[0], self._clock(), 0.0)

    def forget(self, uid: str) -> None:
        """The job is gone."""
        self._seen.pop(uid, None)


def situation_of(job: JobState | None, pods: Sequence[PodState]) -> Hashable:
    """What must change for a job not to be still, unless it reports other numbers: its Job, its pods and what they are
    at."""
    waits = [failures.of_waiting(pod) for pod in pods]
    return (
        (job.uid, job.short) if job else None,
        tuple((pod.uid, pod.running, pod.ended) for pod in pods),
        tuple(trouble and trouble.reason for trouble in waits),
    )
