"""A cluster in memory, one step at a time: every call can be the operator's last, and watches lag as they like."""

import copy
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from finetune_api import names
from finetune_api.conditions import Phase
from finetune_api.status import FineTuneJobStatus
from finetune_operator import failures
from finetune_operator.connection import ApiError
from finetune_operator.observed import JobState, PodState
from tests import builders as b

Raw = dict[str, Any]
KEY = (b.NAMESPACE, "support-bot")


OWN_FAULTS = {"OutOfMemory", "StorageUnavailable", "DiskFull", "PeersLost", "TrainerKilled", "TrainerCrashed"}
COUNTED = OWN_FAULTS | {"ResultLost", "Stalled"}
NOT_COUNTED = {"Preempted", "Disrupted", "NodeLost", "JobDeleted", "Suspended", "Checked"}


class Crash(BaseException):
    """The operator died."""


def now(coroutine):
    """Run a coroutine that never has to wait."""
    try:
        coroutine.send(None)
    except StopIteration as e:
        return e.value
    raise AssertionError("it waits")


@dataclass(eq=False)
class Stream:
    """What one watcher has not been told yet, by kind; each kind in order, kinds in any order."""

    finetunejobs: deque = field(default_factory=deque)
    jobs: deque = field(default_factory=deque)
    pods: deque = field(default_factory=deque)


class FakeCluster:
    """The calls that the reconciler makes, on dicts. Everything is told to every stream."""

    def __init__(self) -> None:
        self.version = 0
        self.finetunejob: Raw | None = None
        self.jobs: dict[str, Raw] = {}
        self.pods: dict[str, Raw] = {}
        self.services: dict[str, Raw] = {}
        self.streams: list[Stream] = []
        self.created: list[str] = []
        self.phases: list[str] = []
        self.reasons: list[str] = []
        self.ends: dict[int, str] = {}
        """The reason for which each attempt ended, by its number."""
        self.checks: set[int] = set()
        """The numbers of those that only checked."""
        self.at_fault: set[int] = set()
        """The numbers of those of which a pod ended badly by itself; of all others nothing may count."""
        self.excused: set[int] = set()
        """The numbers of those of which a pod was taken away for all to see before any failed."""
        self.vanished: set[int] = set()
        """The numbers of those of which a pod went and nobody could see how."""
        self.complaints: list[Raw] = []
        """The Events of Jobs about pods that were refused."""
        self.crash_at: int | None = None
        self.crash_when = "before"
        self._calls = 0

    # changes

    def store(self, kind: str, raw: Raw | None, gone: Raw | None = None) -> None:
        """Put an object, or take one away, and tell everybody."""
        self.version += 1
        event, told = ("DELETED", gone) if raw is None else ("MODIFIED", raw)
        assert told is not None
        told["metadata"]["resourceVersion"] = str(self.version)
        if kind == "finetunejobs":
            self.finetunejob = raw
        else:
            held: dict[str, Raw] = getattr(self, kind)
            if raw is None:
                del held[told["metadata"]["name"]]
            else:
                held[told["metadata"]["name"]] = raw
        for stream in self.streams:
            getattr(stream, kind).append((event, copy.deepcopy(told)))

    def background_delete(self, job: Raw) -> None:
        """A Job goes at once, its pods that have ended too; those that live are asked to end."""
        self.store("jobs", None, job)
        for pod in self.pods_of(job):
            if PodState.of(pod).ended:
                self.store("pods", None, pod)
            else:
                self.ask_to_end(pod)

    def ask_to_end(self, pod: Raw, by: str = b.CREATED, grace: int = 0) -> None:
        """A pod is being deleted."""
        if "deletionTimestamp" not in pod["metadata"]:
            asked = copy.deepcopy(pod)
            asked["metadata"] |= {"deletionTimestamp": by, "deletionGracePeriodSeconds": grace}
            self.store("pods", asked)

    def pods_of(self, job: Raw) -> list[Raw]:
        """Those of one Job."""
        attempt = job["metadata"]["labels"][names.LABEL_ATTEMPT]
        return [pod for pod in self.pods.values() if pod["metadata"]["labels"][names.LABEL_ATTEMPT] == attempt]

    # the reconciler's calls

    def arm(self, at: int | None, when: str) -> None:
        """Die at the n-th call from now, before it is carried out or after."""
        self._calls, self.crash_at, self.crash_when = 0, at, when

    def _enter(self) -> bool:
        """Count a call; the answer is whether to die after it."""
        self._calls += 1
        if self._calls != self.crash_at:
            return False
        if self.crash_when == "before":
            raise Crash
        return True

    def _leave(self, die: bool) -> None:
        if die:
            raise Crash

    async def get_finetunejob(self, namespace: str, name: str) -> Raw | None:
        die = self._enter()
        self._leave(die)
        return copy.deepcopy(self.finetunejob) if (namespace, name) == KEY else None

    async def get_job(self, namespace: str, name: str) -> Raw | None:
        self._leave(self._enter())
        return copy.deepcopy(self.jobs.get(name))

    async def get_profile(self, name: str) -> Raw | None:
        self._leave(self._enter())
        return None

    async def list_pods_of(self, namespace: str, uid: str) -> list[Raw]:
        self._leave(self._enter())
        return copy.deepcopy(list(self.pods.values()))

    async def create_job(self, manifest: Raw) -> Raw:
        die = self._enter()
        name, labels = manifest["metadata"]["name"], manifest["metadata"]["labels"]
        if name in self.jobs:
            raise ApiError(409, {"reason": "AlreadyExists"})
        self._allow_attempt()
        self._allow_training(labels)
        made = b.job(uid=labels[names.LABEL_JOB_UID], name=name, attempt=int(labels[names.LABEL_ATTEMPT]))
        made["metadata"]["uid"] = f"job-{len(self.created)}"
        made["metadata"]["labels"] = copy.deepcopy(labels)
        made["spec"] = {key: manifest["spec"][key] for key in ("completions", "parallelism")}
        self._allow_gang(manifest)
        self.created.append(name)
        self.store("jobs", made)
        self._leave(die)
        return copy.deepcopy(made)

    def _allow_attempt(self) -> None:
        """No attempt begins while anything of another one lives, or after a failure that another one cannot mend."""
        assert [job for job in self.jobs.values() if not JobState.of(job).ended] == []
        assert [pod for pod in self.pods.values() if not PodState.of(pod).ended] == []
        attempts: dict[int | None, list[PodState]] = {}
        for pod in map(PodState.of, self.pods.values()):
            attempts.setdefault(pod.attempt, []).append(pod)
        failed = filter(None, map(failures.of_pods, attempts.values()))
        assert {failure.reason for failure in failed} <= COUNTED | NOT_COUNTED

    def _allow_gang(self, manifest: Raw) -> None:
        """As many pods as nodes are asked for, of a check one; and several can find one another."""
        assert self.finetunejob is not None
        checks = manifest["metadata"]["labels"].get(names.LABEL_CHECK) == "true"
        nodes = 1 if checks else self.finetunejob["spec"].get("resources", {}).get("nodes", 1)
        assert {manifest["spec"]["completions"], manifest["spec"]["parallelism"]} == {nodes}
        assert nodes == 1 or manifest["spec"]["template"]["spec"]["subdomain"] in self.services

    def _allow_training(self, labels: Raw) -> None:
        """Once, and only once, a check has passed, where one is wanted."""
        assert self.finetunejob is not None
        passed = "check" in (self.finetunejob.get("status") or {})
        wanted = self.finetunejob["spec"]["preflight"] == "Always"
        assert (labels.get(names.LABEL_CHECK) == "true") is (wanted and not passed)

    async def create_service(self, manifest: Raw) -> Raw:
        die = self._enter()
        name = manifest["metadata"]["name"]
        if name in self.services:
            raise ApiError(409, {"reason": "AlreadyExists"})
        self.services[name] = copy.deepcopy(manifest)
        self._leave(die)
        return copy.deepcopy(manifest)

    async def get_service(self, namespace: str, name: str) -> Raw | None:
        self._leave(self._enter())
        return copy.deepcopy(self.services.get(name))

    async def delete_job(self, namespace: str, name: str, uid: str, resource_version: str) -> None:
        die = self._enter()
        job = self.jobs.get(name)
        if job is not None:
            meta = job["metadata"]
            if (meta["uid"], meta["resourceVersion"]) != (uid, resource_version):
                raise ApiError(409, {"reason": "Conflict"})
            self.background_delete(job)
        self._leave(die)

    async def list_refusals(self, namespace: str, uid: str) -> list[Raw]:
        self._leave(self._enter())
        return copy.deepcopy(self.complaints)

    async def patch_status(self, namespace: str, name: str, resource_version: str, status: Raw) -> Raw:
        die = self._enter()
        if self.finetunejob is None:
            raise ApiError(404, {"reason": "NotFound"})
        if self.finetunejob["metadata"]["resourceVersion"] != resource_version:
            raise ApiError(409, {"reason": "Conflict"})
        changed = copy.deepcopy(self.finetunejob)
        changed["status"] = merged(changed.get("status") or {}, status)
        FineTuneJobStatus.model_validate(changed["status"])
        self._note_attempts(changed["status"])
        self.phases.append(changed["status"]["phase"])
        self.reasons.append(changed["status"]["conditions"][0]["reason"])
        self.store("finetunejobs", changed)
        self._leave(die)
        return copy.deepcopy(changed)

    def _note_attempts(self, status: Raw) -> None:
        """An end is never changed; only the last attempt may have none; and those are counted that count."""
        attempts = status.get("attempts") or []
        for attempt in attempts:
            if "finishedAt" in attempt:
                assert self.ends.setdefault(attempt["number"], attempt["reason"]) == attempt["reason"]
        assert all("finishedAt" in attempt for attempt in attempts[:-1])
        blamed = {n for n, reason in self.ends.items() if reason in OWN_FAULTS}
        lost = {n for n in self.vanished if self.ends.get(n) == "PeersLost"}  # who saw neither sees no difference
        assert blamed <= self.at_fault | lost
        assert not blamed & self.excused
        self.checks |= {attempt["number"] for attempt in attempts if attempt.get("check")}
        out_of_memory = {n for n, reason in self.ends.items() if reason == "OutOfMemory" and n in self.checks}
        counted = [n for n, reason in self.ends.items() if reason in COUNTED and n not in out_of_memory]
        assert status.get("failures", 0) == len(counted)
        assert out_of_memory <= {max(self.ends, default=0)}, "a check has no half to try"
        assert set(list(self.ends.values())[:-1]) <= COUNTED | NOT_COUNTED, "what another attempt cannot mend is last"

    async def create_event(self, manifest: Raw) -> None:
        self._leave(self._enter())

    # what it came to

    @property
    def final(self) -> bool:
        """Whether the FineTuneJob has reached its last phase."""
        return bool(self.phases) and Phase(self.phases[-1]).terminal


def merged(target: Raw, patch: Raw) -> Raw:
    """A JSON merge patch applied."""
    found = dict(target)
    for key, value in patch.items():
        if value is None:
            found.pop(key, None)
        elif isinstance(value, dict):
            found[key] = merged(found.get(key) if isinstance(found.get(key), dict) else {}, value)
        else:
            found[key] = value
    return found
