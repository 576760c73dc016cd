"""One step of a Job towards its end, as a pure function: what to create, delete and write.

The order of writes is kube-controller-manager's: pods are created and deleted; a first status names the pods that
ended but are not counted yet and, if the Job is about to end, why; then those pods lose their finalizer; then a second
status has them in its counters, and ends the Job once no pod is terminating.
"""

import copy
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from finetune_local.clock import parse, timestamp
from finetune_local.jobs import conditions as c
from finetune_local.jobs import pods as p
from finetune_local.jobs.backoff import Backoff
from finetune_local.jobs.failure_policy import judge

Object = dict[str, Any]


@dataclass(frozen=True)
class JobEvent:
    """An Event about the Job."""

    type: str
    reason: str
    message: str


@dataclass
class Plan:
    """What one sync wants done, in this order."""

    create: list[Object] = field(default_factory=list)
    """Pods to make."""
    discard: list[Object] = field(default_factory=list)
    """Pods to delete that shall count neither as failed nor as succeeded: their finalizer goes first."""
    delete: list[Object] = field(default_factory=list)
    """Pods to delete because the Job failed; they count as failed."""
    status: Object | None = None
    """The first status to write; None where it would not change."""
    release: list[Object] = field(default_factory=list)
    """Pods that lose their finalizer once the first status is written."""
    settled: Object | None = None
    """The second status, after the release; None where it would not differ from the first."""
    events: list[JobEvent] = field(default_factory=list)
    """To be told after the writes."""
    requeue_after: float | None = None
    """Seconds after which time alone may change something."""
    backoff: Backoff = field(default_factory=Backoff)
    """To be handed to the next sync, once this one was carried out."""


def sync(
    job: Object,
    pods: Collection[Object],
    backoff: Backoff,
    now: datetime,
    base_seconds: float,
    may_create: bool = True,
) -> Plan:
    """The next step of a Job.

    Args:
        job: a ``batch/v1`` Job with the API server's defaults filled in.
        pods: all pods that it controls.
        backoff: what the last sync of this Job returned.
        now: the time.
        base_seconds: wait before the first replacement of a failed pod (10 on a cluster).
        may_create: False once the API server has refused a pod, to get the writes that are true without it.
    """
    if c.finished(job) is not None:
        return Plan(backoff=backoff)
    return _Sync(job, tuple(pods), backoff, now, base_seconds, may_create).plan()


class _Sync:
    """The intermediate values of one sync."""

    def __init__(
        self,
        job: Object,
        pods: tuple[Object, ...],
        backoff: Backoff,
        now: datetime,
        base_seconds: float,
        may_create: bool,
    ) -> None:
        self.job, self.spec = job, job["spec"]
        self.now, self.base_seconds, self.may_create = now, base_seconds, may_create
        self.pods = tuple(sorted(pods, key=lambda pod: (p.index_of(pod) or 0, pod["metadata"]["name"])))
        self.indexed = p.is_indexed(job)
        self.old: Object = job.get("status") or {}
        self.status: Object = copy.deepcopy(self.old)
        self.uncounted = {
            kind: list((self.old.get("uncountedTerminatedPods") or {}).get(kind) or ())
            for kind in ("succeeded", "failed")
        }
        self.held = {_uid(pod) for pod in self.pods if p.is_held(pod)}
        self.active = [pod for pod in self.pods if p.is_active(pod)]
        self.terminating = sum(map(p.is_terminating, self.pods))
        fresh = [pod for pod in self.pods if self._is_new(pod)]
        self.new_succeeded = [pod for pod in fresh if p.phase(pod) == "Succeeded"]
        self.new_failed = [pod for pod in fresh if self._failed(pod)]
        self.done_indexes = p.read_indexes(self.old.get("completedIndexes", ""))
        self.result = Plan(backoff=backoff.after(self.new_succeeded, self.new_failed))

    def plan(self) -> Plan:
        self._start()
        ending = self._failure() or c.find(self.old, "SuccessCriteriaMet")
        if ending is not None:
            self._abandon()
        elif "deletionTimestamp" not in self.job["metadata"]:
            self._manage()
            ending = self._success()
            if ending is None:
                self._suspension()
        self._count(ending)
        self._write(ending)
        return self.result

    # What is the case ---------------------------------------------------------------------------------------------

    def _is_new(self, pod: Object) -> bool:
        known = {*self.uncounted["succeeded"], *self.uncounted["failed"]}
        return p.is_held(pod) and _uid(pod) not in known and self._has_place(pod)

    def _has_place(self, pod: Object) -> bool:
        index = p.index_of(pod)
        return not self.indexed or (index is not None and index < self.spec["completions"])

    def _failed(self, pod: Object) -> bool:
        if p.phase(pod) == "Failed":
            return True
        waits_for_the_end = self.spec.get("podReplacementPolicy") == "Failed"
        return p.is_terminating(pod) and not waits_for_the_end

    def _suspended(self) -> bool:
        return bool(self.spec.get("suspend"))

    def _succeeded(self) -> int:
        if self.indexed:
            return len(self._succeeded_indexes())
        return int(self.old.get("succeeded", 0)) + len(self.new_succeeded) + len(self.uncounted["succeeded"])

    def _succeeded_indexes(self) -> frozenset[int]:
        fresh = {index for pod in self.new_succeeded if (index := p.index_of(pod)) is not None}
        return self.done_indexes | fresh

    def _failure(self) -> Object | None:
        """Why the Job fails, if it does: decided before, by a rule, by too many failures, or by time."""
        decided = c.find(self.old, "FailureTarget")
        if decided is not None or c.find(self.old, "SuccessCriteriaMet") is not None:
            return decided
        policy = self.spec.get("podFailurePolicy")
        verdicts = [judge(policy, pod) for pod in self.pods if self._failed(pod)]
        for verdict in verdicts:
            if verdict.fails_job:
                return c.failed_by_policy(verdict.fails_job, self.now)
        counted = sum(judge(policy, pod).counts for pod in self.new_failed)
        if self.old.get("failed", 0) + counted + len(self.uncounted["failed"]) > self.spec["backoffLimit"]:
            return c.backoff_limit_exceeded(self.now)
        return self._past_deadline()

    def _past_deadline(self) -> Object | None:
        limit = self.spec.get("activeDeadlineSeconds")
        if limit is None or self._suspended() or "startTime" not in self.status:
            return None
        left = limit - (self.now - parse(self.status["startTime"])).total_seconds()
        if left <= 0:
            return c.deadline_exceeded(self.now)
        self._again_in(left)
        return None

    # What to do ---------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if "startTime" not in self.status and not self._suspended():
            self.status["startTime"] = timestamp(self.now)

    def _abandon(self) -> None:
        """A Job that is about to end needs no running pods."""
        self.result.delete = self.active
        self.terminating += len(self.active)
        self.active = []

    def _manage(self) -> None:
        surplus = len(self.active) - self._wanted()
        if surplus > 0:
            by_worth = sorted(self.active, key=lambda pod: (p.phase(pod) == "Running", -(p.index_of(pod) or 0)))
            self.result.discard = by_worth[:surplus]
            self.active = by_worth[surplus:]
            self.terminating += surplus
            return
        replaces_early = self.spec.get("podReplacementPolicy") != "Failed"
        missing = -surplus - (0 if replaces_early else self.terminating)
        if missing <= 0 or self._suspended() or not self.may_create:
            return
        wait = self.result.backoff.remaining(self.now, self.base_seconds)
        if wait > 0:
            self._again_in(wait)
            return
        self.result.create = [p.manifest(self.job, index) for index in self._pending(missing)]

    def _wanted(self) -> int:
        """How many pods should be active."""
        if self._suspended():
            return 0
        parallelism: int = self.spec["parallelism"]
        completions: int | None = self.spec.get("completions")
        if completions is None:
            return len(self.active) if self._succeeded() else parallelism
        return max(0, min(parallelism, completions - self._succeeded()))

    def _pending(self, count: int) -> Iterable[int | None]:
        if not self.indexed:
            return [None] * count
        taken = {p.index_of(pod) for pod in self.active} | self._succeeded_indexes()
        if self.spec.get("podReplacementPolicy") == "Failed":
            taken |= {p.index_of(pod) for pod in self.pods if p.is_terminating(pod)}
        return [index for index in range(self.spec["completions"]) if index not in taken][:count]

    def _success(self) -> Object | None:
        if self.active or self.result.create:
            return None
        completions = self.spec.get("completions")
        enough = self._succeeded() > 0 if completions is None else self._succeeded() >= completions
        return c.completions_reached(self.now) if enough else None

    def _suspension(self) -> None:
        if self._suspended() and not c.holds(self.old, "Suspended"):
            c.put(self.status, c.suspended(self.now))
            self.result.events.append(JobEvent("Normal", "Suspended", "Job suspended"))
        elif not self._suspended() and c.holds(self.old, "Suspended"):
            c.put(self.status, c.resumed(self.now))
            self.status["startTime"] = timestamp(self.now)
            self.result.events.append(JobEvent("Normal", "Resumed", "Job resumed"))

    # What to write ------------------------------------------------------------------------------------------------

    def _count(self, ending: Object | None) -> None:
        """Notes the pods that ended since, and chooses those that may go."""
        failing = ending is not None and ending["type"] == "FailureTarget"
        discarded = {_uid(pod) for pod in self.result.discard}
        for pod in self.pods:
            if not p.is_held(pod) or _uid(pod) in discarded or not self._may_go(pod, ending):
                continue
            self.result.release.append(pod)
            if not self._is_new(pod):
                continue
            if p.phase(pod) == "Succeeded":
                if not self.indexed:
                    self.uncounted["succeeded"].append(_uid(pod))
            elif (self._failed(pod) or failing) and judge(self.spec.get("podFailurePolicy"), pod).counts:
                self.uncounted["failed"].append(_uid(pod))

    def _may_go(self, pod: Object, ending: Object | None) -> bool:
        over = ending is not None or "deletionTimestamp" in self.job["metadata"]
        return over or p.phase(pod) == "Succeeded" or self._failed(pod)

    def _write(self, ending: Object | None) -> None:
        status = self.status
        if self.indexed:
            _set(status, "completedIndexes", p.write_indexes(self._succeeded_indexes()))
            _set(status, "succeeded", len(self._succeeded_indexes()))
        _set(status, "active", len(self.active) + len(self.result.create))
        status["ready"] = sum(map(p.is_ready, self.active))
        status["terminating"] = self.terminating
        self._settle(status, self.held)
        if ending is not None and c.find(status, ending["type"]) is None:
            c.put(status, ending)
        self.result.status = status if status != self.old else None

        settled = copy.deepcopy(status)
        self._settle(settled, self.held - {_uid(pod) for pod in self.result.release})
        if ending is not None and not self.terminating and not any(settled["uncountedTerminatedPods"].values()):
            self._finish(settled, ending)
        self.result.settled = settled if settled != status else None

    def _settle(self, status: Object, held: Collection[str]) -> None:
        """Counts the pods that have lost their finalizer."""
        waiting = {}
        for kind, uids in self.uncounted.items():
            waiting[kind] = [uid for uid in uids if uid in held]
            if not (self.indexed and kind == "succeeded"):
                _set(status, kind, status.get(kind, 0) + len(uids) - len(waiting[kind]))
        self.uncounted = waiting
        status["uncountedTerminatedPods"] = {kind: uids for kind, uids in waiting.items() if uids}

    def _finish(self, status: Object, ending: Object) -> None:
        last = c.final(ending, self.now)
        c.put(status, last)
        if last["type"] == "Complete":
            status["completionTime"] = last["lastTransitionTime"]
            self.result.events.append(JobEvent("Normal", "Completed", "Job completed"))
        else:
            self.result.events.append(JobEvent("Warning", last["reason"], last["message"]))

    def _again_in(self, seconds: float) -> None:
        known = self.result.requeue_after
        self.result.requeue_after = seconds if known is None else min(known, seconds)


def _uid(pod: Object) -> str:
    return str(pod["metadata"]["uid"])


def _set(status: Object, key: str, value: object) -> None:
    """Counters of zero and empty texts are left out, as in Go's JSON."""
    if value:
        status[key] = value
    else:
        status.pop(key, None)
