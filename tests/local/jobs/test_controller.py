"""The Job controller over the API, with the node agent beside it."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from finetune_local.apiserver.errors import ApiError
from finetune_local.apiserver.requests import RequestRecord
from tests.local.jobs.recording import events_of, of_job, without_times
from tests.local.rig import JOBS, PODS, Rig, eventually, running

QUOTAS = "/api/v1/namespaces/default/resourcequotas"


async def submit(rig: Rig, script: str, name: str = "j", **spec: Any) -> str:
    """Creates an Indexed Job of one shell script; the path of the Job."""
    container = {"name": "main", "image": "any:1", "command": ["sh", "-c", script]}
    template = {"spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container]}}
    shape = {"completionMode": "Indexed", "completions": 1, "parallelism": 1, "template": template}
    body = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {**shape, **spec}}
    await rig.client.create(JOBS, body)
    return f"{JOBS}/{name}"


def conditions(job: dict[str, Any]) -> list[str]:
    return [c["type"] for c in job["status"].get("conditions") or () if c["status"] == "True"]


async def pods(rig: Rig) -> list[dict[str, Any]]:
    return list((await rig.client.get(PODS))["items"])


@pytest.mark.parametrize(
    ("script", "spec", "ended", "counters"),
    [
        ("exit 0", {}, ["SuccessCriteriaMet", "Complete"], {"succeeded": 1, "completedIndexes": "0"}),
        ("exit 1", {"backoffLimit": 1}, ["FailureTarget", "Failed"], {"failed": 2}),
        (
            "exit 0",
            {"completions": 3, "parallelism": 2},
            ["SuccessCriteriaMet", "Complete"],
            {"succeeded": 3, "completedIndexes": "0-2"},
        ),
        ("sleep 60", {"activeDeadlineSeconds": 1}, ["FailureTarget", "Failed"], {"failed": 1}),
    ],
)
def test_a_job_runs_to_its_end(
    tmp_path: Path, script: str, spec: dict[str, Any], ended: list[str], counters: dict[str, Any]
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as rig:
            path = await submit(rig, script, **spec)
            job = await rig.until(path, lambda job: ended[-1] in conditions(job))

            assert conditions(job) == ended
            assert {key: job["status"].get(key) for key in counters} == counters
            assert not any(pod["metadata"].get("finalizers") for pod in await pods(rig))

    asyncio.run(scenario())


def test_a_suspended_job_gives_its_pods_up_and_starts_anew(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as rig:
            path = await submit(rig, "sleep 60", suspend=True)
            await rig.until(path, lambda job: conditions(job) == ["Suspended"])
            await rig.client.patch(path, {"spec": {"suspend": False}})
            await rig.until(path, lambda job: job["status"].get("ready") == 1)
            first = (await pods(rig))[0]["metadata"]["name"]
            await rig.client.patch(path, {"spec": {"suspend": True}})
            await rig.until(path, lambda job: conditions(job) == ["Suspended"] and not job["status"]["terminating"])
            await rig.until_gone(f"{PODS}/{first}")
            await rig.client.patch(path, {"spec": {"suspend": False}})
            job = await rig.until(path, lambda job: job["status"].get("ready") == 1)

            assert "failed" not in job["status"]
            assert await rig.reasons("j") == [
                "Suspended",
                "SuccessfulCreate",
                "Resumed",
                "SuccessfulDelete",
                "SuccessfulCreate",
            ]

    asyncio.run(scenario())


def test_an_evicted_pod_is_replaced_without_counting(tmp_path: Path) -> None:
    ignore = {"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]}

    async def scenario() -> None:
        async with running(tmp_path) as rig:
            path = await submit(rig, "sleep 60", backoffLimit=0, podFailurePolicy=ignore)
            await rig.until(path, lambda job: job["status"].get("ready") == 1)
            first = (await pods(rig))[0]["metadata"]["name"]
            eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": first}}
            await rig.client.create(f"{PODS}/{first}/eviction", eviction)
            await rig.until_gone(f"{PODS}/{first}")
            job = await rig.until(path, lambda job: job["status"].get("ready") == 1)

            assert "failed" not in job["status"]
            assert [pod["metadata"]["name"] for pod in await pods(rig)] != [first]

    asyncio.run(scenario())


def test_a_deleted_job_takes_its_pods_along(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as rig:
            path = await submit(rig, "sleep 60")
            await rig.until(path, lambda job: job["status"].get("ready") == 1)
            pod = (await pods(rig))[0]["metadata"]["name"]
            await rig.client.delete(path, {"propagationPolicy": "Background"})

            await rig.until_gone(path)
            await rig.until_gone(f"{PODS}/{pod}")

    asyncio.run(scenario())


def test_a_finished_job_is_deleted_when_its_time_is_up(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as rig:
            path = await submit(rig, "true", ttlSecondsAfterFinished=0)

            await rig.until_gone(path)
            await eventually(lambda: not (tmp_path / "logs").is_dir() or not list((tmp_path / "logs").iterdir()))
            assert await pods(rig) == []

    asyncio.run(scenario())


def test_a_pod_that_a_quota_refuses_is_told_as_on_a_real_cluster_and_tried_again_until_there_is_room(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as rig:
            await rig.client.create(QUOTAS, {"metadata": {"name": "q"}, "spec": {"hard": {"pods": 0}}})
            path = await submit(rig, "true")
            await eventually(lambda: len(refused(rig)) >= 3)

            recorded = [message for _, _, message in events_of("succeeded", "quota")]
            assert {_nameless(message) for message in refused(rig)} == {_nameless(message) for message in recorded}
            (status,) = [row.object["status"] for row in of_job("succeeded", "quota") if row.type == "MODIFIED"]
            assert without_times((await rig.client.get(path))["status"]) == without_times(status)
            await rig.client.patch(f"{QUOTAS}/q", {"spec": {"hard": {"pods": 1}}})
            await rig.until(path, lambda job: "Complete" in conditions(job))
            assert (await rig.reasons("j"))[-2:] == ["SuccessfulCreate", "Completed"]

    asyncio.run(scenario())


def refused(rig: Rig) -> list[str]:
    """What the Events say of pods that could not be created."""
    events = rig.server.store.list(("", "events"))
    return [event["message"] for event in events if event["reason"] == "FailedCreate"]


def _nameless(message: str) -> str:
    return re.sub(r'pods "[^"]*"', "pods", message)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("place", range(9))
def test_a_write_that_fails_counts_no_pod_twice(tmp_path: Path, place: int, when: str) -> None:
    """One write of the chain is refused, or carried out but answered by an error: the end is the same."""
    seen: list[str] = []

    async def break_once(request: RequestRecord, moment: str) -> None:
        of_the_chain = "/pods" in request.path or "/jobs" in request.path
        if request.method in ("POST", "PUT", "PATCH") and moment == when and of_the_chain:
            seen.append(f"{request.method} {request.path}")
            if len(seen) == place + 1:
                raise ApiError(500, "InternalError", "try again")

    async def scenario() -> None:
        async with running(tmp_path) as rig:
            path = await submit(rig, "exit 1", backoffLimit=0)
            rig.server.interceptor = break_once
            job = await rig.until(path, lambda job: "Failed" in conditions(job))

            assert len(seen) > place
            assert job["status"]["failed"] == 1
            assert conditions(job) == ["FailureTarget", "Failed"]

    asyncio.run(scenario())


def test_a_job_that_would_be_misread_is_left_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as rig:
            path = await submit(rig, "true", backoffLimitPerIndex=1)
            other = await submit(rig, "true", name="other")
            await rig.until(other, lambda job: "Complete" in conditions(job))

            assert await rig.reasons("j") == ["Unsupported"]
            assert (await rig.client.get(path))["status"] == {}

    asyncio.run(scenario())
