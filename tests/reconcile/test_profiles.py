"""FineTuneProfiles against an API server: which one a job gets, what it keeps of it, and how they come and go."""

import asyncio
import json

import pytest

from finetune_api import crd, names
from finetune_local.apiserver import ApiError
from finetune_operator import policy, reflector
from tests import builders as b
from tests.reconcile.plane import OPERATOR, RUNS, SUCCEEDS, Plane, add_crd, asynchronous, plane, until

PROFILES = f"/apis/{names.API_VERSION}/{names.PROFILE_PLURAL}"
A100 = {"name": "a100", "nodeSelector": {"gpu": "a100"}, "pricePerHour": 36.0}


async def create(p: Plane, name: str, **spec: object) -> dict:
    manifest = {"apiVersion": names.API_VERSION, "kind": names.PROFILE_KIND, "metadata": {"name": name}, "spec": spec}
    return await p.client.create(PROFILES, manifest)


def image(p: Plane, name: str) -> str:
    (job,) = [job for job in p.jobs() if job["metadata"]["name"].startswith(f"{name}-")]
    return job["spec"]["template"]["spec"]["containers"][0]["image"]


@asynchronous
async def test_a_job_gets_the_profile_it_names_or_the_default_one_and_its_record_keeps_which(tmp_path):
    async with plane(tmp_path) as p:
        p.script |= {"plain": [RUNS], "named": [SUCCEEDS], "usual": [SUCCEEDS]}
        async with p.operator() as operator:
            await p.apply(name="plain")
            assert "profile" not in (await p.phase("Running", "plain"))["attempts"][0]
            fast = await create(p, "fast", trainer={"image": "r/fast:1"}, gpus=[A100])
            usual = await create(p, "default", trainer={"image": "r/usual:1"})
            await until(lambda: len(operator.profiles) == 2, "the operator has seen both")
            await p.apply(name="named", profile="fast")
            await p.apply(name="usual")
            attempt = (await p.phase("Succeeded", "named"))["attempts"][0]
            digest = policy.digest(fast)
            price = {"gpuType": "a100", "pricePerHour": 36.0, "currency": "USD"}
            assert attempt["profile"] == {"name": "fast", "digest": digest} | price
            attempt = (await p.phase("Succeeded", "usual"))["attempts"][0]
            assert attempt["profile"] == {"name": "default", "digest": policy.digest(usual)}
        assert (image(p, "named"), image(p, "usual")) == ("r/fast:1", "r/usual:1")


@asynchronous
async def test_a_change_of_a_profile_changes_no_running_job_and_counts_for_the_next(tmp_path):
    async with plane(tmp_path) as p:
        p.script |= {"first": [RUNS], "second": [RUNS]}
        before = await create(p, "default", trainer={"image": "r/one"}, limits={"gpus": 1})
        async with p.operator() as operator:
            await p.apply(name="first")
            await p.phase("Running", "first")
            (job,) = p.jobs()
            changed = await p.client.patch(f"{PROFILES}/default", {"spec": {"trainer": {"image": "r/two"}}})
            digests = policy.digest(before), policy.digest(changed)
            await until(lambda: operator.profiles.named("default")["spec"]["trainer"]["image"] == "r/two", "it is seen")
            await p.apply(name="second")
            attempt = (await p.phase("Running", "second"))["attempts"][0]
            assert attempt["profile"]["digest"] == digests[1] != digests[0]
            pods = [pod for pod in p.pods() if pod["metadata"]["annotations"][names.ANNOTATION_JOB] == "first"]
            await p.play(pods[0], SUCCEEDS[-1])
            attempt = (await p.phase("Succeeded", "first"))["attempts"][0]
            assert attempt["profile"] == {"name": "default", "digest": digests[0]}
            (same,) = [one for one in p.jobs() if one["metadata"]["uid"] == job["metadata"]["uid"]]
            assert same["spec"] == job["spec"]


@asynchronous
async def test_refusals_are_asked_of_the_api_server_first_and_told_with_an_event(tmp_path):
    async with plane(tmp_path) as p, p.operator():
        await p.apply(name="lost", profile="nowhere")
        status = await p.phase("Failed", "lost")
        assert "spec.profile: found nowhere" in status["message"]
        await until(lambda: p.events("lost") == ["ProfileNotFound"], "the Event")
        asked = [(call.verb, call.name) for call in p.calls() if call.resource == names.PROFILE_PLURAL and call.name]
        assert asked == [("get", "nowhere")]
        await create(p, "strict", allowed={"s3Prefixes": ["s3://elsewhere/"]})
        await p.apply(name="greedy", profile="strict")
        status = await p.phase("Failed", "greedy")
        assert (
            "spec.data.train[0].uri: found s3://team-a/train.jsonl; allowed: S3 prefixes s3://elsewhere/"
            in (status["message"])
        )
        conditions = {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}
        assert conditions["Validated"] == ("False", "NotAllowed")
        assert p.jobs() == []


@asynchronous
async def test_a_profile_that_the_cache_does_not_hold_yet_is_found(tmp_path):
    async with plane(tmp_path) as p:
        p.script["support-bot"] = [SUCCEEDS]
        async with p.operator() as operator:
            await until(lambda: operator.health.ready, "the operator is ready")
            operator.world._profile = lambda name: None  # a cache that lags for ever
            await create(p, "late", trainer={"image": "r/late"})
            await p.apply(profile="late")
            await p.phase("Succeeded")
        assert image(p, "support-bot") == "r/late"


@asynchronous
async def test_without_their_definition_jobs_run_and_once_it_is_there_profiles_count(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(reflector, "LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(reflector, "FIRST_PAUSE", 0.05)
    async with plane(tmp_path, with_crd=False) as p:
        await add_crd(p.client, crd.definition())
        p.script |= {"before": [SUCCEEDS], "after": [SUCCEEDS], "gone": [SUCCEEDS]}
        async with p.operator() as operator:
            await p.apply(name="before")
            await p.phase("Succeeded", "before")
            await p.apply(name="named", profile="fast")
            await p.phase("Failed", "named")
            assert "run without profiles" in operator.health.notes["profiles"]
            assert operator.health.ready
            await add_crd(p.client, crd.profile_definition())
            await create(p, "default", trainer={"image": "r/usual"})
            await until(lambda: len(operator.profiles) == 1, "the profile is seen")
            assert operator.health.notes == {}
            await p.apply(name="after")
            await p.phase("Succeeded", "after")
            await p.client.delete(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{names.PROFILE_CRD_NAME}")
            await until(lambda: operator.health.notes, "the operator has seen that the definition is gone")
            await p.apply(name="gone")
            await p.phase("Succeeded", "gone")
        assert image(p, "after") == "r/usual"
        assert image(p, "gone") == image(p, "before") != "r/usual"
    told = [record for record in caplog.records if "is not installed" in record.getMessage()]
    assert len(told) == 2, "once each time that it is found absent"


@asynchronous
async def test_no_job_begins_before_the_profiles_are_known(tmp_path):
    """A cache that could not be filled must not pass for one without a default profile."""
    async with plane(tmp_path) as p:
        await create(p, "default", limits={"gpus": 0})
        refuse = asyncio.Event()

        async def forbid(call, when):
            if call.user == OPERATOR and call.resource == names.PROFILE_PLURAL and not refuse.is_set():
                raise ApiError(403, "Forbidden", "not yours")

        p.server.interceptor = forbid
        async with p.operator() as operator:
            await p.apply()
            await until(lambda: any(c.resource == names.PROFILE_PLURAL for c in p.calls()), "it has asked")
            await until(lambda: "not yours" in str(operator.health.waiting), "probes say what it waits for")
            assert p.jobs() == []
            refuse.set()
            assert "allowed: at most 0" in (await p.phase("Failed"))["message"]


@asynchronous
async def test_an_operator_of_few_namespaces_reads_the_profiles_of_the_cluster(tmp_path):
    async with plane(tmp_path) as p:
        await create(p, "default", trainer={"image": "r/usual"})
        p.script["support-bot"] = [SUCCEEDS]
        async with p.operator(watch_namespaces=(b.NAMESPACE,)):
            await p.apply()
            await p.phase("Succeeded")
        assert image(p, "support-bot") == "r/usual"


@pytest.mark.parametrize("left", ["", "no JSON", '{"name": 1}'])
@asynchronous
async def test_a_program_of_a_team_s_own_may_end_without_our_result(tmp_path, left):
    async with plane(tmp_path) as p:
        await create(p, "default", allowed={"images": ["registry.example/team-a/"]})
        p.script["support-bot"] = [[b.running_pod(), b.ended_pod(0, left)]]
        async with p.operator():
            await p.apply(trainer={"image": "registry.example/team-a/own:1", "command": ["python", "train.py"]})
            status = await p.phase("Succeeded")
        assert status["message"] == "The program of image registry.example/team-a/own:1 ended well."
        (job,) = p.jobs()
        (container,) = job["spec"]["template"]["spec"]["containers"]
        assert container["command"] == ["python", "train.py"]
        json.loads(job["spec"]["template"]["metadata"]["annotations"][names.ANNOTATION_RUN])
