"""ResourceQuotas: what is refused and in which words, what counts as used, and what the status says of it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.local.apiserver.apiclient import APPLY, JOBS, Running
from tests.local.apiserver.samples import batch_job, config_map, pod, sample_job

CORE = "/api/v1/namespaces/default"
PODS, QUOTAS, BATCH = f"{CORE}/pods", f"{CORE}/resourcequotas", "/apis/batch/v1/namespaces/default/jobs"
GPU = "nvidia.com/gpu"


def quota(api: Running, name: str = "q", **hard: Any) -> None:
    """Creates one; `_` stands for what an argument's name cannot have."""
    spelled = {key.replace("gpu", GPU).replace("__", "/").replace("_", "."): limit for key, limit in hard.items()}
    answer = api.post(QUOTAS, {"metadata": {"name": name}, "spec": {"hard": spelled}})
    assert answer.status == 201, answer.text


def asking(name: str = "p", requests: dict[str, Any] | None = None, **limits: Any) -> dict[str, Any]:
    """A pod with limits, and requests where they are to differ from these."""
    body = pod(name)
    named = {GPU if key == "gpu" else key: limit for key, limit in limits.items()}
    body["spec"]["containers"][0]["resources"] = {"limits": named} | ({"requests": requests} if requests else {})
    return body


def becomes_used(api: Running, **wanted: str) -> None:
    """Waits until the status says that this is used, and nothing else."""
    api.until(lambda: api.get(f"{QUOTAS}/q").json.get("status", {}).get("used") == wanted)


@pytest.mark.parametrize(
    ("hard", "body", "figures"),
    [
        ({"pods": 0}, pod(), "requested: pods=1, used: pods=0, limited: pods=0"),
        ({"count__pods": "0"}, pod(), "requested: count/pods=1, used: count/pods=0, limited: count/pods=0"),
        ({"requests_gpu": 0}, asking(gpu=1),
         "requested: requests.nvidia.com/gpu=1, used: requests.nvidia.com/gpu=0, limited: requests.nvidia.com/gpu=0"),
        ({"requests_gpu": "4"}, asking(gpu="8"),
         "requested: requests.nvidia.com/gpu=8, used: requests.nvidia.com/gpu=0, limited: requests.nvidia.com/gpu=4"),
        ({"cpu": "1500m"}, asking(cpu=2), "requested: cpu=2, used: cpu=0, limited: cpu=1500m"),
        ({"requests_cpu": "500m"}, asking(requests={"cpu": "0.6"}, cpu=2),
         "requested: requests.cpu=600m, used: requests.cpu=0, limited: requests.cpu=500m"),
        ({"limits_memory": "8Gi"}, asking(memory="16384Mi"),
         "requested: limits.memory=16Gi, used: limits.memory=0, limited: limits.memory=8Gi"),
        ({"requests_memory": "8Gi", "requests_cpu": 1, "pods": 9}, asking(cpu=2, memory="9Gi"),
         "requested: requests.cpu=2,requests.memory=9Gi, used: requests.cpu=0,requests.memory=0, "
         "limited: requests.cpu=1,requests.memory=8Gi"),
    ],
)  # fmt: skip
def test_a_pod_that_a_quota_has_no_room_for_is_refused_with_its_figures(
    api: Running, hard: dict[str, Any], body: dict[str, Any], figures: str
) -> None:
    quota(api, **hard)
    answer = api.post(PODS, body)
    assert answer.status == 403
    assert answer.json["message"] == f'pods "p" is forbidden: exceeded quota: q, {figures}'
    assert (answer.json["reason"], answer.json["details"]) == ("Forbidden", {"name": "p", "kind": "pods"})
    assert api.get(PODS).items == []


def test_the_words_are_those_of_a_real_cluster(api: Running) -> None:
    """As recorded of the Job controller, whose pods get their names from the server."""
    quota(api, pods=0)
    body = pod(generateName="succeeded-0-")
    del body["metadata"]["name"]
    message = api.post(PODS, body).json["message"]
    name = message.split('"')[1]
    assert name.startswith("succeeded-0-")
    assert message.replace(name, "succeeded-0-zc4zq") == (
        'pods "succeeded-0-zc4zq" is forbidden: exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0'
    )


@pytest.mark.parametrize(
    ("hard", "missing"),
    [
        ({"requests_cpu": 4}, "requests.cpu for: main"),
        ({"limits_cpu": 4, "limits_memory": "8Gi"}, "limits.cpu for: main; limits.memory for: main"),
    ],
)
def test_a_pod_that_does_not_say_what_is_limited_is_refused(api: Running, hard: dict[str, Any], missing: str) -> None:
    quota(api, **hard)
    answer = api.post(PODS, pod())
    assert (answer.status, answer.json["message"]) == (
        403, f'pods "p" is forbidden: failed quota: q: must specify {missing}'
    )  # fmt: skip


def test_what_asks_for_nothing_that_is_limited_is_let_in(api: Running) -> None:
    quota(api, requests_gpu=0, count__jobs_batch=0)
    assert api.post(PODS, asking(gpu=0)).status == 201
    assert api.post(f"{CORE}/configmaps", config_map()).status == 201


@pytest.mark.parametrize(
    ("name", "path", "body", "told"),
    [
        ("count__jobs_batch", BATCH, batch_job(), 'jobs.batch "child"'),
        ("configmaps", f"{CORE}/configmaps", config_map(), 'configmaps "c"'),
        ("count__configmaps", f"{CORE}/configmaps", config_map(), 'configmaps "c"'),
        ("count__samplejobs_finetune_dev", JOBS, sample_job(), 'samplejobs.finetune.dev "one"'),
    ],
)
def test_objects_of_any_kind_can_be_limited_in_number(
    jobs_api: Running, name: str, path: str, body: dict[str, Any], told: str
) -> None:
    quota(jobs_api, **{name: 1})
    assert jobs_api.post(path, body).status == 201
    body["metadata"]["name"] += "-too"
    answer = jobs_api.post(path, body)
    assert answer.status == 403
    assert answer.json["message"].startswith(f'{told[:-1]}-too" is forbidden: exceeded quota: q, requested: ')
    assert "=1, limited: " in answer.json["message"]


@pytest.mark.parametrize("how", ["post", "dry run", "apply"])
def test_no_way_to_create_leads_around_a_quota(api: Running, how: str) -> None:
    quota(api, pods=0)
    if how == "apply":
        answer = api.call("PATCH", f"{PODS}/p?fieldManager=m", pod(), APPLY)
    else:
        answer = api.post(f"{PODS}?dryRun=All" if how == "dry run" else PODS, pod())
    assert (answer.status, "exceeded quota: q" in answer.text) == (403, True)


def test_a_quota_counts_in_its_own_namespace(api: Running) -> None:
    quota(api, pods=0)
    assert api.post("/api/v1/namespaces", {"metadata": {"name": "team"}}).status == 201
    assert api.post("/api/v1/namespaces/team/pods", pod()).status == 201


def test_every_quota_of_a_namespace_counts(api: Running) -> None:
    quota(api, "wide", pods=9)
    quota(api, "narrow", requests_gpu=1)
    assert "exceeded quota: narrow" in api.post(PODS, asking(gpu=2)).json["message"]
    assert api.post(PODS, asking(gpu=1)).status == 201
    api.until(lambda: api.get(f"{QUOTAS}/wide").json["status"]["used"] == {"pods": "1"})


@pytest.mark.parametrize("end", ["succeeds", "fails", "is deleted"])
def test_what_a_pod_used_is_free_once_it_has_ended(api: Running, end: str) -> None:
    quota(api, requests_gpu=1, count__pods=9)
    assert api.post(PODS, asking(gpu=1)).status == 201
    becomes_used(api, **{f"requests.{GPU}": "1", "count/pods": "1"})
    assert f"used: requests.{GPU}=1" in api.post(PODS, asking("second", gpu=1)).json["message"]
    if end == "is deleted":
        api.delete(f"{PODS}/p")
    else:
        api.patch(f"{PODS}/p/status", {"status": {"phase": "Succeeded" if end == "succeeds" else "Failed"}})
    left = "0" if end == "is deleted" else "1"
    becomes_used(api, **{f"requests.{GPU}": "0", "count/pods": left})
    assert api.post(PODS, asking("second", gpu=1)).status == 201


def test_a_pod_that_is_being_deleted_holds_its_quota_for_its_grace_and_no_longer(api: Running) -> None:
    quota(api, pods=1)
    for name, seconds in (("p", 600), ("q", 0)):
        body = pod(name, finalizers=["example.com/held"])
        assert api.post(PODS, body).status == 201
        api.patch(f"{PODS}/{name}", {"spec": {"nodeName": "n"}})
        api.call("DELETE", f"{PODS}/{name}", {"gracePeriodSeconds": seconds})
        if seconds:
            assert api.post(PODS, pod("more")).status == 403
            api.call("DELETE", f"{PODS}/{name}", {"gracePeriodSeconds": 0})
    assert api.get(PODS).items == ["p", "q"]


def test_a_quota_that_is_raised_lowered_or_deleted_counts_at_once(api: Running) -> None:
    quota(api, pods=0)
    api.patch(f"{QUOTAS}/q", {"spec": {"hard": {"pods": "1"}}})
    assert api.post(PODS, pod("a")).status == 201
    api.patch(f"{QUOTAS}/q", {"spec": {"hard": {"pods": "0"}}})
    becomes_used(api, pods="1")
    assert api.get(f"{QUOTAS}/q").json["status"]["hard"] == {"pods": "0"}
    assert "used: pods=1, limited: pods=0" in api.post(PODS, pod("b")).json["message"]
    api.delete(f"{QUOTAS}/q")
    assert api.post(PODS, pod("b")).status == 201


def test_what_is_there_already_counts_as_used(api: Running) -> None:
    api.post(PODS, asking(cpu="1500m", gpu=2))
    api.post(PODS, asking("second", cpu="500m"))
    quota(api, requests_gpu=8, requests_cpu=4, limits_cpu=4, pods=4)
    becomes_used(api, **{f"requests.{GPU}": "2", "requests.cpu": "2", "limits.cpu": "2", "pods": "2"})


def test_a_pod_uses_what_its_containers_ask_for_together_or_one_before_them_alone(api: Running) -> None:
    body = asking(cpu=1, memory="1Gi")
    other = {"name": "other", "image": "i", "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}}}
    first = {"name": "first", "image": "i", "resources": {"limits": {"cpu": "100m", "memory": "8Gi"}}}
    body["spec"] |= {"containers": [*body["spec"]["containers"], other], "initContainers": [first]}
    assert api.post(PODS, body).status == 201
    quota(api, requests_cpu=4, requests_memory="16Gi")
    becomes_used(api, **{"requests.cpu": "1500m", "requests.memory": "8Gi"})


@pytest.mark.parametrize(
    ("spec", "field", "told"),
    [
        ({"hard": {"pods": "-1"}}, "spec.hard[pods]", "must be greater than or equal to 0"),
        ({"hard": {"pods": "1500m"}}, "spec.hard[pods]", "must be an integer"),
        ({"hard": {"count/jobs.batch": "0.5"}}, "spec.hard[count/jobs.batch]", "must be an integer"),
        ({"hard": {GPU: 1}}, f"spec.hard[{GPU}]", "is not measured by this API server"),
        ({"hard": {"requests.storage": "1Gi"}}, "spec.hard[requests.storage]", "is not measured by this API server"),
        ({"hard": {"limits.nvidia.com/gpu": 1}}, "spec.hard[limits.nvidia.com/gpu]", "is not measured"),
        ({"hard": {"pods": 1}, "scopes": ["BestEffort"]}, "spec.scopes", "knows no scopes"),
    ],
)
def test_a_quota_that_would_not_be_kept_is_refused(api: Running, spec: dict[str, Any], field: str, told: str) -> None:
    answer = api.post(QUOTAS, {"metadata": {"name": "q"}, "spec": spec})
    assert answer.status == 422
    assert [(cause["field"], told in cause["message"]) for cause in answer.json["details"]["causes"]] == [(field, True)]


@pytest.mark.parametrize("path", [QUOTAS, PODS])
def test_what_is_no_quantity_is_a_bad_request(api: Running, path: str) -> None:
    body = asking(cpu="lots") if path == PODS else {"metadata": {"name": "q"}, "spec": {"hard": {"cpu": "lots"}}}
    answer = api.post(path, body)
    assert (answer.status, answer.json["reason"]) == (400, "BadRequest")
    assert "quantities must match the regular expression" in answer.json["message"]


def test_a_large_number_keeps_its_digits(api: Running) -> None:
    created = api.post(PODS, asking(memory=17179869185)).json
    assert created["spec"]["containers"][0]["resources"]["limits"]["memory"] == "17179869185"
