"""What the operator knows: FineTuneJobs, caches of their Jobs and pods, and the last report of each pod."""

import time
from collections.abc import Callable, Hashable
from datetime import datetime
from typing import Any

from finetune_api import names
from finetune_api.run import ReportedMetric
from finetune_operator.cache import Cache, Child
from finetune_operator.cluster import FINETUNEJOBS, JOBS, MANAGED, PODS
from finetune_operator.connection import Connection
from finetune_operator.finetunejobs import FineTuneJobs, Key, finished, slim
from finetune_operator.observed import JobState, Observed, PodState, Raw, ReceivedReport, leading
from finetune_operator.policy import profile_name
from finetune_operator.reflector import Reflector
from finetune_operator.stillness import Stillness, situation_of


class World:
    """All of it, and one job's share."""

    def __init__(
        self,
        changed: Callable[[Key], None],
        profile: Callable[[str], Raw | None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        progressed: Callable[[Key], None] | None = None,
    ) -> None:
        """``changed`` is told whose world changed, ``progressed`` (the same, where there is none) whose training has
        come further and nothing else; ``profile`` is the FineTuneProfile of a name; ``clock`` gives seconds, and is
        never set."""
        self._changed = changed
        self._progressed = progressed or changed
        self._profile = profile
        self.finetunejobs = FineTuneJobs(changed, self._settled)
        self.jobs: Cache[JobState] = Cache(self._child_changed)
        self.pods: Cache[PodState] = Cache(self._pod_changed)
        self._reports: dict[str, ReceivedReport] = {}
        self._gone: dict[str, list[PodState]] = {}
        """Pods that are no longer there, by the UID of a FineTuneJob that has not finished."""
        self._stillness = Stillness(clock)

    def reflectors(
        self, connection: Connection, namespaces: tuple[str, ...], selector: str, warn: Callable[[str], None]
    ) -> list[Reflector[Any]]:
        """What keeps it up to date, for the namespaces served (empty: all), and in them for the FineTuneJobs of a label
        selector (empty: all)."""
        found: list[Reflector[Any]] = []
        for namespace in namespaces or (None,):
            found += [
                Reflector(connection, FINETUNEJOBS, namespace, slim, self.finetunejobs, warn, selector),
                Reflector(connection, JOBS, namespace, JobState.of, self.jobs, warn, MANAGED),
                Reflector(connection, PODS, namespace, PodState.of, self.pods, warn, MANAGED),
            ]
        return found

    def _settled(self, uid: str) -> None:
        self._gone.pop(uid, None)
        self._stillness.forget(uid)

    # children and reports

    def _child_changed(self, child: Child) -> None:
        if key := self._parent(child):
            self._changed(key)

    def _parent(self, child: Child) -> Key | None:
        """The FineTuneJob of a child, in the child's namespace."""
        return self.finetunejobs.of(child.job_uid or "", child.namespace)

    def _pod_changed(self, pod: PodState) -> None:
        if self.pods.get(pod.uid) is None:
            self._reports.pop(pod.uid, None)
            key = self._parent(pod)
            parent = self.finetunejobs.get(key) if key else None
            if pod.job_uid and parent and not finished(parent):
                self._gone.setdefault(pod.job_uid, []).append(pod)
        self._child_changed(pod)

    def reported(self, report: ReceivedReport) -> bool:
        """Keep a pod's report. False where the pod is none of a FineTuneJob that we know."""
        pod = self.pods.get(report.pod_uid)
        key = self._parent(pod) if pod else None
        if pod is None or key is None:
            return False
        before = self._reports.get(report.pod_uid)
        self._reports[report.pod_uid] = report
        if pod.leads and pod.job_uid and (before is None or _numbers(before) != _numbers(report)):
            self._stillness.stirred(pod.job_uid)
        told = self._changed if before is None or _phase(before) != _phase(report) else self._progressed
        told(key)
        return True

    @property
    def reporting(self) -> int:
        """Pods whose last report is kept: those that live and have sent one."""
        return len(self._reports)

    # one job's share

    def observe(self, raw: Raw, attempt: int, written_at: datetime | None) -> Observed:
        """What the caches know of a FineTuneJob whose present attempt has this number."""
        meta = raw["metadata"]
        uid, child = meta["uid"], names.child_name(meta["name"], meta["uid"], attempt)
        jobs = self.jobs.of(uid, meta["namespace"])
        job = next((job for job in jobs if job.name == child), None)
        pods, lingering = share_of(self.pods.of(uid, meta["namespace"]), attempt)
        lead = leading(pods)
        report = self._reports.get(lead.uid) if lead else None
        return Observed(
            job=job,
            pods=pods,
            gone=self._remembered(uid, attempt),
            others=tuple(other for other in jobs if other is not job),
            lingering=lingering,
            report=report,
            sources=self.finetunejobs.sources(raw),
            profile=self._profile(profile_name(raw)),
            still_for=0.0 if finished(raw) else self._stillness.seen(uid, situation_of(job, pods)),
            written_at=written_at,
        )

    def _remembered(self, uid: str, attempt: int) -> tuple[PodState, ...]:
        """Pods of an attempt that are gone. Those of earlier ones have told what they had to tell."""
        kept = [pod for pod in self._gone.pop(uid, []) if pod.attempt in (None, attempt)]
        if kept:
            self._gone[uid] = kept
        return sorted_pods(kept)


def share_of(pods: list[PodState], attempt: int) -> tuple[tuple[PodState, ...], tuple[PodState, ...]]:
    """The pods of an attempt, oldest first, and those of other attempts that have not ended."""
    own = [pod for pod in pods if pod.attempt in (None, attempt)]
    others = [pod for pod in pods if pod.attempt not in (None, attempt) and not pod.ended]
    return sorted_pods(own), sorted_pods(others)


def sorted_pods(pods: list[PodState]) -> tuple[PodState, ...]:
    """Oldest first. Times have whole seconds: of two pods of one second the one still at work is the newer."""
    return tuple(sorted(pods, key=lambda pod: (pod.created_at, not pod.ended, pod.name)))


def _numbers(report: ReceivedReport) -> Hashable:
    return report.status.progress_percentage, report.status.metrics


def _phase(report: ReceivedReport) -> str | None:
    return report.status.metric(ReportedMetric.PHASE)
