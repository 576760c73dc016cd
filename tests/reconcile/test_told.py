"""What keeps a job from starting is told within ten seconds, at the operator's default settings; and the job goes on by
itself once that has passed."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from finetune_operator import failures
from finetune_operator.checks import beginning
from finetune_operator.observed import PodState
from finetune_operator.settings import Settings
from tests import builders as b
from tests.reconcile import recorded
from tests.reconcile.plane import RUNS, SUCCEEDS, Plane, asynchronous, plane, until

PROMISED = 10.0
"""Seconds from the moment at which the trouble is in the API server to the one at which the status tells it."""
DEFAULT = {"retry_backoff": Settings().retry_backoff}
"""What tests else shorten."""
QUOTAS = f"/api/v1/namespaces/{b.NAMESPACE}/resourcequotas"
GPUS = "requests.nvidia.com/gpu"
TWO = {"nodes": 2, "gpusPerNode": 1}


@dataclass(frozen=True)
class Trouble:
    """What keeps a job from starting, and what its status says of it."""

    name: str
    reason: str
    said: str
    pod: dict[str, Any] | None = None
    """The state of its pod, as recorded on a real cluster."""
    hard: dict[str, Any] = field(default_factory=dict)
    """The quota of its namespace."""
    phase: str = "Starting"
    resources: dict[str, Any] = field(default_factory=dict)


def pod(job: str, waiting_reason: str | None) -> dict[str, Any]:
    """The recorded pod of a Job, as it waited for a reason."""
    seen = [pod for pod in recorded.history(job) if pod["kind"] == "Pod"]
    return next(pod for pod in reversed(seen) if PodState.of(pod).waiting_reason == waiting_reason)


def refused(name: str, requested: str, used: str, limited: str) -> str:
    figures = f"requested: {name}={requested}, used: {name}={used}, limited: {name}={limited}"
    return f"there is no room in a quota: Error creating: the pod is forbidden: exceeded quota: team-a, {figures}"


TROUBLES = [
    Trouble("ErrImagePull", "ImagePullFailed", "localhost/nope:1", pod("image-missing", "ErrImagePull")),
    Trouble("ImagePullBackOff", "ImagePullFailed", "localhost/nope:1", pod("image-missing", "ImagePullBackOff")),
    Trouble(
        "CreateContainerConfigError",
        "ContainerConfigError",
        'secret "nothing" not found',
        pod("secret-missing", "CreateContainerConfigError"),
    ),
    Trouble("Unschedulable", "Unschedulable", "1 Insufficient nvidia.com/gpu", pod("unschedulable", None)),
    Trouble("no GPU in the quota", "QuotaExceeded", refused(GPUS, "1", "0", "0"), hard={GPUS: 0}),
    Trouble("no pod in the quota", "QuotaExceeded", refused("pods", "1", "0", "0"), hard={"pods": 0}),
    Trouble(
        "too little memory in the quota",
        "QuotaExceeded",
        refused("requests.memory", "64Gi", "0", "32Gi"),
        hard={"requests.memory": "32Gi"},
        resources={"memory": "64Gi"},
    ),
    Trouble(
        "one GPU in the quota for two nodes",
        "QuotaExceeded",
        refused(GPUS, "1", "1", "1"),
        hard={GPUS: 1},
        resources=TWO,
    ),
    Trouble(
        "no Job in the quota",
        "QuotaExceeded",
        "exceeded quota: team-a, requested: count/jobs.batch=1, used: count/jobs.batch=0, limited: count/jobs.batch=0",
        hard={"count/jobs.batch": 0},
        phase="Pending",
    ),
    Trouble(
        "a limit in the quota that the pod does not name",
        "PodRefused",
        "failed quota: team-a: must specify limits.memory for: trainer",
        hard={"limits.memory": "8Gi"},
    ),
]


async def set_quota(p: Plane, hard: dict[str, Any], name: str = "team-a") -> None:
    """Makes a quota, or changes it."""
    if p.objects("", "resourcequotas"):
        await p.client.patch(f"{QUOTAS}/{name}", {"spec": {"hard": hard}})
    else:
        await p.client.create(QUOTAS, {"metadata": {"name": name}, "spec": {"hard": hard}})


class Stopwatch:
    """When the API server first held a job's trouble, and when the job's status first told it."""

    def __init__(self, p: Plane, reason: str) -> None:
        self.began = self.ended = 0.0
        self._reason = reason
        p.server.store.listen(self._written)

    @property
    def seconds(self) -> float:
        assert 0 < self.began < self.ended
        return self.ended - self.began

    def _written(self, resource, change) -> None:
        now, raw = asyncio.get_running_loop().time(), change.object
        if not self.began and self._is_trouble(resource, raw):
            self.began = now
        elif not self.ended and resource[1] == "finetunejobs" and ready(raw.get("status") or {}) == self._reason:
            self.ended = now

    def _is_trouble(self, resource, raw) -> bool:
        """A Job that is refused itself leaves no trace: then what counts is when it was asked for."""
        if resource[1] == "pods":
            return failures.of_waiting(PodState.of(raw)) is not None
        if resource[1] == "finetunejobs":
            return "status" not in raw and self._reason == "QuotaExceeded"
        return resource[1] == "events" and raw["reason"] == "FailedCreate"


def ready(status: dict[str, Any]) -> str:
    """The reason of the condition Ready."""
    return next((c["reason"] for c in status.get("conditions") or () if c["type"] == "Ready"), "")


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.name)
@asynchronous
async def test_what_keeps_a_job_from_starting_is_told_in_time(tmp_path, trouble):
    async with plane(tmp_path) as p, p.operator(**DEFAULT) as operator:
        await until(lambda: operator.elector.leading, "it leads")
        if trouble.hard:
            await set_quota(p, trouble.hard)
        p.script["support-bot"] = [[trouble.pod] if trouble.pod else RUNS]
        watch = Stopwatch(p, trouble.reason)
        await p.apply(resources=trouble.resources)
        await until(lambda: ready(p.status()) == trouble.reason, "it is told", 2 * PROMISED)
        assert trouble.said in p.status()["message"]
        assert p.status()["phase"] == trouble.phase
        assert watch.seconds <= PROMISED


@asynchronous
async def test_a_job_goes_on_by_itself_once_its_quota_is_raised(tmp_path):
    async with plane(tmp_path) as p, p.operator(**DEFAULT):
        await set_quota(p, {GPUS: 1})
        p.script["support-bot"] = [SUCCEEDS]
        await p.apply(resources=TWO)
        await until(lambda: ready(p.status()) == "QuotaExceeded", "it is told")
        await set_quota(p, {GPUS: 2})
        status = await p.phase("Succeeded")
        assert [attempt["reason"] for attempt in status["attempts"]] == ["Succeeded"]
        assert "failures" not in status
        assert (len(p.jobs()), len(p.pods())) == (1, 2)


@asynchronous
async def test_a_job_goes_on_by_itself_once_another_has_left_its_quota(tmp_path):
    async with plane(tmp_path) as p, p.operator(**DEFAULT):
        await set_quota(p, {GPUS: 1})
        p.script |= {"first": [RUNS], "support-bot": [SUCCEEDS]}
        await p.apply(name="first")
        await p.phase("Running", "first")
        await p.apply()
        await until(lambda: ready(p.status()) == "QuotaExceeded", "it is told")
        assert refused(GPUS, "1", "1", "1") in p.status()["message"]
        await p.play(p.pods()[0], b.ended_pod(0, b.result()))
        await p.phase("Succeeded", "first")
        await p.phase("Succeeded")


@asynchronous
async def test_a_job_whose_job_a_quota_refused_goes_on_by_itself_once_it_is_raised(tmp_path, monkeypatch):
    monkeypatch.setattr(beginning, "_ASK_AGAIN", 0.2)  # a minute
    async with plane(tmp_path) as p, p.operator(**DEFAULT):
        await set_quota(p, {"count/jobs.batch": 0})
        p.script["support-bot"] = [SUCCEEDS]
        await p.apply()
        await until(lambda: ready(p.status()) == "QuotaExceeded", "it is told")
        await set_quota(p, {"count/jobs.batch": 1})
        await p.phase("Succeeded")
