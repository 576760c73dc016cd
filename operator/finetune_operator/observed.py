"""What is known of one FineTuneJob's surroundings, reduced to what decisions need.

The caches hold these small forms, not the objects of the API server.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from finetune_api import names
from finetune_api.run import TrainerStatus

Raw = dict[str, Any]


@dataclass(frozen=True, slots=True)
class JobState:
    """A ``batch/v1`` Job."""

    namespace: str
    name: str
    uid: str
    owner_uid: str | None
    """UID of the controlling owner."""
    job_uid: str | None
    """UID of the FineTuneJob, by label."""
    created_at: str
    suspended: bool = False
    complete: bool = False
    ending: bool = False
    """Whether its end is decided, though its pods may not all be gone (FailureTarget, SuccessCriteriaMet)."""
    failed_reason: str | None = None
    """Reason of the condition Failed, where that is true."""
    failed_message: str = ""
    failures: int = 0
    """Pods that failed and count as tries."""
    finished_at: str | None = None
    profile: str = ""
    """What it was given by a FineTuneProfile, as JSON (:class:`finetune_api.status.ProfileUsed`)."""

    @classmethod
    def of(cls, raw: Raw) -> Self:
        """From an object of the API server."""
        meta, status = raw["metadata"], raw.get("status") or {}
        true = {c["type"]: c for c in status.get("conditions") or () if c.get("status") == "True"}
        end = true.get("Complete") or true.get("Failed") or {}
        return cls(
            namespace=meta["namespace"],
            name=meta["name"],
            uid=meta["uid"],
            owner_uid=_controller_uid(meta),
            job_uid=(meta.get("labels") or {}).get(names.LABEL_JOB_UID),
            created_at=meta.get("creationTimestamp", ""),
            suspended="Suspended" in true,
            complete="Complete" in true,
            ending=bool(true.keys() & {"FailureTarget", "SuccessCriteriaMet"}),
            failed_reason=(true["Failed"].get("reason") or "Failed") if "Failed" in true else None,
            failed_message=true.get("Failed", {}).get("message", ""),
            failures=status.get("failed") or 0,
            finished_at=status.get("completionTime") or end.get("lastTransitionTime"),
            profile=(meta.get("annotations") or {}).get(names.ANNOTATION_PROFILE, ""),
        )


@dataclass(frozen=True, slots=True)
class PodState:
    """A training pod, with the state of its ``trainer`` container."""

    namespace: str
    name: str
    uid: str
    job_uid: str | None
    """UID of the FineTuneJob, by label."""
    phase: str
    created_at: str
    node: str | None = None
    disruption: str | None = None
    """Why the platform took the pod away (condition DisruptionTarget)."""
    unschedulable: str | None = None
    """What the scheduler says, where no node fits."""
    waiting_reason: str | None = None
    waiting_message: str = ""
    running: bool = False
    exit_code: int | None = None
    ended_reason: str | None = None
    """What the container runtime says of the end: Completed, Error, OOMKilled, StartError …"""
    ended_message: str = ""
    """The termination message."""
    started_at: str | None = None
    finished_at: str | None = None

    @property
    def ended(self) -> bool:
        """Whether the trainer has ended, or the pod was given up."""
        return self.exit_code is not None or self.phase in ("Succeeded", "Failed")

    @property
    def failed(self) -> bool:
        """Whether it ended otherwise than well."""
        return self.ended and self.phase != "Succeeded" and self.exit_code != 0

    @classmethod
    def of(cls, raw: Raw) -> Self:
        """From an object of the API server."""
        meta, status = raw["metadata"], raw.get("status") or {}
        conditions = {c["type"]: c for c in status.get("conditions") or ()}
        disruption = conditions.get("DisruptionTarget", {})
        scheduled = conditions.get("PodScheduled", {})
        containers = status.get("containerStatuses") or ()
        state = next((c.get("state") or {} for c in containers if c.get("name") == names.TRAINER_CONTAINER), {})
        waiting, running, ended = (state.get(key) or {} for key in ("waiting", "running", "terminated"))
        return cls(
            namespace=meta["namespace"],
            name=meta["name"],
            uid=meta["uid"],
            job_uid=(meta.get("labels") or {}).get(names.LABEL_JOB_UID),
            phase=status.get("phase", "Pending"),
            created_at=meta.get("creationTimestamp", ""),
            node=(raw.get("spec") or {}).get("nodeName"),
            disruption=_said(disruption) if disruption.get("status") == "True" else None,
            unschedulable=_said(scheduled) if scheduled.get("reason") == "Unschedulable" else None,
            waiting_reason=waiting.get("reason"),
            waiting_message=waiting.get("message", ""),
            running="running" in state,
            exit_code=ended.get("exitCode"),
            ended_reason=ended.get("reason") or status.get("reason"),
            ended_message=ended.get("message") or status.get("message") or "",
            started_at=running.get("startedAt") or ended.get("startedAt"),
            finished_at=ended.get("finishedAt"),
        )


@dataclass(frozen=True, slots=True)
class ReceivedReport:
    """The last report of a pod."""

    pod_uid: str
    status: TrainerStatus
    received_at: datetime


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything beside the FineTuneJob itself that its next step depends on."""

    job: JobState | None = None
    """The Job under our child's name, whoever owns it."""
    pods: tuple[PodState, ...] = ()
    """The pods of our Job, oldest first."""
    report: ReceivedReport | None = None
    """The last report of the newest pod."""
    sources: Mapping[str, Raw] = field(default_factory=dict)
    """The FineTuneJobs that spec.model names by ``job://``, by name, as far as they exist."""
    profile: Raw | None = None
    """The FineTuneProfile that spec.profile names, or the default one; None where there is none of that name."""
    confirmed: bool = False
    """Whether all of the above was read from the API server itself a moment ago, not from caches."""
    refusal: str | None = None
    """What the API server said when it refused to create the Job."""
    written_at: datetime | None = None
    """When this process last wrote the status."""


def _controller_uid(meta: Raw) -> str | None:
    return next((o["uid"] for o in meta.get("ownerReferences") or () if o.get("controller")), None)


def _said(condition: Raw) -> str:
    return ": ".join(part for part in (condition.get("reason"), condition.get("message")) if part)
