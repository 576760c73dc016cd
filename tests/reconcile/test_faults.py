"""Faults of the API server, of the network, of clocks and of people: what the operator makes of each.

``docs/faults.md`` is the whole list, with the tests elsewhere. Pauses are shortened by settings.
"""

import asyncio
import datetime as dt
import json

import pytest
from kubernetes.aio.config import incluster_config

from finetune_api import crd, names
from finetune_local.apiserver import ApiError
from finetune_operator import reflector, runtime, workqueue
from tests import builders as b
from tests.reconcile.plane import OPERATOR, RUNS, SUCCEEDS, Plane, add_crd, asynchronous, plane, until

FINETUNEJOBS, JOBS, PODS = (names.GROUP, names.PLURAL), ("batch", "jobs"), ("", "pods")
QUICK = {"lease_duration": 1.0, "lease_renew_deadline": 0.8, "lease_retry_period": 0.1}
PATH = f"/apis/{names.API_VERSION}/namespaces/{b.NAMESPACE}/{names.PLURAL}"
NAMESPACE_PATH = f"/api/v1/namespaces/{b.NAMESPACE}"


def is_create(call) -> bool:
    return call.user == OPERATOR and (call.verb, call.resource) == ("create", "jobs")


def a_hundredth(monkeypatch) -> None:
    """All pauses between tries are a hundredth of what they are."""
    for module, constant in (
        (reflector, "FIRST_PAUSE"),
        (reflector, "LONGEST_PAUSE"),
        (workqueue, "FIRST_BACKOFF"),
        (workqueue, "LONGEST_BACKOFF"),
        (runtime, "_PAUSE"),
    ):
        monkeypatch.setattr(module, constant, getattr(module, constant) / 100)


async def running(p: Plane, name: str = "support-bot", **sections) -> dict:
    """A job whose pod runs; the answer is the pod."""
    p.script[name] = [RUNS]
    created = await p.apply(name=name, **sections)
    await p.phase("Running", name)
    uid = created["metadata"]["uid"]
    return next(pod for pod in p.pods() if pod["metadata"]["labels"][names.LABEL_JOB_UID] == uid)


def assert_one_attempt(p: Plane) -> None:
    assert [attempt["reason"] for attempt in p.status()["attempts"]] == ["Succeeded"]
    assert (len(p.jobs()), len(p.pods())) == (1, 1)


# answers


@asynchronous
async def test_a_create_that_was_carried_out_and_timed_out_is_not_made_twice(tmp_path):
    async with plane(tmp_path) as p:
        late = []

        async def answer_too_late(call, when):
            if when == "after" and is_create(call) and not late:
                late.append(call)
                await asyncio.sleep(30)

        p.server.interceptor = answer_too_late
        p.script["support-bot"] = [SUCCEEDS]
        async with p.operator(request_timeout=1):
            await p.apply()
            await p.phase("Succeeded")
        assert len(late) == 1
        assert_one_attempt(p)


@pytest.mark.parametrize("code", [400, 413, 422])
@asynchronous
async def test_a_job_that_cannot_be_created_ends_with_the_api_servers_words(tmp_path, code):
    async with plane(tmp_path) as p:

        async def refuse(call, when):
            if when == "before" and is_create(call):
                raise ApiError(code, "Invalid", "spec.template: too odd")

        p.server.interceptor = refuse
        async with p.operator():
            await p.apply()
            assert "spec.template: too odd" in (await p.phase("Failed"))["message"]


@pytest.mark.parametrize(
    ("code", "reason"), [(409, "Conflict"), (429, "TooManyRequests"), (500, ""), (503, ""), (504, "")]
)
@asynchronous
async def test_a_create_that_could_not_be_made_just_now_is_made_later(tmp_path, code, reason):
    async with plane(tmp_path) as p:
        asked = []

        async def not_now(call, when):
            if when == "before" and is_create(call):
                asked.append(call)
                if len(asked) < 3:
                    raise ApiError(code, reason, "not now")

        p.server.interceptor = not_now
        p.script["support-bot"] = [SUCCEEDS]
        async with p.operator():
            await p.apply()
            await p.phase("Succeeded")
        assert len(asked) == 3
        assert_one_attempt(p)


@asynchronous
async def test_an_api_server_that_asks_to_be_left_alone_is_left_alone_for_as_long(tmp_path):
    async with plane(tmp_path) as p:
        asked = {"jobs": [], "pods": []}

        async def too_many(call, when):
            times = asked["jobs"] if is_create(call) else asked["pods"] if call.resource == "pods" else None
            if when == "before" and times is not None and call.user == OPERATOR:
                times.append(asyncio.get_running_loop().time())
                if len(times) == 1:
                    raise ApiError(429, "TooManyRequests", "the server is busy", retry_after=1)

        p.server.interceptor = too_many
        p.script["support-bot"] = [SUCCEEDS]
        async with p.operator():
            await p.apply()
            await p.phase("Succeeded")
        for times in asked.values():
            assert times[1] - times[0] >= 1
        assert_one_attempt(p)


@pytest.mark.parametrize("code", [500, 503])
@asynchronous
async def test_an_api_server_that_fails_for_two_minutes_stops_nothing(tmp_path, monkeypatch, code):
    """With all pauses, and the two minutes, at a hundredth."""
    a_hundredth(monkeypatch)
    async with plane(tmp_path) as p, p.operator(**QUICK) as operator:
        pod = await running(p)
        fails = True

        async def away(call, when):
            if fails and call.user == OPERATOR:
                raise ApiError(code, "", "etcd is away")

        p.server.interceptor = away
        p.server.end_watches()
        await p.play(pod, b.ended_pod(0, b.result()))
        await p.apply(name="meanwhile", suspend=True)
        await until(lambda: not operator.elector.leading, "it cannot renew its Lease")
        await asyncio.sleep(1.2)
        fails = False
        await p.phase("Succeeded")
        await p.phase("Suspended", "meanwhile")
        assert_one_attempt(p)


# watches


@asynchronous
async def test_watches_that_stay_open_and_bring_nothing_are_noticed(tmp_path):
    async with plane(tmp_path) as p, p.operator(watch_quiet=1):
        pod = await running(p)
        await running(p, "other")
        p.server.silence_watches(OPERATOR)
        await p.change("other", cancel=True)
        await p.play(pod, b.ended_pod(0, b.result()))
        await p.phase("Succeeded")
        await p.phase("Cancelled", "other")


@pytest.mark.parametrize("left", [1, 0])
@asynchronous
async def test_a_deletion_in_a_gap_that_no_watch_can_bridge_is_noticed(tmp_path, left):
    """Also where the list after it is empty, so that nothing arrives."""
    async with plane(tmp_path) as p, p.operator(watch_quiet=1) as operator:
        p.script["support-bot"] = [SUCCEEDS]
        await p.apply()
        await p.phase("Succeeded")
        await p.apply(name="stays", suspend=True)
        await p.phase("Suspended", "stays")
        p.server.silence_watches(OPERATOR)
        await p.delete()
        if not left:
            await p.delete("stays")
        p.server.compact()
        await until(lambda: len(operator.world.finetunejobs) == left, "it is forgotten")
        await until(lambda: not p.jobs() and len(operator.world.jobs) == 0, "its Job too")


LINES = [
    b'{"type": "ERROR", "object": {"kind": "Status", "code": 500, "message": "etcdserver: leader changed"}}\n',
    b'{"type": "MODIFIED", "obj\n',
    b"<html>502 Bad Gateway</html>\n",
]


@pytest.mark.parametrize("line", LINES, ids=["ERROR", "cut", "no JSON"])
@asynchronous
async def test_a_watch_that_brings_no_event_begins_anew(tmp_path, line):
    async with plane(tmp_path) as p, p.operator():
        pod = await running(p)
        for resource in (FINETUNEJOBS, JOBS, PODS):
            p.server.say(line, resource, OPERATOR)
        await p.play(pod, b.ended_pod(0, b.result()))
        await p.phase("Succeeded")
        await p.apply(name="next", suspend=True)
        await p.phase("Suspended", "next")
        assert_one_attempt(p)


@pytest.mark.parametrize("late", [FINETUNEJOBS, JOBS, PODS], ids=lambda resource: resource[1])
@asynchronous
async def test_events_that_come_twice_and_cross_change_nothing(tmp_path, late):
    async with plane(tmp_path) as p:
        p.server.disturb_watches(copies=2, delays={late: 0.15})
        p.script["support-bot"] = [[b.running_pod(), b.ended_pod(137)], SUCCEEDS]
        async with p.operator():
            await p.apply()
            status = await p.phase("Succeeded")
        assert [attempt["reason"] for attempt in status["attempts"]] == ["TrainerKilled", "Succeeded"]
        assert (len(p.jobs()), len(p.pods())) == (2, 2)


@asynchronous
async def test_a_list_from_the_past_makes_nothing_twice(tmp_path):
    """The operator starts anew against an API server whose cache is behind: no Job, no status, in all its lists."""
    async with plane(tmp_path) as p:
        await p.apply()
        past = p.server.store.present()
        p.script["support-bot"] = [RUNS]
        async with p.operator():
            await p.phase("Running")
        p.server.lag(past)
        before = len(p.server.requests)
        async with p.operator() as operator:
            await until(lambda: operator.health.ready and "get" in [call.verb for call in p.calls(before)], "it looks")
            await until(operator.queue.idle, "it has looked")
            assert len(p.jobs()) == 1
            p.server.lag(None)
            await p.play(p.pods()[0], b.ended_pod(0, b.result()))
            await p.phase("Succeeded")
        assert_one_attempt(p)


# rights and credentials


@asynchronous
async def test_a_namespace_that_may_not_be_read_keeps_no_other_waiting_and_is_served_once_it_may(tmp_path, monkeypatch):
    a_hundredth(monkeypatch)
    async with plane(tmp_path) as p:
        await p.client.create("/api/v1/namespaces", {"metadata": {"name": "team-b"}})
        forbidden = True

        async def team_b(call, when):
            if forbidden and call.user == OPERATOR and call.namespace == "team-b":
                raise ApiError(403, "Forbidden", "no rights in team-b")

        p.server.interceptor = team_b
        p.script |= {name: [SUCCEEDS] for name in ("support-bot", "second", "there")}
        await p.apply(name="there", namespace="team-b")
        async with p.operator(watch_namespaces=("team-b", b.NAMESPACE)):
            await p.apply()
            await p.phase("Succeeded")
            assert p.status("there") == {}
            forbidden = False
            await p.phase("Succeeded", "there")
            forbidden = True
            p.server.end_watches()
            await p.apply(name="second")
            await p.phase("Succeeded", "second")


def refused(p: Plane) -> int:
    """How often FineTuneJobs were asked for with a token that is not taken."""
    return sum(f"/{names.PLURAL}" in call.path and call.status == 401 for call in p.server.requests)


@asynchronous
async def test_a_token_that_is_rotated_is_read_anew_by_all_that_use_it(tmp_path, monkeypatch):
    async with plane(tmp_path) as p:
        old, new = p.server.token_for(OPERATOR), p.server.token_for(OPERATOR)
        token, authority = tmp_path / "token", tmp_path / "ca.crt"
        token.write_text(old)
        authority.write_text(p.server.ca_pem)
        host, _, port = p.server.url.removeprefix("https://").partition(":")
        for name, value in (("KUBECONFIG", ""), ("KUBERNETES_SERVICE_HOST", host), ("KUBERNETES_SERVICE_PORT", port)):
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
        monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(authority))
        loader, read = incluster_config.InClusterConfigLoader, incluster_config.InClusterConfigLoader._read_token_file

        def read_for_a_moment(self):
            read(self)
            self.token_expires_at = dt.datetime.now() + dt.timedelta(seconds=0.5)  # a minute, of its own

        monkeypatch.setattr(loader, "_read_token_file", read_for_a_moment)
        async with p.operator(**QUICK):
            pod = await running(p)
            p.server.revoke(old)
            p.server.end_watches()
            await until(lambda: refused(p) > 1, "it is refused, and asks again")
            token.write_text(new)
            await p.play(pod, b.ended_pod(0, b.result()))
            await p.apply(name="next", suspend=True)
            await p.phase("Succeeded")
            await p.phase("Suspended", "next")
        assert_one_attempt(p)


# leaders and clocks


@asynchronous
async def test_a_leader_that_was_paused_in_the_middle_of_a_create_wakes_and_does_no_harm(tmp_path):
    async with plane(tmp_path) as p, p.operator(identity="one", **QUICK) as first:
        await until(lambda: first.elector.leading, "one leads")
        async with p.operator(identity="two", **QUICK) as second:
            await until(lambda: second.health.ready, "two is ready")
            held = []

            async def pause_the_first(call, when):
                if when == "before" and is_create(call) and not held:
                    held.append(call)
                    with p.paused(first):
                        await until(lambda: second.elector.leading and p.jobs(), "two leads and creates the Job")

            p.server.interceptor = pause_the_first
            p.script["support-bot"] = [SUCCEEDS]
            await p.apply()
            await p.phase("Succeeded")
            await until(lambda: not first.elector.leading, "one knows that it leads no more")
            await until(lambda: held[0].status, "its call came through")
            assert (held[0].status, second.elector.leading) == (409, True)
        assert_one_attempt(p)


@pytest.mark.parametrize("hours", [1, -1])
@asynchronous
async def test_a_clock_that_jumps_by_an_hour_ends_no_job_and_no_leadership(tmp_path, monkeypatch, hours):
    jumped = dt.timedelta()
    monkeypatch.setattr(runtime, "utc_now", lambda: dt.datetime.now(dt.UTC) + jumped)
    async with plane(tmp_path) as p, p.operator(give_up_after=60, lease_retry_period=0.1) as operator:
        waits = b.waiting_pod("ImagePullBackOff", "no such image")
        p.script["waits"] = [[waits]]
        pod = await running(p, runPolicy={"deadline": "90m", "stallTimeout": "2m"})
        await p.apply(name="waits")
        await until(lambda: "no such image" in p.status("waits").get("message", ""), "it is told")
        await until(lambda: operator.elector.leading and operator.queue.idle(), "it is done")
        jumped = dt.timedelta(hours=hours)
        for name in ("support-bot", "waits"):
            await p.client.patch(f"{PATH}/{name}", {"metadata": {"labels": {"look": "again"}}})
        await p.apply(name="next", suspend=True)
        await p.phase("Suspended", "next")
        await until(operator.queue.idle, "it has looked")
        before = len(p.server.requests)
        await until(
            lambda: any(call.resource == "leases" for call in p.server.requests[before:]), "the Lease is renewed"
        )
        assert (p.status()["phase"], p.status("waits")["phase"]) == ("Running", "Starting")
        assert operator.elector.leading
        await p.play(pod, b.ended_pod(0, b.result()))
        await p.phase("Succeeded")
        assert [attempt["reason"] for attempt in p.status()["attempts"]] == ["Succeeded"]


# people


@asynchronous
async def test_a_namespace_that_is_deleted_takes_all_along_and_nothing_comes_back(tmp_path):
    async with plane(tmp_path) as p, p.operator() as operator:
        await running(p)
        before = len(p.server.requests)
        await p.client.delete(NAMESPACE_PATH)
        await until(lambda: all(ns["metadata"]["name"] != b.NAMESPACE for ns in p.objects("", "namespaces")), "gone")
        await until(lambda: len(operator.world.finetunejobs) == 0 and operator.queue.idle(), "it is forgotten")
        assert [call.status for call in p.calls(before) if is_create(call) and call.status == 201] == []


@asynchronous
async def test_without_the_operator_jobs_end_and_everything_can_be_deleted(tmp_path):
    """It keeps no finalizers."""
    async with plane(tmp_path) as p:
        async with p.operator():
            pod = await running(p)
            await running(p, "other")
        await p.play(pod, b.ended_pod(0, b.result()))
        await until(lambda: any((job["status"] or {}).get("succeeded") for job in p.jobs()), "the Job completes")
        for kind in p.objects(*FINETUNEJOBS) + p.jobs():
            assert "finalizers" not in kind["metadata"]
        await p.delete()
        await until(lambda: len(p.jobs()) == 1, "its Job goes with it")
        crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        await p.client.delete(f"{crds}/{names.CRD_NAME}")
        await until(lambda: not p.jobs(), "the other Job goes with its definition")
        await p.client.delete(NAMESPACE_PATH)
        await until(lambda: all(ns["metadata"]["name"] != b.NAMESPACE for ns in p.objects("", "namespaces")), "gone")


@asynchronous
async def test_another_version_of_the_operator_restarts_no_pod_and_tells_the_end(tmp_path):
    async with plane(tmp_path) as p:
        async with p.operator(trainer_image="finetune-trainer:0.1.0"):
            pod = await running(p)
        before = len(p.server.requests)
        async with p.operator(trainer_image="finetune-trainer:0.2.0", identity="new") as operator:
            await until(lambda: operator.health.ready and operator.elector.leading, "it leads")
            await until(operator.queue.idle, "it has looked")
            await p.play(pod, b.ended_pod(0, b.result()))
            await p.phase("Succeeded")
        assert [write for write in p.writes(before) if write != "patch finetunejobs/status"] == []
        assert [pod["metadata"]["uid"] for pod in p.pods()] == [pod["metadata"]["uid"]]
        assert_one_attempt(p)


def open_to_the_future(schema) -> None:
    """A schema of a newer version: it has more fields and more values."""
    if isinstance(schema, dict):
        if "properties" in schema:
            schema["x-kubernetes-preserve-unknown-fields"] = True
        schema.pop("enum", None)
        for part in schema.values():
            open_to_the_future(part)


@asynchronous
async def test_what_a_newer_version_wrote_into_a_status_stays(tmp_path):
    async with plane(tmp_path, with_crd=False) as p:
        definitions = json.loads(json.dumps(crd.definitions()))
        for version in definitions[0]["spec"]["versions"]:
            open_to_the_future(version["schema"]["openAPIV3Schema"]["properties"]["status"])
        await add_crd(p.client, *definitions)
        async with p.operator():
            pod = await running(p)
        (attempt,) = p.status()["attempts"]
        conditions = [*p.status()["conditions"], b.condition("Audited", "Newer") | {"mood": "good"}]
        attempts = [attempt | {"node": "gpu-7"}]
        newer = {"audit": {"by": "0.9"}, "progress": {"mood": "good"}, "attempts": attempts, "conditions": conditions}
        await p.client.patch(f"{PATH}/support-bot/status", {"status": newer})
        async with p.operator():
            await p.play(pod, b.ended_pod(0, b.result()))
            status = await p.phase("Succeeded")
        assert status["audit"] == {"by": "0.9"}
        assert status["progress"]["mood"] == "good"
        assert status["attempts"][0]["node"] == "gpu-7"
        assert [c["mood"] for c in status["conditions"] if c["type"] == "Audited"] == ["good"]
