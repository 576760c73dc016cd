"""Kubernetes Events: what `kubectl describe` tells of a FineTuneJob's life."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from finetune_api import names
from finetune_api.conditions import Phase, Reason
from finetune_operator.observed import Raw
from finetune_operator.outcome import Outcome, Situation
from finetune_operator.times import format_time

_NAME_CUT = 200
_LONGEST_MESSAGE = 1024
"""Bytes that the API server takes for an Event's message."""
_WELL = {
    Reason.JOB_CREATED,
    Reason.POD_STARTING,
    Reason.TRAINING,
    Reason.EVALUATING,
    Reason.PUBLISHING,
    Reason.SUCCEEDED,
    Reason.QUEUED,
    Reason.SUSPENDED,
    Reason.STOPPING,
    Reason.CANCELLED,
}


@dataclass(frozen=True, slots=True)
class EventText:
    """One Event, before it has a time."""

    type: str
    """Normal or Warning."""
    reason: str
    message: str


def event_for(s: Situation, outcome: Outcome) -> EventText | None:
    """The Event that goes with a write of the status: one for each change of phase or reason, none for progress."""
    if s.status.phase == outcome.phase and s.told == outcome.reason:
        return None
    kind = "Normal" if outcome.reason in _WELL and outcome.phase is not Phase.FAILED else "Warning"
    return EventText(kind, outcome.reason.value, outcome.message)


def manifest(job: Raw, event: EventText, now: datetime) -> dict[str, Any]:
    """The Event object. Its name follows from what it says, so that saying it twice creates it once."""
    meta = job["metadata"]
    said = hashlib.sha256("\0".join((meta["uid"], event.reason, event.message)).encode()).hexdigest()[:16]
    time = format_time(now)
    message = event.message.encode()[:_LONGEST_MESSAGE].decode(errors="ignore")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{meta['name'][:_NAME_CUT].rstrip('.-')}.{said}", "namespace": meta["namespace"]},
        "involvedObject": {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "name": meta["name"],
            "namespace": meta["namespace"],
            "uid": meta["uid"],
            "resourceVersion": meta["resourceVersion"],
        },
        "type": event.type,
        "reason": event.reason,
        "message": message,
        "count": 1,
        "firstTimestamp": time,
        "lastTimestamp": time,
        "source": {"component": names.MANAGER},
        "reportingComponent": names.MANAGER,
        "reportingInstance": "",
    }
