"""What the server fills in and refuses for Jobs, Pods and the other built-in kinds."""

from __future__ import annotations

import copy
import gzip
import json
from typing import Any

import pytest

from tests.local.apiserver.apiclient import STRATEGIC, Running
from tests.local.apiserver.samples import EXCHANGES, batch_job, pod, sample_definition

BATCH = "/apis/batch/v1/namespaces/default/jobs"
PODS = "/api/v1/namespaces/default/pods"
SERVER_MADE = ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields")


def recorded_jobs() -> dict[str, dict[str, Any]]:
    """The Jobs of a real cluster as they were first seen, by name."""
    found: dict[str, dict[str, Any]] = {}
    with gzip.open(EXCHANGES.with_name("objects.jsonl.gz"), "rt") as lines:
        for line in lines:
            event = json.loads(line)
            obj = event["object"]
            if obj["kind"] == "Job" and event["type"] == "ADDED" and obj["metadata"]["namespace"] == "oracle":
                found.setdefault(obj["metadata"]["name"], obj)
    return found


def as_sent(job: dict[str, Any]) -> dict[str, Any]:
    """A recorded Job without what the server filled in."""
    sent = copy.deepcopy(job)
    spec = sent["spec"]
    sent["metadata"] = {"name": job["metadata"]["name"]}
    del sent["status"], spec["selector"], spec["manualSelector"], spec["template"]["metadata"]["labels"]
    if not spec["suspend"]:
        del spec["suspend"]
    pod_spec = spec["template"]["spec"]
    del pod_spec["dnsPolicy"], pod_spec["schedulerName"]
    if not pod_spec["securityContext"]:
        del pod_spec["securityContext"]
    for container in pod_spec["containers"]:
        del container["terminationMessagePath"], container["terminationMessagePolicy"]
        if not container["resources"]:
            del container["resources"]
    return sent


@pytest.mark.parametrize("name", sorted(recorded_jobs()))
def test_a_job_is_filled_in_as_on_a_real_cluster(api: Running, name: str) -> None:
    real = recorded_jobs()[name]
    answer = api.post(f"{BATCH}?fieldValidation=Strict", as_sent(real))
    assert answer.status == 201, answer.text
    uid = answer.json["metadata"]["uid"]
    ours = json.loads(answer.text.replace(uid, real["metadata"]["uid"]))
    assert ours["spec"] == real["spec"]
    assert ours["metadata"]["labels"] == real["metadata"]["labels"]
    assert ours["status"] == {}


def test_a_pod_is_filled_in_as_on_a_real_cluster(api: Running) -> None:
    created = api.post(PODS, pod()).json
    spec = created["spec"]
    assert (spec["serviceAccountName"], spec["dnsPolicy"], spec["enableServiceLinks"]) == (
        "default",
        "ClusterFirst",
        True,
    )
    assert [one["key"] for one in spec["tolerations"]] == [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ]
    assert created["status"] == {"phase": "Pending", "qosClass": "BestEffort"}
    assert created["metadata"]["generation"] == 1


def changed(job: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of a Job with one field set (or, with None, taken away)."""
    job = copy.deepcopy(job)
    *way, last = path.split(".")
    part = job
    for key in way:
        part = part[int(key)] if key.isdigit() else part[key]
    if value is None:
        del part[last]
    else:
        part[last] = value
    return job


JOB = batch_job()


@pytest.mark.parametrize(
    ("job", "status", "field"),
    [
        (changed(JOB, "spec.template", None), 422, "spec.template"),
        (changed(JOB, "spec.template.spec.restartPolicy", "Always"), 422, "spec.template.spec.restartPolicy"),
        (changed(JOB, "spec.template.spec.restartPolicy", None), 422, "spec.template.spec.restartPolicy"),
        (changed(JOB, "spec.template.spec.containers", []), 422, "spec.template.spec.containers"),
        (changed(JOB, "spec.template.spec.containers.0.image", None), 422, "spec.template.spec.containers[0].image"),
        (changed(JOB, "spec.template.spec.containers.0.name", "A B"), 422, "spec.template.spec.containers[0].name"),
        (changed(JOB, "spec.template.spec.containers.0.volumeMounts", [{"name": "v", "mountPath": "/v"}]), 422,
         "spec.template.spec.containers[0].volumeMounts[0].name"),
        (changed(JOB, "spec.completionMode", "Sometimes"), 422, "spec.completionMode"),
        (changed(JOB, "spec.parallelism", -1), 422, "spec.parallelism"),
        (batch_job("x" * 63, completionMode="Indexed", completions=1), 422, "metadata.name"),
        (batch_job("x" * 61, completionMode="Indexed", completions=11), 422, "metadata.name"),
        (batch_job("a.b", completionMode="Indexed", completions=1), 422, "metadata.name"),
    ],
)  # fmt: skip
def test_a_job_that_could_not_run_is_refused(api: Running, job: dict[str, Any], status: int, field: str) -> None:
    answer = api.post(BATCH, job)
    assert answer.status == status, answer.text
    assert field in [cause["field"] for cause in answer.json["details"]["causes"]]


def test_an_indexed_job_may_use_the_hostname_to_the_last_character(api: Running) -> None:
    assert api.post(BATCH, batch_job("x" * 61, completionMode="Indexed", completions=10)).status == 201


@pytest.mark.parametrize(
    ("job", "told"),
    [
        (batch_job(backoffLimt=1), 'unknown field "spec.backoffLimt"'),
        (batch_job(backoffLimit="1"), "cannot unmarshal string into Go struct field Job.spec.backoffLimit"),
        (batch_job() | {"kind": "Pod"}, "does not match the expected one"),
        (batch_job() | {"apiVersion": "batch/v2"}, "does not match the expected one"),
    ],
)
def test_a_job_that_cannot_be_read_is_a_bad_request(api: Running, job: dict[str, Any], told: str) -> None:
    answer = api.post(f"{BATCH}?fieldValidation=Strict", job)
    assert (answer.status, answer.json["reason"]) == (400, "BadRequest")
    assert told in answer.json["message"]


@pytest.mark.parametrize(
    ("patch", "field"),
    [
        ({"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "other"}]}}}}, "spec.template"),
        ({"spec": {"completions": 3}}, "spec.completions"),
        ({"spec": {"podReplacementPolicy": "Failed"}}, "spec.podReplacementPolicy"),
    ],
)
def test_what_a_job_is_cannot_be_changed(api: Running, patch: dict[str, Any], field: str) -> None:
    api.post(BATCH, batch_job())
    answer = api.patch(f"{BATCH}/child", patch, STRATEGIC)
    assert answer.status == 422
    assert (field, True) in [
        (cause["field"], "field is immutable" in cause["message"]) for cause in answer.json["details"]["causes"]
    ]


def test_a_job_can_be_suspended_and_given_its_place_while_it_waits(api: Running) -> None:
    api.post(BATCH, batch_job(suspend=True))
    placed = {"spec": {"template": {"spec": {"nodeSelector": {"gpu": "yes"}}}}}
    assert api.patch(f"{BATCH}/child", placed).status == 200
    assert api.patch(f"{BATCH}/child", {"spec": {"suspend": False}}).json["metadata"]["generation"] == 3
    api.patch(f"{BATCH}/child/status", {"status": {"startTime": "2026-01-01T00:00:00Z"}})
    assert api.patch(f"{BATCH}/child", {"spec": {"template": {"spec": {"nodeSelector": None}}}}).status == 422


def test_nulls_mean_nothing_in_built_in_objects(api: Running) -> None:
    body = batch_job()
    body["metadata"]["creationTimestamp"] = None
    body["spec"]["suspend"] = None
    assert api.post(f"{BATCH}?fieldValidation=Strict", body).json["spec"]["suspend"] is False


def test_quantities_may_be_numbers(api: Running) -> None:
    body = pod()
    body["spec"]["containers"][0]["resources"] = {"limits": {"cpu": 1, "memory": "1Gi"}}
    created = api.post(PODS, body).json
    resources = created["spec"]["containers"][0]["resources"]
    assert resources == {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}}
    assert created["status"]["qosClass"] == "Guaranteed"


def test_a_pod_may_be_scheduled_but_not_changed(api: Running) -> None:
    api.post(PODS, pod())
    assert api.patch(f"{PODS}/p", {"spec": {"nodeName": "n"}}).status == 200
    answer = api.patch(f"{PODS}/p", {"spec": {"hostname": "h"}})
    assert answer.status == 422
    assert "pod updates may not change fields" in answer.json["message"]


def test_secrets_take_plain_text_and_give_base64(api: Running) -> None:
    path = "/api/v1/namespaces/default/secrets"
    created = api.post(path, {"metadata": {"name": "s"}, "stringData": {"k": "v"}}).json
    assert (created["data"], created["type"], "stringData" in created) == ({"k": "dg=="}, "Opaque", False)
    assert api.post(path, {"metadata": {"name": "t"}, "data": {"k": "%"}}).status == 422


def test_services_get_an_address_unless_headless(api: Running) -> None:
    path = "/api/v1/namespaces/default/services"
    plain = api.post(path, {"metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}}).json
    assert plain["spec"]["clusterIP"].startswith("10.96.")
    assert plain["spec"]["ports"] == [{"port": 80, "protocol": "TCP", "targetPort": 80}]
    headless = api.post(path, {"metadata": {"name": "b"}, "spec": {"clusterIP": "None", "selector": {"a": "b"}}}).json
    assert headless["spec"]["clusterIPs"] == ["None"]
    assert api.post(path, {"metadata": {"name": "1"}, "spec": {"ports": [{"port": 80}]}}).status == 422


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"scope": "Galaxy"}, "spec.scope"),
        ({"group": "other.dev"}, "metadata.name"),
        ({"versions": []}, "spec.versions"),
    ],
)
def test_a_definition_that_cannot_be_served_is_refused(api: Running, change: dict[str, Any], field: str) -> None:
    body = sample_definition()
    body["spec"] |= change
    answer = api.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", body)
    assert answer.status == 422
    assert field in [cause["field"] for cause in answer.json["details"]["causes"]]


@pytest.mark.parametrize(
    ("schema", "field"),
    [
        ({"properties": {}}, "openAPIV3Schema.type"),
        ({"type": "object", "properties": {"a": {"$ref": "#/x", "type": "string"}}}, "properties[a].$ref"),
        ({"type": "object", "x-kubernetes-validations": [{"rule": "self.a ==="}]}, "x-kubernetes-validations[0].rule"),
        ({"type": "object", "x-kubernetes-validations": [{"rule": "true", "optionalOldSelf": True}]},
         "x-kubernetes-validations[0].optionalOldSelf"),
    ],
)  # fmt: skip
def test_a_schema_that_cannot_be_kept_to_is_refused(api: Running, schema: dict[str, Any], field: str) -> None:
    body = sample_definition()
    body["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = schema
    answer = api.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", body)
    assert answer.status == 422, answer.text
    assert any(cause["field"].endswith(field) for cause in answer.json["details"]["causes"]), answer.text
