"""Installed by Helm, the operator works with the rights that the chart gives, and uses every one of them."""

import asyncio
import base64
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from finetune_api import names
from finetune_local import apiserver
from finetune_local.apiserver import ApiServer
from finetune_local.client import ApiClient, ApiError
from finetune_operator.permissions import PERMISSIONS
from tests import builders

from .conftest import CHART
from .installed import ACCOUNT, NAMESPACE, RELEASE, USER, Object, api_server, helm_config, install, operator, until

TEAM = "team-a"
FINETUNEJOBS = f"/apis/{names.API_VERSION}/namespaces/{TEAM}/{names.PLURAL}"
JOBS = f"/apis/batch/v1/namespaces/{TEAM}/jobs"
PODS = f"/api/v1/namespaces/{TEAM}/pods"
SERVICES = f"/api/v1/namespaces/{TEAM}/services"
EVENTS = f"/api/v1/namespaces/{TEAM}/events"
CRD = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{names.CRD_NAME}"
SECRET = f"/api/v1/namespaces/{NAMESPACE}/secrets/finetune-operator-reports"
DEPLOYMENT = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{ACCOUNT}"


def test_an_upgrade_keeps_the_certificate_and_an_uninstall_keeps_the_finetunejobs(tmp_path: Path):
    asyncio.run(upgrade_and_uninstall(tmp_path))


async def upgrade_and_uninstall(folder: Path) -> None:
    async with api_server(folder) as (server, admin), helm_config(server) as config:
        assert (await install(config, {}))["status"] == "deployed"
        await admin.create(FINETUNEJOBS, builders.manifest())
        await admin.patch(SECRET, {"data": {"tls.crt": base64.b64encode(b"made by the operator").decode()}})
        before = await admin.get(DEPLOYMENT)

        await asyncio.to_thread(config.upgrade, CHART, RELEASE, {})
        assert await admin.get(DEPLOYMENT) == before, "an upgrade to the same changes nothing"

        await asyncio.to_thread(config.upgrade, CHART, RELEASE, {"replicas": 3})
        assert (await admin.get(DEPLOYMENT))["spec"]["replicas"] == 3
        assert "tls.crt" in (await admin.get(SECRET))["data"]

        history = await asyncio.to_thread(config.history, RELEASE)
        assert [release["status"] for release in history] == ["superseded", "superseded", "deployed"]

        await asyncio.to_thread(config.uninstall, RELEASE)
        with pytest.raises(ApiError, match="not found"):
            await admin.get(DEPLOYMENT)
        assert await admin.get(CRD)
        assert len((await admin.get(FINETUNEJOBS))["items"]) == 1


@pytest.mark.parametrize("served", [[], [TEAM]], ids=["all namespaces", "one namespace"])
def test_the_operator_works_with_the_rights_of_the_chart_and_needs_every_one(tmp_path: Path, served: list[str]):
    asyncio.run(run_two_jobs(tmp_path, served))


async def run_two_jobs(folder: Path, served: list[str]) -> None:
    async with api_server(folder) as (server, admin):
        async with helm_config(server) as config:
            await install(config, {"watchNamespaces": served})
        server.interceptor = cannot_stream_lists
        async with operator(server, admin, folder) as reports_url:
            await one_that_succeeds(admin, reports_url)
            await one_whose_pod_is_refused_and_that_is_suspended(admin)
            await one_without_its_profile(admin)
            await one_whose_service_is_somebody_elses(admin)
        assert_rights_suffice_and_are_used(server)


async def cannot_stream_lists(call: Any, when: str) -> None:
    """As an older API server, for which the permission to list is needed."""
    if "sendInitialEvents" in call.path:
        raise apiserver.ApiError(422, "Invalid", "sendInitialEvents is forbidden for watch")


async def one_without_its_profile(admin: ApiClient) -> None:
    created = await admin.create(FINETUNEJOBS, builders.manifest(name="lost", profile="nowhere"))
    await reaches(admin, created, lambda status: status.get("phase") == "Failed")


async def one_whose_service_is_somebody_elses(admin: ApiClient) -> None:
    """The operator makes a Service for several nodes, and asks whose the one is that is there already."""
    created = await admin.create(FINETUNEJOBS, builders.manifest("nodes", resources={"nodes": 2}, suspend=True))
    name = names.service_name("nodes", created["metadata"]["uid"])
    await admin.create(SERVICES, {"metadata": {"name": name}, "spec": {"clusterIP": "None"}})
    await admin.patch(f"{FINETUNEJOBS}/nodes", {"spec": {"suspend": False}})
    await reaches(admin, created, lambda status: status.get("phase") == "Failed")


async def one_that_succeeds(admin: ApiClient, reports_url: str) -> None:
    created = await admin.create(FINETUNEJOBS, builders.manifest())
    job = await until(admin, JOBS, lambda found: is_child(found, created))
    await reaches(admin, created, lambda status: "jobRef" in status)
    pod = await run_pod_of(admin, job)
    assert await report(admin, pod, reports_url) == 200
    await reaches(admin, created, lambda status: status.get("progress", {}).get("percent") == 42)
    await finish(admin, job, pod)
    await reaches(admin, created, lambda status: status.get("phase") == "Succeeded")
    await until(admin, EVENTS, lambda found: found["reason"] == "Succeeded")


async def one_whose_pod_is_refused_and_that_is_suspended(admin: ApiClient) -> None:
    """Why there is no pod, the operator reads in Events; to suspend the FineTuneJob, it deletes the Job."""
    created = await admin.create(FINETUNEJOBS, builders.manifest("refused"))
    job = await until(admin, JOBS, lambda found: is_child(found, created))
    about = {"kind": "Job", "namespace": TEAM, "name": job["metadata"]["name"], "uid": job["metadata"]["uid"]}
    meta = {"name": "why", "namespace": TEAM}
    said = 'Error creating: pods "x" is forbidden: exceeded quota: q'
    event = {"metadata": meta, "involvedObject": about, "type": "Warning", "reason": "FailedCreate", "message": said}
    await admin.create(EVENTS, event)
    await reaches(admin, created, lambda status: "exceeded quota: q" in status.get("message", ""))
    await admin.patch(f"{FINETUNEJOBS}/refused", {"spec": {"suspend": True}})
    await reaches(admin, created, lambda status: status.get("phase") == "Suspended")


async def reaches(admin: ApiClient, job: Object, holds: Callable[[Object], Any]) -> None:
    """Waits until something holds of a FineTuneJob's status."""
    uid = job["metadata"]["uid"]
    await until(admin, FINETUNEJOBS, lambda found: found["metadata"]["uid"] == uid and holds(found.get("status", {})))


def is_child(job: Object, parent: Object) -> bool:
    return [owner["uid"] for owner in job["metadata"]["ownerReferences"]] == [parent["metadata"]["uid"]]


async def run_pod_of(admin: ApiClient, job: Object) -> Object:
    """A pod of the Job, running: what the Job controller and a kubelet would make of it."""
    template = job["spec"]["template"]
    meta = {**template["metadata"], "name": f"{job['metadata']['name']}-0", "namespace": TEAM}
    await admin.create(PODS, {"metadata": meta, "spec": template["spec"]})
    return await admin.patch(f"{PODS}/{meta['name']}/status", {"status": builders.running_pod()["status"]})


async def report(admin: ApiClient, pod: Object, url: str) -> int:
    """What the pod is answered that reports 42 % with its own projected token."""
    bound = {"kind": "Pod", "apiVersion": "v1", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
    request = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"audiences": [names.MANAGER], "boundObjectRef": bound},
    }
    token = (await admin.create(f"/api/v1/namespaces/{TEAM}/serviceaccounts/default/token", request))["status"]["token"]
    trust = ssl.create_default_context(cadata=pod["metadata"]["annotations"][names.ANNOTATION_REPORTS_CA])
    headers = {"Authorization": f"Bearer {token}"}
    connector = aiohttp.TCPConnector(ssl=trust)
    async with (
        aiohttp.ClientSession(headers=headers, connector=connector) as session,
        session.post(url, json=builders.report(42)) as answer,
    ):
        return answer.status


async def finish(admin: ApiClient, job: Object, pod: Object) -> None:
    """The pod ends with a result, and the Job is complete."""
    ended = builders.ended_pod(0, builders.result())["status"]
    await admin.patch(f"{PODS}/{pod['metadata']['name']}/status", {"status": ended})
    at = builders.CREATED
    complete: dict[str, Any] = {"succeeded": 1, "startTime": at, "completionTime": at, "uncountedTerminatedPods": {}}
    complete["conditions"] = [
        builders.condition("SuccessCriteriaMet", "CompletionsReached"),
        builders.condition("Complete", "CompletionsReached"),
    ]
    await admin.patch(f"{JOBS}/{job['metadata']['name']}/status", {"status": complete})


def assert_rights_suffice_and_are_used(server: ApiServer) -> None:
    ours = [request for request in server.requests if request.user == USER]
    refused = [f"{request.verb} {request.path}" for request in ours if request.status == 403]
    assert refused == [], "a call that PERMISSIONS does not declare"
    used = {
        (request.group, f"{request.resource}/{request.subresource}".rstrip("/"), request.verb, request.grant.role)
        for request in ours
        if request.grant and "finetune-operator" in request.grant.role
    }
    declared = {(p.group, p.full_resource, verb) for p in PERMISSIONS for verb in p.verbs}
    assert {key[:3] for key in used} == declared, "a permission that nothing needs"
