"""The real kubectl against the server. Collected only where kubectl is installed (see conftest.py)."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.local.apiserver.apiclient import JOBS, Running, running
from tests.local.apiserver.conftest import DEFINITIONS
from tests.local.apiserver.samples import batch_job, owner, pod, sample_definition, sample_job


@dataclass
class Output:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[list[str]]:
        return [line.split() for line in self.out.splitlines()]


@dataclass
class Kubectl:
    api: Running
    home: Path
    logs_dir: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"HOME": str(self.home), "KUBECONFIG": str(self.home / "config"), "PATH": os.environ["PATH"]}

    def __call__(self, *arguments: str, manifest: Any = None) -> Output:
        sent = None if manifest is None else json.dumps(manifest)
        done = subprocess.run(
            ["kubectl", *arguments], env=self.environment, input=sent, capture_output=True, text=True, timeout=30
        )
        return Output(done.returncode, done.stdout, done.stderr)

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(["kubectl", *arguments], env=self.environment, stdout=subprocess.PIPE, text=True)


def definition_without_item_defaults() -> dict[str, Any]:
    definition = sample_definition()
    structure = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    structure["properties"]["spec"]["description"] = "What to train, and how."
    del structure["properties"]["spec"]["properties"]["data"]["properties"]["train"]["items"]["properties"]["weight"]
    return definition


@pytest.fixture(scope="module")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    """kubectl with a kubeconfig of a server that knows SampleJobs."""
    home = tmp_path_factory.mktemp("home")
    with running(home / "logs") as api:
        (home / "config").write_text(json.dumps(api.server.kubeconfig()))
        api.post(DEFINITIONS, definition_without_item_defaults())
        yield Kubectl(api, home, home / "logs")


@pytest.fixture
def job(kubectl: Kubectl) -> Iterator[Callable[..., dict[str, Any]]]:
    """Creates a SampleJob without kubectl; it is gone after the test."""

    def create(**spec: Any) -> dict[str, Any]:
        created: dict[str, Any] = kubectl.api.post(JOBS, sample_job(**spec)).json
        return created

    yield create
    kubectl.api.delete(JOBS)


def test_applying_twice_changes_nothing(kubectl: Kubectl, job: object) -> None:
    first = kubectl("apply", "-f", "-", manifest=sample_job())
    again = kubectl("apply", "-f", "-", manifest=sample_job())
    changed = kubectl("apply", "-f", "-", manifest=sample_job(epochs=3))
    told = [one.out.strip().removeprefix("samplejob.finetune.dev/one ") for one in (first, again, changed)]
    assert told == ["created", "unchanged", "configured"], (first, again, changed)


def test_a_built_in_job_is_unchanged_when_applied_again(kubectl: Kubectl) -> None:
    outputs = [kubectl("apply", "-f", "-", manifest=batch_job("twice")).out for _ in range(2)]
    assert outputs == ["job.batch/twice created\n", "job.batch/twice unchanged\n"]


def test_get_prints_the_columns_of_the_definition(kubectl: Kubectl, job: Callable[..., Any]) -> None:
    job()
    kubectl.api.patch(f"{JOBS}/one/status", {"status": {"phase": "Running", "progress": {"percent": 42}}})
    header, row = kubectl("get", "sj").lines
    assert header == ["NAME", "PHASE", "PROGRESS", "STARTED", "AGE"]
    assert row[:3] == ["one", "Running", "42"]
    assert "one" in kubectl("get", "all").out


def test_get_as_yaml_shows_the_whole_object(kubectl: Kubectl, job: Callable[..., Any]) -> None:
    job()
    told = kubectl("get", "sj", "one", "-o", "yaml").out
    assert "kind: SampleJob" in told
    assert "uri: hf://org/model" in told
    assert "managedFields" not in told


def test_get_follows_changes(kubectl: Kubectl, job: Callable[..., Any]) -> None:
    job()
    with kubectl.begin("get", "sj", "-w") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("NAME")
        assert process.stdout.readline().split()[0] == "one"
        kubectl.api.until(lambda: kubectl.api.server.open_watches == 1)
        kubectl.api.patch(f"{JOBS}/one/status", {"status": {"phase": "Running"}})
        assert process.stdout.readline().split()[:2] == ["one", "Running"]
        process.kill()


def test_describe_shows_the_objects_events(kubectl: Kubectl, job: Callable[..., Any]) -> None:
    about = owner(job()) | {"namespace": "default"}
    event = {"metadata": {"name": "one.1"}, "involvedObject": about, "reason": "Started", "message": "training started"}
    event |= {"type": "Normal", "source": {"component": "operator"}, "count": 1}
    kubectl.api.post("/api/v1/namespaces/default/events", event)
    told = kubectl("describe", "sj", "one").out
    assert "Learning Rate:  0.0002" in told
    assert "training started" in told


def test_explain_tells_the_fields_of_custom_and_built_in_kinds(kubectl: Kubectl) -> None:
    told = kubectl("explain", "samplejob.spec").out
    assert "What to train, and how." in told
    assert "epochs\t<integer>" in told
    assert "enum: lora, none" in told
    assert "backoffLimit\t<integer>" in kubectl("explain", "job.spec").out


def test_wait_sees_a_phase_and_a_condition(kubectl: Kubectl, job: Callable[..., Any]) -> None:
    job()
    with kubectl.begin("wait", "--for=jsonpath={.status.phase}=Succeeded", "sj/one", "--timeout=20s") as process:
        kubectl.api.until(lambda: kubectl.api.server.open_watches == 1)
        ready = {"type": "Ready", "status": "True"}
        kubectl.api.patch(f"{JOBS}/one/status", {"status": {"phase": "Succeeded", "conditions": [ready]}})
        assert process.wait(20) == 0
    assert kubectl("wait", "--for=condition=Ready", "sj/one", "--timeout=5s").code == 0


def test_delete_waits_until_the_object_is_gone(kubectl: Kubectl, job: Callable[..., Any]) -> None:
    job()
    assert kubectl("delete", "sj", "one").out == 'samplejob.finetune.dev "one" deleted\n'
    assert kubectl.api.get(f"{JOBS}/one").status == 404
    assert "NotFound" in kubectl("delete", "sj", "one").err


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"epochz": 1}, 'strict decoding error: unknown field "spec.epochz"'),
        ({"epochs": "many"}, 'spec.epochs in body must be of type integer: "string"'),
        ({"maxSteps": 1}, "give epochs or maxSteps, not both"),
        ({"model": {"uri": "ftp://x"}}, "spec.model.uri in body should match"),
        ({"model": {}}, "spec.model.uri: Required value"),
    ],
)
def test_wrong_yaml_is_refused_with_the_fields_path(kubectl: Kubectl, wrong: dict[str, Any], told: str) -> None:
    output = kubectl("apply", "-f", "-", manifest=sample_job("wrong", **wrong))
    assert output.code == 1
    assert told in output.err


def test_a_quota_is_applied_or_created_refuses_pods_and_tells_what_is_used(kubectl: Kubectl) -> None:
    kubectl("create", "namespace", "tight")
    manifest = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "gpus"}}
    manifest["spec"] = {"hard": {"requests.nvidia.com/gpu": "0", "count/pods": "1"}}
    outputs = [kubectl("-n", "tight", "apply", "-f", "-", manifest=manifest).out for _ in range(2)]
    assert outputs == ["resourcequota/gpus created\n", "resourcequota/gpus unchanged\n"]
    created = kubectl("-n", "tight", "create", "quota", "small", "--hard=limits.memory=2Gi")
    assert created.out == "resourcequota/small created\n", created.err
    body = pod()
    body["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": 1, "memory": "1Gi"}}
    refused = kubectl("-n", "tight", "apply", "-f", "-", manifest=body)
    assert refused.code == 1
    assert 'pods "p" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: ' in refused.err
    body["spec"]["containers"][0]["resources"] = {"limits": {"memory": "1Gi"}}
    assert kubectl("-n", "tight", "apply", "-f", "-", manifest=body).code == 0
    header, *rows = kubectl("-n", "tight", "get", "quota").lines
    assert header == ["NAME", "REQUEST", "LIMIT", "AGE"]
    assert [row[:-1] for row in rows] == [
        ["gpus", "count/pods:", "1/1,", "requests.nvidia.com/gpu:", "0/0"],
        ["small", "limits.memory:", "1Gi/2Gi"],
    ]
    assert ["limits.memory", "1Gi", "2Gi"] in kubectl("-n", "tight", "describe", "quota", "small").lines
    kubectl("delete", "namespace", "tight")


def test_logs_of_a_job_and_of_a_pod_until_it_ends(kubectl: Kubectl) -> None:
    api = kubectl.api
    created = api.post("/apis/batch/v1/namespaces/default/jobs", batch_job("logged")).json
    body = pod("logged-0", ownerReferences=[owner(created)], labels=created["spec"]["template"]["metadata"]["labels"])
    uid = api.post("/api/v1/namespaces/default/pods", body).json["metadata"]["uid"]
    path = "/api/v1/namespaces/default/pods/logged-0"
    api.patch(path, {"spec": {"nodeName": "node1"}})
    running_now = {"phase": "Running", "containerStatuses": [{"name": "main", "state": {"running": {}}}]}
    api.patch(f"{path}/status", {"status": running_now})
    log = kubectl.logs_dir / uid / "main.log"
    log.parent.mkdir(parents=True)
    log.write_text("step 1\n")
    assert kubectl("logs", "job/logged").out == "step 1\n"
    with kubectl.begin("logs", "-f", "logged-0") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "step 1\n"
        with log.open("a") as more:
            more.write("step 2\n")
        assert process.stdout.readline() == "step 2\n"
        api.patch(f"{path}/status", {"status": {"phase": "Succeeded"}})
        assert process.wait(20) == 0


def test_what_kubectl_sends_as_protobuf_is_understood(kubectl: Kubectl) -> None:
    assert kubectl("auth", "can-i", "create", "samplejobs").out == "yes\n"
    assert kubectl("create", "namespace", "team").code == 0
    secret = kubectl("-n", "team", "create", "secret", "generic", "s3", "--from-literal=key=value")
    assert secret.out == "secret/s3 created\n", secret.err
    stored = kubectl.api.get("/api/v1/namespaces/team/secrets/s3").json
    assert (stored["data"], stored["type"]) == ({"key": "dmFsdWU="}, "Opaque")
    token = kubectl("create", "token", "default", "--audience=finetune-operator").out.strip()
    assert token.count(".") == 2
    assert kubectl("delete", "namespace", "team").code == 0
