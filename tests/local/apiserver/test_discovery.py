"""What clients ask first: versions, groups, resources, OpenAPI."""

from __future__ import annotations

import json

import pytest

from finetune_local.apiserver.discovery import AGGREGATED
from tests.local.apiserver.apiclient import Running


def test_aggregated_discovery_tells_every_group_with_its_resources(jobs_api: Running) -> None:
    answer = jobs_api.get("/apis", accept=f"{AGGREGATED},application/json")
    assert answer.headers["Content-Type"] == AGGREGATED
    groups = {group["metadata"]["name"]: group for group in answer.json["items"]}
    (version,) = groups["finetune.dev"]["versions"]
    (resource,) = version["resources"]
    assert (resource["resource"], resource["shortNames"], resource["categories"]) == ("samplejobs", ["sj"], ["all"])
    assert resource["subresources"][0]["subresource"] == "status"
    (core,) = jobs_api.get("/api", accept=AGGREGATED).json["items"]
    assert {"pods", "namespaces"} <= {one["resource"] for one in core["versions"][0]["resources"]}


def test_plain_discovery_tells_the_same(jobs_api: Running) -> None:
    protobuf_first = "application/vnd.kubernetes.protobuf,application/json"
    assert jobs_api.get("/api", accept=protobuf_first).json["versions"] == ["v1"]
    names = [group["name"] for group in jobs_api.get("/apis").json["groups"]]
    assert {"batch", "finetune.dev", "rbac.authorization.k8s.io"} <= set(names)
    assert jobs_api.get("/apis/finetune.dev").json["preferredVersion"]["version"] == "v1alpha1"
    listed = jobs_api.get("/apis/finetune.dev/v1alpha1").json
    assert [one["name"] for one in listed["resources"]] == ["samplejobs", "samplejobs/status"]
    assert {"pods/log", "serviceaccounts/token"} <= {one["name"] for one in jobs_api.get("/api/v1").json["resources"]}
    assert jobs_api.get("/apis/nothing.dev/v1").status == 404


def test_the_openapi_index_names_documents_by_their_content(jobs_api: Running) -> None:
    path = "apis/finetune.dev/v1alpha1"
    before = jobs_api.get("/openapi/v3").json["paths"][path]["serverRelativeURL"]
    definition = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/samplejobs.finetune.dev"
    change = [{"op": "add", "path": "/spec/versions/0/schema/openAPIV3Schema/description", "value": "new"}]
    jobs_api.patch(definition, change, "application/json-patch+json")
    after = jobs_api.get("/openapi/v3").json["paths"][path]["serverRelativeURL"]
    assert before != after
    document = jobs_api.get(after).json
    schema = document["components"]["schemas"]["dev.finetune.v1alpha1.SampleJob"]
    assert schema["description"] == "new"
    assert schema["x-kubernetes-group-version-kind"] == [
        {"group": "finetune.dev", "kind": "SampleJob", "version": "v1alpha1"}
    ]
    patch = document["paths"]["/apis/finetune.dev/v1alpha1/namespaces/{namespace}/samplejobs/{name}"]["patch"]
    assert "fieldValidation" in [parameter["name"] for parameter in patch["parameters"]]
    assert "application/strategic-merge-patch+json" not in patch["requestBody"]["content"]


def test_built_in_documents_say_how_lists_merge(api: Running) -> None:
    document = api.get("/openapi/v3/apis/batch/v1").json
    schemas = document["components"]["schemas"]
    containers = schemas["io.k8s.api.V1PodSpec"]["properties"]["containers"]
    assert containers["x-kubernetes-patch-merge-key"] == "name"
    patch = document["paths"]["/apis/batch/v1/namespaces/{namespace}/jobs/{name}"]["patch"]
    assert "application/strategic-merge-patch+json" in patch["requestBody"]["content"]


@pytest.mark.parametrize("group", ["api/v1", "apis/apps/v1", "apis/rbac.authorization.k8s.io/v1", "apis/policy/v1"])
def test_every_reference_in_a_document_leads_somewhere(api: Running, group: str) -> None:
    text = api.get(f"/openapi/v3/{group}").text
    components = json.loads(text)["components"]["schemas"]
    references = {part.partition('"')[0] for part in text.split('"$ref":"#/components/schemas/')[1:]}
    assert references <= components.keys()


def test_openapi_v2_is_there_and_empty(api: Running) -> None:
    assert api.get("/openapi/v2").json["definitions"] == {}
    answer = api.get("/openapi/v2", accept="application/com.github.proto-openapi.spec.v2@v1.0+protobuf")
    assert answer.text.startswith("\n\x032.0")


def test_the_recorded_protobuf_review_is_understood() -> None:
    from finetune_local.apiserver.protobuf import decode

    body = (
        b"k8s\x00\n2\n\x17authorization.k8s.io/v1\x12\x17SelfSubjectAccessReview\x12Q\n\x10\n\x00\x12\x00\x1a\x00"
        b'"\x00*\x002\x008\x00B\x00\x123\n1\n\x07default\x12\x06create\x1a\x0cfinetune.dev"\x00*\nsamplejobs2\x00:\x00'
        b'\x1a\x08\x08\x00\x12\x00\x1a\x00 \x00\x1a\x00"\x00'
    )
    attributes = {"namespace": "default", "verb": "create", "group": "finetune.dev", "resource": "samplejobs"}
    assert decode(body) == {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }


@pytest.mark.parametrize(
    "body", [b"", b"k8s\x00", b"k8s\x00\xff\xff", b"{}", b"k8s\x00\n\x10\n\x02v1\x12\x0aDeployment"]
)
def test_other_protobuf_is_a_bad_request(api: Running, body: bytes) -> None:
    answer = api.post("/api/v1/namespaces", body, content_type="application/vnd.kubernetes.protobuf")
    assert (answer.status, answer.json["reason"]) == (400, "BadRequest")
