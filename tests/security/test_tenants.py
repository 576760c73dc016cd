"""One tenant's namespace gives no way into another's: what is made there counts there alone."""

import copy
from typing import Any

import pytest

from finetune_api import names
from finetune_local.operator_process import free_port
from finetune_operator.cache import Cache
from finetune_operator.observed import JobState, PodState
from tests import builders as b
from tests.reconcile.plane import RUNS, Plane, asynchronous, plane, until

CORE = "/api/v1/namespaces"


async def forged(p: Plane, kind: str, like: dict[str, Any], **meta: Any) -> dict[str, Any]:
    """A copy of another tenant's Job or pod, in a namespace of one's own."""
    copied = copy.deepcopy(like)
    kept = {key: copied["metadata"][key] for key in ("name", "labels", "annotations") if key in copied["metadata"]}
    copied["metadata"] = kept | {"namespace": "team-b"} | meta
    if kind == "jobs":
        copied["spec"] |= {"suspend": True}
        for generated in ("selector", "manualSelector"):
            copied["spec"].pop(generated, None)
        copied["spec"]["template"]["metadata"]["labels"] = dict(kept["labels"])
        return await p.client.create("/apis/batch/v1/namespaces/team-b/jobs", copied)
    copied["spec"].pop("nodeName", None)
    return await p.client.create(f"{CORE}/team-b/pods", copied)


@asynchronous
async def test_pods_and_jobs_with_another_tenant_s_labels_change_nothing_for_that_tenant(tmp_path):
    port = free_port()
    url = {"reports_url": f"https://127.0.0.1:{port}/v1/reports", "reports_port": port, "progress_interval": 0.0}
    async with plane(tmp_path) as p, p.operator(**url) as operator:
        p.script["support-bot"] = [RUNS]
        await p.client.create(CORE, {"metadata": {"name": "team-b"}})
        await p.apply()
        before = await p.phase("Running")
        (job,), (pod,) = p.jobs(), p.pods()
        owner = [{**job["metadata"]["ownerReferences"][0], "controller": True}]
        await forged(p, "jobs", job, ownerReferences=owner)
        false = await forged(p, "pods", pod, name=f"z{pod['metadata']['name']}")
        await p.play(false, b.ended_pod(11, b.error("DataInvalid", "Injected.")))
        await until(lambda: operator.world.pods.get(false["metadata"]["uid"]), "the operator has seen the pod")
        assert (await p.report(port, await p.token(false), b.report(99, 1)))[0] == 403
        await p.client.patch(
            f"/apis/{names.API_VERSION}/namespaces/{b.NAMESPACE}/{names.PLURAL}/support-bot",
            {"metadata": {"labels": {"look": "again"}}},
        )
        await until(lambda: p.finetunejob()["metadata"].get("labels"), "it was touched")
        await until(operator.queue.idle, "the operator is idle")
        assert p.status() == before


@pytest.mark.parametrize("state", [JobState, PodState])
def test_a_child_counts_in_its_own_namespace_and_under_its_present_label(state):
    cache: Cache[Any] = Cache()
    raw = b.pod() if state is PodState else b.job()
    cache.put(state.of(raw))
    assert len(cache.of(b.UID, b.NAMESPACE)) == 1
    assert cache.of(b.UID, "team-b") == []
    raw["metadata"]["labels"][names.LABEL_JOB_UID] = "another"
    cache.put(state.of(raw))
    assert cache.of(b.UID, b.NAMESPACE) == []
    assert len(cache.of("another", b.NAMESPACE)) == len(cache) == 1
