"""What the operator knows: caches of FineTuneJobs, Jobs and pods, and the last report of each pod.

Jobs and pods are followed by ``Reflector``: a list, then a watch with bookmarks from where the list ended, and after
a gap a new list, compared with the cache so that deletions in the gap are noticed. FineTuneJobs come from kopf's
watch and from the answers to our own writes.

resourceVersions are compared for equality only. An own write is made on the newest version (the API server checks
it), so nothing can lie between the version before it and the one it answers with. Of the events that arrive after it,
those with a version we wrote or read ourselves are echoes, and any other one is newer.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import aclosing
from datetime import datetime
from typing import Generic, Protocol, TypeVar

from finetune_api import names
from finetune_api.conditions import Phase
from finetune_operator.cluster import JOBS, MANAGED, PODS, ApiError, Cluster, Unreachable
from finetune_operator.observed import JobState, Observed, PodState, Raw, ReceivedReport, leading
from finetune_operator.policy import profile_name
from finetune_operator.source import source_names
from finetune_operator.stillness import Stillness, situation_of

Key = tuple[str, str]
"""Namespace and name of a FineTuneJob."""

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0


class Child(Protocol):
    """What the objects that a cache holds have in common."""

    @property
    def namespace(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def uid(self) -> str: ...
    @property
    def job_uid(self) -> str | None: ...


C = TypeVar("C", bound=Child)


class Cache(Generic[C]):
    """Children, by their own UID and by namespace and UID of their FineTuneJob.

    The UID is a label, which whoever may create pods in some namespace can write as they like: a child counts in its
    own namespace alone.
    """

    def __init__(self) -> None:
        self._all: dict[str, C] = {}
        self._of: dict[tuple[str, str], set[str]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[C]:
        return iter(self._all.values())

    def get(self, uid: str) -> C | None:
        """The child with a UID."""
        return self._all.get(uid)

    def of(self, job_uid: str, namespace: str) -> list[C]:
        """The children of a FineTuneJob of a namespace."""
        return [self._all[uid] for uid in self._of.get((namespace, job_uid), ())]

    def put(self, child: C) -> None:
        """Add or replace a child."""
        if (before := self._all.get(child.uid)) and before.job_uid != child.job_uid:
            self.drop(child.uid)
        self._all[child.uid] = child
        if child.job_uid:
            self._of.setdefault((child.namespace, child.job_uid), set()).add(child.uid)

    def drop(self, uid: str) -> C | None:
        """Forget a child; the answer is what it was."""
        child = self._all.pop(uid, None)
        if child and child.job_uid and (siblings := self._of.get((child.namespace, child.job_uid))):
            siblings.discard(uid)
            if not siblings:
                del self._of[child.namespace, child.job_uid]
        return child

    def replace(self, children: list[C], namespace: str | None) -> list[C]:
        """Make a list the whole content (of a namespace); the answer is what was not there before, changed or left."""
        fresh = {child.uid: child for child in children}
        gone = [c for c in self._all.values() if (namespace in (None, c.namespace)) and c.uid not in fresh]
        changed = [child for child in children if self._all.get(child.uid) != child]
        for child in gone:
            self.drop(child.uid)
        for child in changed:
            self.put(child)
        return gone + changed


class Reflector(Generic[C]):
    """Keeps one kind of children in a cache, for ever."""

    def __init__(
        self,
        cluster: Cluster,
        resource: tuple[str, str],
        namespace: str | None,
        read: Callable[[Raw], C],
        cache: Cache[C],
        changed: Callable[[C], None],
        warn: Callable[[str], None],
        selector: dict[str, str] | None = None,
    ) -> None:
        """``selector`` is the label selector as a parameter of requests; ours, where there is none."""
        self._cluster = cluster
        self._resource = resource
        self._selector = _SELECTED if selector is None else selector
        self._namespace = namespace
        self._read: Callable[[Raw], C] = read
        self._cache: Cache[C] = cache
        self._changed: Callable[[C], None] = changed
        self._warn = warn
        self.synced = asyncio.Event()

    async def run(self) -> None:
        """List and watch until cancelled; what fails is tried again, after pauses that grow."""
        version: str | None = None
        pause = FIRST_PAUSE
        while True:
            began, wait = time.monotonic(), 0.0
            try:
                if version is None:
                    version = await self._list()
                version = await self._follow(version)
                pause = FIRST_PAUSE
                continue
            except ApiError as e:
                version = None
                if e.code == 410:
                    continue
                problem, wait = str(e), e.retry_after
                if e.code == 403 and self._namespace is not None:
                    self.synced.set()  # the other namespaces need not wait for the rights in this one
            except _Broken as e:
                version, problem = e.version, str(e)
            except Unreachable as e:
                problem = str(e)
            if time.monotonic() - began > LONGEST_PAUSE:
                pause = FIRST_PAUSE  # it held for a while: one fault, and not a row of them
            self._warn_of(problem, max(pause, wait))
            await asyncio.sleep(max(wait, pause * random.uniform(0.5, 1.0)))  # noqa: S311
            pause = min(LONGEST_PAUSE, pause * 2)

    def _warn_of(self, problem: str, pause: float) -> None:
        self._warn(f"{self._resource[1]}: {problem}; trying again in {pause:.1f} s")

    async def _list(self) -> str:
        children, version = await self._cluster.list_all(self._resource, self._namespace, self._selector, self._read)
        for child in self._cache.replace(children, self._namespace):
            self._changed(child)
        self.synced.set()
        return version

    async def _follow(self, version: str) -> str:
        """Watch until the server ends it; the answer is where to go on."""
        try:
            async with aclosing(
                self._cluster.watch(self._resource, self._namespace, self._selector, version)
            ) as events:
                async for event in events:
                    self._apply(event)
                    version = event["object"]["metadata"]["resourceVersion"]
        except Unreachable as e:
            raise _Broken(version, str(e)) from e
        return version

    def _apply(self, event: Raw) -> None:
        if event["type"] == "BOOKMARK":
            return
        child = self._read(event["object"])
        if event["type"] == "DELETED":
            self._cache.drop(child.uid)
        elif self._cache.get(child.uid) == child:
            return
        else:
            self._cache.put(child)
        self._changed(child)


class _Broken(Exception):
    """A watch broke; it can go on from ``version``."""

    def __init__(self, version: str, problem: str) -> None:
        super().__init__(problem)
        self.version = version


_SELECTED = {"labelSelector": MANAGED}


class World:
    """All caches, and one job's share of them."""

    def __init__(
        self,
        changed: Callable[[Key], None],
        profile: Callable[[str], Raw | None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``changed`` is told whose world changed; ``profile`` is the FineTuneProfile of a name; ``clock`` gives
        seconds, and is never set."""
        self._profile = profile
        self.jobs: Cache[JobState] = Cache()
        self.pods: Cache[PodState] = Cache()
        self._finetunejobs: dict[Key, Raw] = {}
        self._key_of: dict[str, Key] = {}
        self._known_versions: dict[Key, list[str]] = {}
        self._reports: dict[str, ReceivedReport] = {}
        self._gone: dict[str, list[PodState]] = {}
        """Pods that are no longer there, by the UID of a FineTuneJob that has not finished."""
        self._stillness = Stillness(clock)
        self._changed = changed

    def __len__(self) -> int:
        return len(self._finetunejobs)

    def finetunejobs(self) -> list[Key]:
        """All FineTuneJobs."""
        return list(self._finetunejobs)

    def all(self) -> Iterable[Raw]:
        """All FineTuneJobs, as ``get`` has them."""
        return self._finetunejobs.values()

    def reflectors(
        self, cluster: Cluster, namespaces: tuple[str, ...], warn: Callable[[str], None]
    ) -> list[Reflector[JobState] | Reflector[PodState]]:
        """What keeps the caches of Jobs and pods, for the namespaces served (empty: all)."""
        found: list[Reflector[JobState] | Reflector[PodState]] = []
        for namespace in namespaces or (None,):
            found.append(Reflector(cluster, JOBS, namespace, JobState.of, self.jobs, self._child_changed, warn))
            found.append(Reflector(cluster, PODS, namespace, PodState.of, self.pods, self._pod_changed, warn))
        return found

    # FineTuneJobs

    def get(self, key: Key) -> Raw | None:
        """A FineTuneJob, never older than what we last wrote."""
        return self._finetunejobs.get(key)

    def seen(self, kind: str | None, raw: Raw) -> None:
        """An event of the watch arrived. ``kind`` is ADDED, MODIFIED, DELETED, or None for a listed object."""
        key = _key(raw)
        if kind == "DELETED":
            if (cached := self.get(key)) and cached["metadata"]["uid"] == raw["metadata"]["uid"]:
                self.drop(key)
                self._changed(key)
            return
        known = self._known_versions.get(key, [])
        version = raw["metadata"]["resourceVersion"]
        if version in known:
            del known[: known.index(version) + 1]
            if not known:
                del self._known_versions[key]
            return
        self._known_versions.pop(key, None)
        self._store(key, raw)
        self._changed(key)

    def learned(self, raw: Raw) -> None:
        """The API server answered with this object to a read or a write of ours; its event is still to come."""
        key = _key(raw)
        cached = self.get(key)
        version = raw["metadata"]["resourceVersion"]
        if cached is None or cached["metadata"]["resourceVersion"] != version:
            self._known_versions.setdefault(key, []).append(version)
        self._store(key, raw)

    def drop(self, key: Key) -> None:
        """Forget a FineTuneJob that is gone."""
        raw = self._finetunejobs.pop(key, None)
        self._known_versions.pop(key, None)
        if raw:
            self._forget(raw["metadata"]["uid"])

    def _forget(self, uid: str) -> None:
        self._key_of.pop(uid, None)
        self._gone.pop(uid, None)
        self._stillness.forget(uid)

    def _store(self, key: Key, raw: Raw) -> None:
        if (before := self.get(key)) and before["metadata"]["uid"] != raw["metadata"]["uid"]:
            self._forget(before["metadata"]["uid"])
        self._finetunejobs[key] = slim(raw)
        if _finished(raw):
            self._gone.pop(raw["metadata"]["uid"], None)
            self._stillness.forget(raw["metadata"]["uid"])
        self._key_of[raw["metadata"]["uid"]] = key

    # children and reports

    def _child_changed(self, child: Child) -> None:
        if key := self._parent(child):
            self._changed(key)

    def _parent(self, child: Child) -> Key | None:
        """The FineTuneJob of a child, in the child's namespace."""
        key = self._key_of.get(child.job_uid or "")
        return key if key and key[0] == child.namespace else None

    def _pod_changed(self, pod: PodState) -> None:
        if self.pods.get(pod.uid) is None:
            self._reports.pop(pod.uid, None)
            key = self._key_of.get(pod.job_uid or "")
            if key and pod.job_uid and not _finished(self._finetunejobs[key]):
                self._gone.setdefault(pod.job_uid, []).append(pod)
        self._child_changed(pod)

    def reported(self, report: ReceivedReport) -> bool:
        """Keep a pod's report. False where the pod is none of a FineTuneJob that we know."""
        pod = self.pods.get(report.pod_uid)
        key = self._parent(pod) if pod else None
        if key is None:
            return False
        self._reports[report.pod_uid] = report
        self._changed(key)
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
            sources=self.sources(raw),
            profile=self._profile(profile_name(raw)),
            still_for=0.0 if _finished(raw) else self._stillness.seen(uid, situation_of(job, pods, report)),
            written_at=written_at,
        )

    def _remembered(self, uid: str, attempt: int) -> tuple[PodState, ...]:
        """Pods of an attempt that are gone. Those of earlier ones have told what they had to tell."""
        kept = [pod for pod in self._gone.pop(uid, []) if pod.attempt in (None, attempt)]
        if kept:
            self._gone[uid] = kept
        return sorted_pods(kept)

    def sources(self, raw: Raw) -> dict[str, Raw]:
        """The FineTuneJobs that another one's ``job://`` names, by name, as far as they exist."""
        return {key[1]: found for key in source_keys(raw) if (found := self.get(key))}


def source_keys(raw: Raw) -> list[Key]:
    """Which FineTuneJobs a FineTuneJob starts from, if it does."""
    found = source_names((raw.get("spec") or {}).get("model"))
    return [(raw["metadata"]["namespace"], name) for name in found]


def share_of(pods: list[PodState], attempt: int) -> tuple[tuple[PodState, ...], tuple[PodState, ...]]:
    """The pods of an attempt, oldest first, and those of other attempts that have not ended."""
    own = [pod for pod in pods if pod.attempt in (None, attempt)]
    return sorted_pods(own), sorted_pods([pod for pod in pods if pod not in own and not pod.ended])


def sorted_pods(pods: list[PodState]) -> tuple[PodState, ...]:
    """Oldest first. Times have whole seconds: of two pods of one second the one still at work is the newer."""
    return tuple(sorted(pods, key=lambda pod: (pod.created_at, not pod.ended, pod.name)))


def namespace_of(key: Key) -> str:
    """The namespace of a FineTuneJob: a tenant's own."""
    return key[0]


def _finished(raw: Raw) -> bool:
    phase = (raw.get("status") or {}).get("phase")
    return phase in set(Phase) and Phase(phase).terminal


def _key(raw: Raw) -> Key:
    meta = raw["metadata"]
    return meta["namespace"], meta["name"]


def slim(raw: Raw) -> Raw:
    """Without what no decision needs and what may be large."""
    meta = {key: value for key, value in raw["metadata"].items() if key not in ("managedFields", "annotations")}
    return {"metadata": meta, "spec": raw.get("spec") or {}, "status": raw.get("status") or {}}
