"""The garbage collector: owners and dependents, namespaces."""

from __future__ import annotations

import pytest

from tests.local.apiserver.apiclient import JOBS, Running
from tests.local.apiserver.samples import batch_job, config_map, owner, pod, sample_job

MAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"
BATCH = "/apis/batch/v1/namespaces/default/jobs"


def test_dependents_go_with_their_owner_through_every_generation(jobs_api: Running) -> None:
    api = jobs_api
    top = api.post(JOBS, sample_job()).json
    job = batch_job()
    job["metadata"]["ownerReferences"] = [owner(top, controller=True, blockOwnerDeletion=True)]
    middle = api.post(BATCH, job).json
    api.post(PODS, pod(ownerReferences=[owner(middle)]))
    api.post(PODS, pod("other"))
    api.delete(f"{JOBS}/one")
    api.until(lambda: api.get(PODS).items == ["other"])
    assert api.get(BATCH).items == []


@pytest.mark.parametrize("wrong", ["uid", "name", "kind"])
def test_an_object_whose_owner_never_was_is_collected(api: Running, wrong: str) -> None:
    reference = owner(api.post(MAPS, config_map("owner")).json)
    reference[wrong] = "another"
    assert api.post(MAPS, config_map("child", ownerReferences=[reference])).status == 201
    api.until(lambda: api.get(MAPS).items == ["owner"])


def test_an_object_with_one_owner_left_stays_and_loses_the_other(api: Running) -> None:
    references = [owner(api.post(MAPS, config_map(name)).json) for name in ("a", "b")]
    api.post(MAPS, config_map("child", ownerReferences=references))
    api.delete(f"{MAPS}/a")
    child = api.until(
        lambda: (found := api.get(f"{MAPS}/child").json) and len(found["metadata"]["ownerReferences"]) == 1 and found
    )
    assert child["metadata"]["ownerReferences"][0]["name"] == "b"


def test_a_foreground_deletion_waits_for_dependents_that_block_it(api: Running) -> None:
    first = api.post(MAPS, config_map("owner")).json
    held = {"ownerReferences": [owner(first, blockOwnerDeletion=True)], "finalizers": ["example.com/hold"]}
    api.post(MAPS, config_map("child", **held))
    api.delete(f"{MAPS}/owner", {"propagationPolicy": "Foreground"})
    api.until(lambda: "deletionTimestamp" in api.get(f"{MAPS}/child").json["metadata"])
    assert api.get(f"{MAPS}/owner").json["metadata"]["finalizers"] == ["foregroundDeletion"]
    api.patch(f"{MAPS}/child", {"metadata": {"finalizers": None}})
    api.until(lambda: api.get(MAPS).items == [])


@pytest.mark.parametrize("options", [None, {"propagationPolicy": "Orphan"}])
def test_a_deleted_job_leaves_its_pods_unless_told_otherwise(api: Running, options: dict[str, str] | None) -> None:
    job = api.post(BATCH, batch_job()).json
    api.post(PODS, pod(ownerReferences=[owner(job)]))
    answer = api.delete(f"{BATCH}/child", options)
    assert ("child pods are preserved by default" in answer.headers.get("Warning", "")) is (options is None)
    api.until(lambda: api.get(BATCH).items == [])
    assert "ownerReferences" not in api.get(f"{PODS}/p").json["metadata"]


def test_a_namespace_takes_its_contents_along_and_takes_nothing_new(api: Running) -> None:
    api.post("/api/v1/namespaces", {"metadata": {"name": "team"}})
    maps = MAPS.replace("default", "team")
    assert api.get("/api/v1/namespaces/team/serviceaccounts").items == ["default"]
    api.post(maps, config_map(finalizers=["example.com/hold"]))
    assert api.delete("/api/v1/namespaces/team").json["status"]["phase"] == "Terminating"
    refused = api.post(maps, config_map("late"))
    assert refused.status == 403
    assert refused.json["details"]["causes"][0]["reason"] == "NamespaceTerminating"
    api.until(lambda: api.get("/api/v1/namespaces/team/serviceaccounts").items == [])
    assert api.get("/api/v1/namespaces/team").status == 200
    api.patch(f"{maps}/c", {"metadata": {"finalizers": None}})
    api.until(lambda: api.get("/api/v1/namespaces/team").status == 404)


def test_a_pod_on_a_node_is_given_its_grace_period(api: Running) -> None:
    api.post(PODS, pod())
    api.patch(f"{PODS}/p", {"spec": {"nodeName": "node1"}})
    deleted = api.delete(f"{PODS}/p", {"gracePeriodSeconds": 5}).json
    assert deleted["metadata"]["deletionGracePeriodSeconds"] == 5
    assert deleted["metadata"]["generation"] == 3
    assert api.get(f"{PODS}/p").status == 200
    assert api.delete(f"{PODS}/p", {"gracePeriodSeconds": 0}).status == 200
    assert api.get(f"{PODS}/p").status == 404


def test_a_pod_that_is_on_no_node_or_has_ended_goes_at_once(api: Running) -> None:
    api.post(PODS, pod("waiting"))
    api.post(PODS, pod("ended"))
    api.patch(f"{PODS}/ended", {"spec": {"nodeName": "node1"}})
    api.patch(f"{PODS}/ended/status", {"status": {"phase": "Failed"}})
    for name in ("waiting", "ended"):
        api.delete(f"{PODS}/{name}")
    assert api.get(PODS).items == []


def test_an_evicted_pod_is_marked_as_disrupted(api: Running) -> None:
    api.post(PODS, pod())
    api.patch(f"{PODS}/p", {"spec": {"nodeName": "node1"}})
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}}
    assert api.post(f"{PODS}/p/eviction", eviction).status == 201
    left = api.get(f"{PODS}/p").json
    (condition,) = left["status"]["conditions"]
    assert (condition["type"], condition["reason"]) == ("DisruptionTarget", "EvictionByEvictionAPI")
    assert "deletionTimestamp" in left["metadata"]
