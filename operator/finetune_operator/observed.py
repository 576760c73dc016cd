"""What is known of one FineTuneJob's surroundings, reduced to what decisions need.

The caches hold these small forms, not the objects of the API server.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Self

from finetune_api import names
from finetune_api.run import TrainerStatus
from finetune_operator.times import format_time, parse_time

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
    short: bool = False
    """Whether its controller has begun and made fewer pods than it should."""
    complete: bool = False
    failed_reason: str | None = None
    """Reason of the condition Failed, where that is true."""
    failed_message: str = ""
    finished_at: str | None = None
    checks: bool = False
    """Whether it only checks, before anything is trained."""
    profile: str = ""
    """What it was given by a FineTuneProfile, as JSON (:class:`finetune_api.status.ProfileUsed`)."""

    @property
    def ended(self) -> bool:
        """Whether it has ended, well or not."""
        return self.complete or self.failed_reason is not None

    @classmethod
    def of(cls, raw: Raw) -> Self:
        """From an object of the API server."""
        meta, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
        true = {c["type"]: c for c in status.get("conditions") or () if c.get("status") == "True"}
        begun = "startTime" in status and "Suspended" not in true
        end = true.get("Complete") or true.get("Failed") or {}
        return cls(
            namespace=meta["namespace"],
            name=meta["name"],
            uid=meta["uid"],
            owner_uid=controller_uid(meta),
            job_uid=(meta.get("labels") or {}).get(names.LABEL_JOB_UID),
            created_at=meta.get("creationTimestamp", ""),
            suspended=bool(spec.get("suspend")),
            short=begun and _pods_made(status) < int(spec.get("parallelism", 1)),
            complete="Complete" in true,
            failed_reason=(true["Failed"].get("reason") or "Failed") if "Failed" in true else None,
            failed_message=true.get("Failed", {}).get("message", ""),
            finished_at=status.get("completionTime") or end.get("lastTransitionTime"),
            checks=(meta.get("labels") or {}).get(names.LABEL_CHECK) == "true",
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
    attempt: int | None = None
    """Number of its attempt, by label."""
    index: int | None = None
    """Which of the pods of its Job it is, from 0; None: there is only one."""
    gone_by: str | None = None
    """When it is to be gone, where it is being deleted."""
    asked_at: str | None = None
    """When it was asked to, where it is being deleted."""
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
    def leads(self) -> bool:
        """Whether it is the one that reports, publishes and leaves the result, for itself and the others."""
        return not self.index

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
            attempt=_number((meta.get("labels") or {}).get(names.LABEL_ATTEMPT)),
            index=_number((meta.get("annotations") or {}).get(names.ANNOTATION_INDEX)),
            gone_by=meta.get("deletionTimestamp"),
            asked_at=_asked_at(meta),
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
    """The Job under the name of the present attempt's, whoever owns it."""
    pods: tuple[PodState, ...] = ()
    """The pods of the present attempt, oldest first."""
    gone: tuple[PodState, ...] = ()
    """Pods of the present attempt that are no longer there, as they were last seen, oldest first."""
    others: tuple[JobState, ...] = ()
    """The Jobs of other attempts."""
    lingering: tuple[PodState, ...] = ()
    """Pods of other attempts that have not ended."""
    still_for: float = 0.0
    """Seconds for which this process has seen nothing change about it."""
    complaint: str | None = None
    """What the Events of the Job say of pods that could not be created; None: they were not read."""
    report: ReceivedReport | None = None
    """The last report of the leading pod."""
    sources: Mapping[str, Raw] = field(default_factory=dict)
    """The FineTuneJobs that spec.model names by ``job://``, by name, as far as they exist."""
    profile: Raw | None = None
    """The FineTuneProfile that spec.profile names, or the default one; None where there is none of that name."""
    confirmed: bool = False
    """Whether all of the above was read from the API server itself a moment ago, not from caches."""
    taken: str | None = None
    """Kind and name of somebody else's object under the name of one of ours."""
    refusal: str | None = None
    """What the API server said when it refused to create the Job."""
    written_at: datetime | None = None
    """When this process last wrote the status."""

    @property
    def witnesses(self) -> tuple[PodState, ...]:
        """All pods of the present attempt, oldest first, gone or not."""
        return (*self.gone, *self.pods)

    @property
    def living(self) -> tuple[PodState, ...]:
        """Pods of the present attempt that have not ended."""
        return tuple(pod for pod in self.pods if not pod.ended)


def leading(pods: Sequence[PodState]) -> PodState | None:
    """The newest one that leads the others, of pods that come oldest first."""
    return next((pod for pod in reversed(pods) if pod.leads), None)


def controller_uid(meta: Raw) -> str | None:
    """The UID of the controlling owner, by an object's metadata."""
    return next((o["uid"] for o in meta.get("ownerReferences") or () if o.get("controller")), None)


def _pods_made(status: Raw) -> int:
    """Pods that a Job's controller has made, by the Job's status."""
    counted = sum(int(status.get(kind) or 0) for kind in ("active", "terminating", "succeeded", "failed"))
    return counted + sum(len(uids) for uids in (status.get("uncountedTerminatedPods") or {}).values())


def _asked_at(meta: Raw) -> str | None:
    if "deletionTimestamp" not in meta:
        return None
    grace = timedelta(seconds=meta.get("deletionGracePeriodSeconds") or 0)
    return format_time(parse_time(meta["deletionTimestamp"]) - grace)


def _number(label: str | None) -> int | None:
    return int(label) if label and label.isdecimal() else None


def _said(condition: Raw) -> str:
    return ": ".join(part for part in (condition.get("reason"), condition.get("message")) if part)
