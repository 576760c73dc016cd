"""``batch/v1`` Job conditions: reasons, messages, and how one is set."""

from datetime import datetime
from typing import Any

from finetune_local.clock import timestamp

Object = dict[str, Any]


def condition(kind: str, status: str, reason: str, message: str, now: datetime) -> Object:
    at = timestamp(now)
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastProbeTime": at,
        "lastTransitionTime": at,
    }


def completions_reached(now: datetime) -> Object:
    message = "Reached expected number of succeeded pods"
    return condition("SuccessCriteriaMet", "True", "CompletionsReached", message, now)


def backoff_limit_exceeded(now: datetime) -> Object:
    message = "Job has reached the specified backoff limit"
    return condition("FailureTarget", "True", "BackoffLimitExceeded", message, now)


def deadline_exceeded(now: datetime) -> Object:
    message = "Job was active longer than specified deadline"
    return condition("FailureTarget", "True", "DeadlineExceeded", message, now)


def failed_by_policy(message: str, now: datetime) -> Object:
    return condition("FailureTarget", "True", "PodFailurePolicy", message, now)


def suspended(now: datetime) -> Object:
    return condition("Suspended", "True", "JobSuspended", "Job suspended", now)


def resumed(now: datetime) -> Object:
    return condition("Suspended", "False", "JobResumed", "Job resumed", now)


def final(interim: Object, now: datetime) -> Object:
    """Complete after SuccessCriteriaMet, Failed after FailureTarget, for the same reason."""
    kind = "Complete" if interim["type"] == "SuccessCriteriaMet" else "Failed"
    return condition(kind, "True", interim["reason"], interim["message"], now)


def find(status: Object, kind: str) -> Object | None:
    """The condition of a type."""
    return next((c for c in status.get("conditions") or () if c["type"] == kind), None)


def holds(status: Object, kind: str) -> bool:
    found = find(status, kind)
    return found is not None and found["status"] == "True"


def put(status: Object, new: Object) -> None:
    """Replaces the condition of the same type where it stands, or appends it."""
    conditions = status.setdefault("conditions", [])
    for place, old in enumerate(conditions):
        if old["type"] == new["type"]:
            conditions[place] = new
            return
    conditions.append(new)


def finished(job: Object) -> Object | None:
    """The condition Complete or Failed of a Job that is over."""
    status = job.get("status") or {}
    return next((find(status, kind) for kind in ("Complete", "Failed") if holds(status, kind)), None)
