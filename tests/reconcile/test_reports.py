"""The reports endpoint: who may say what, and what becomes of it."""

import asyncio
import base64
import contextlib
import json
import resource
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from finetune_api import names
from finetune_local.operator_process import free_port
from finetune_operator import certificates, reports, runtime
from finetune_operator.connection import Unreachable
from tests import builders as b
from tests.reconcile.plane import RUNS, asynchronous, plane, until

NOW = datetime(2026, 11, 21, tzinfo=UTC)


@contextlib.asynccontextmanager
async def reporting(tmp_path, **settings):
    """A plane, an operator that takes reports, the pod of a running FineTuneJob, and the port."""
    port = free_port()
    url = {"reports_url": f"https://127.0.0.1:{port}/v1/reports", "reports_port": port}
    async with plane(tmp_path) as p, p.operator(**(url | {"progress_interval": 0.0} | settings)) as operator:
        p.script["support-bot"] = [RUNS]
        await p.apply()
        await p.phase("Running")
        yield p, operator, p.pods()[0], port


@asynchronous
async def test_what_a_pod_reports_shows_in_the_status(tmp_path):
    async with reporting(tmp_path) as (p, _, pod, port):
        token = await p.token(pod)
        body = b.report(42, 3060, loss="1.25", current_step="42", total_steps="100", tokens_per_second="812.34")
        assert await p.report(port, token, body) == (200, "received")
        progress = await until(lambda: p.status().get("progress"), "progress")
        assert progress.pop("heartbeat")
        assert progress == {
            "percent": 42,
            "step": 42,
            "totalSteps": 100,
            "etaSeconds": 3060,
            "tokensPerSecond": 812.3,
            "loss": 1.25,
        }
        assert p.status()["headline"] == {"progress": "42%", "eta": "51m"}
        assert (await p.report(port, token, b.report(90, 5, phase="Publishing")))[0] == 200
        await p.phase("Publishing")
        reviews = [call for call in p.server.requests if call.resource == "tokenreviews"]
        assert len(reviews) == 1, "the answer of a TokenReview is kept"


@asynchronous
async def test_pods_trust_the_endpoint_by_what_is_mounted_with_their_run_file(tmp_path):
    async with reporting(tmp_path) as (p, _, pod, port):
        assert pod["metadata"]["annotations"][names.ANNOTATION_REPORTS_CA] == p.authority()
        environment = {e["name"]: e.get("value") for e in pod["spec"]["containers"][0]["env"]}
        assert environment["KUBEFLOW_TRAINER_SERVER_URL"] == f"https://127.0.0.1:{port}/v1/reports"


@asynchronous
async def test_who_is_not_a_training_pod_is_refused(tmp_path):
    async with reporting(tmp_path) as (p, _, pod, port):
        stranger = {"metadata": {"name": "stranger", "namespace": b.NAMESPACE}, "spec": {"containers": []}}
        stranger["spec"]["containers"] = [{"name": "trainer", "image": "busybox"}]
        stranger = await p.client.create(f"/api/v1/namespaces/{b.NAMESPACE}/pods", stranger)
        answers = {
            "another audience": await p.report(port, await p.token(pod, "somebody-else"), b.report()),
            "no token of ours": await p.report(port, "made.up.token", b.report()),
            "no token": await p.report(port, "", b.report()),
            "a pod of nobody": await p.report(port, await p.token(stranger), b.report()),
        }
        assert {who: code for who, (code, _) in answers.items()} == {
            "another audience": 401,
            "no token of ours": 401,
            "no token": 401,
            "a pod of nobody": 403,
        }
        assert "progress" not in p.status()


@asynchronous
async def test_what_is_no_report_is_refused_with_a_reason_and_the_next_one_is_taken(tmp_path):
    async with reporting(tmp_path) as (p, _, pod, port):
        token = await p.token(pod)
        for body, code, said in [
            (b"x" * 70_000, 413, "65536"),
            (b"{not json", 400, "not JSON"),
            (b"", 400, "not JSON"),
            (b"[1]", 400, "valid dictionary"),
            (b'{"trainerStatus": {"lastUpdatedTime": "x", "progressPercentage": NaN}}', 400, "NaN"),
            (b'{"trainerStatus": {"lastUpdatedTime": "x", "progressPercentage": 101}}', 400, "progressPercentage"),
            (b"{}", 400, "trainerStatus"),
            (b"[" * 60_000, 400, "not JSON"),
            (b"\xff\xfe\x00", 400, "not JSON"),
        ]:
            found = await p.report(port, token, body)
            assert found[0] == code, (body[:40], found)
            assert said in found[1], (body[:40], found)
        assert (await p.report(port, token, b.report()))[0] == 200


@asynchronous
async def test_a_pod_speaks_for_itself_alone(tmp_path):
    """Whatever a report says, it counts for the pod that the token was made for."""
    async with reporting(tmp_path) as (p, operator, _, port):
        p.script["other"] = [RUNS]
        await p.apply(name="other")
        await p.phase("Running", "other")
        others = next(pod for pod in p.pods() if pod["metadata"]["annotations"][names.ANNOTATION_JOB] == "other")
        body = b.report(99, 1) | {"pod": "support-bot", "uid": p.finetunejob()["metadata"]["uid"]}
        assert (await p.report(port, await p.token(others), body))[0] == 200
        await until(lambda: p.status("other").get("progress", {}).get("percent") == 99, "its own progress")
        await until(operator.queue.idle, "the operator is idle")
        assert "progress" not in p.status()


@asynchronous
async def test_a_token_that_has_expired_is_refused_and_nothing_changes(tmp_path):
    async with reporting(tmp_path) as (p, _, pod, port):
        account = next(a for a in p.objects("", "serviceaccounts") if a["metadata"]["namespace"] == b.NAMESPACE)
        expired = p.server._tokens.mint(account, [names.MANAGER], -1, pod)
        assert (await p.report(port, expired, b.report()))[0] == 401
        assert "progress" not in p.status()


@pytest.mark.parametrize("told", [True, False], ids=["that says its length", "that does not"])
@asynchronous
async def test_a_gigabyte_of_body_is_refused_after_little_of_it_and_takes_no_memory(tmp_path, told):
    gigabyte = 2**30
    async with reporting(tmp_path) as (p, _, pod, port):
        length = f"Content-Length: {gigabyte}" if told else "Transfer-Encoding: chunked"
        head = f"POST /v1/reports HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {await p.token(pod)}\r\n{length}\r\n\r\n"
        trust = ssl.create_default_context(cadata=p.authority())
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust)
        writer.write(head.encode())
        before, sent, part = peak_mib(), 0, b"x" * 2**18
        with contextlib.suppress(ConnectionError):
            while sent < gigabyte and not reader._buffer:
                writer.write((b"" if told else f"{len(part):x}\r\n".encode()) + part + (b"" if told else b"\r\n"))
                await writer.drain()
                sent += len(part)
        answer = await reader.readline()
        writer.transport.abort()
        assert b" 413 " in answer
        assert sent < 2**28
        assert peak_mib() - before < 64
        assert (await p.report(port, await p.token(pod), b.report()))[0] == 200


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@asynchronous
async def test_what_a_terminal_obeys_reaches_neither_status_nor_answer(tmp_path):
    odd = "\x1b[2J\x07\u202e\x00"
    async with reporting(tmp_path) as (p, operator, pod, port):
        token = await p.token(pod)
        body = b.report(7, 9, loss=odd, phase=odd, checkpoint=f"00000001-00000000{odd}", **{odd: odd})
        body["trainerStatus"]["lastUpdatedTime"] = odd
        assert (await p.report(port, token, body))[0] == 200
        await until(lambda: p.status().get("progress", {}).get("percent") == 7, "progress")
        await until(operator.queue.idle, "the operator is idle")
        assert json.dumps(p.status(), ensure_ascii=False).isprintable()
        assert "checkpoint" not in p.status()
        wrong = {"trainerStatus": {"lastUpdatedTime": "x", "metrics": [{odd: 1}]}, odd: odd}
        code, message = await p.report(port, token, wrong)
        assert code == 400
        assert message.isprintable()


@asynchronous
async def test_numbers_that_are_none_reach_no_status(tmp_path):
    async with reporting(tmp_path) as (p, _, pod, port):
        wild = b.report(5, 9, loss="nan", current_step="1e300", total_steps="-3", tokens_per_second="inf")
        assert (await p.report(port, await p.token(pod), wild))[0] == 200
        progress = await until(lambda: p.status().get("progress"), "progress")
        assert progress.keys() == {"percent", "etaSeconds", "heartbeat"}


@asynchronous
async def test_a_standby_hands_reports_on_to_the_leader(tmp_path):
    first, second = free_port(), free_port()
    async with plane(tmp_path) as p:

        def settings(identity, port):
            return {
                "identity": identity,
                "reports_url": "https://127.0.0.1/v1/reports",
                "reports_port": port,
                "advertise_address": f"127.0.0.1:{port}",
                "lease_retry_period": 0.1,
                "progress_interval": 0.0,
            }

        async with p.operator(**settings("one", first)) as one:
            await until(lambda: one.elector.leading, "one leads")
            async with p.operator(**settings("two", second)) as two:
                await until(lambda: two.health.ready, "two is ready")
                p.script["support-bot"] = [RUNS]
                await p.apply()
                await p.phase("Running")
                token = await p.token(p.pods()[0])
                await until(lambda: two.elector.leader_address, "two has seen the Lease")
                assert await p.report(second, token, b.report(77)) == (200, "received")
                await until(lambda: p.status().get("progress", {}).get("percent") == 77, "progress")
                assert (await p.report(second, "made up", b.report()))[0] == 401
                assert not two.elector.leading


class Reviewer:
    """A cluster that reviews tokens by a script."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = 0

    async def review_token(self, token):
        self.asked += 1
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def review(uid="u", audiences=("finetune-operator",), authenticated=True):
    extra = {"authentication.kubernetes.io/pod-uid": [uid]} if uid else {}
    return {"authenticated": authenticated, "audiences": list(audiences), "user": {"username": "x", "extra": extra}}


@pytest.mark.parametrize(
    "answer",
    [
        review(authenticated=False),
        review(audiences=("other",)),
        review(uid=""),
        {},
        {"error": "x", "authenticated": False},
    ],
)
@asynchronous
async def test_a_review_that_does_not_name_a_pod_for_us_is_a_no_that_is_kept_shortly(answer):
    now = [0.0]
    cluster = Reviewer(answer, review())
    authenticator = reports.Authenticator(cluster, lambda: now[0])
    for _ in range(3):
        with pytest.raises(reports.TokenRefused):
            await authenticator.pod_uid("token")
    assert cluster.asked == 1
    now[0] = reports.Authenticator.BAD_FOR + 1
    assert await authenticator.pod_uid("token") == "u"


@asynchronous
async def test_an_api_server_that_cannot_say_is_asked_again():
    authenticator = reports.Authenticator(Reviewer(Unreachable("away"), review()))
    with pytest.raises(Unreachable):
        await authenticator.pod_uid("token")
    assert await authenticator.pod_uid("token") == "u"


@asynchronous
async def test_a_yes_is_kept_no_longer_than_the_token_lives():
    now = [1000.0]
    cluster = Reviewer(review(), review(authenticated=False))
    authenticator = reports.Authenticator(cluster, lambda: now[0])
    token = "h.eyJleHAiOiAxMDYwfQ.s"  # {"exp": 1060}
    assert await authenticator.pod_uid(token) == "u"
    now[0] = 1059.0
    assert await authenticator.pod_uid(token) == "u"
    now[0] = 1061.0
    with pytest.raises(reports.TokenRefused):
        await authenticator.pod_uid(token)


def test_the_recorded_token_review_names_the_pod():
    recorded = json.loads((Path(__file__).parents[1] / "data" / "pods" / "tokenreview.json").read_text())
    assert reports._pod_uid(recorded["status"]) == "8e5fe796-daf5-4152-8c2c-1915004b6b53"


class Secrets:
    """A cluster with one Secret."""

    def __init__(self):
        self.secret = {"metadata": {"name": "s", "resourceVersion": "1"}}
        self.writes = 0

    async def get_reports_secret(self):
        return self.secret

    async def update_reports_secret(self, secret):
        self.writes += 1
        self.secret = secret
        return secret


DAY = timedelta(days=1)


@asynchronous
async def test_the_certificate_is_made_once_and_renewed_under_the_same_authority():
    cluster = Secrets()
    first = await certificates.ensure(cluster, "operator.ft.svc", NOW)
    again = await certificates.ensure(cluster, "operator.ft.svc", NOW + 200 * DAY)
    assert (again, cluster.writes) == (first, 1)
    later = await certificates.ensure(cluster, "operator.ft.svc", NOW + 300 * DAY)
    assert later.ca == first.ca
    assert later.certificate != first.certificate


@asynchronous
async def test_authorities_overlap_so_that_whoever_trusts_one_for_months_is_served_by_it():
    cluster = Secrets()
    host = "operator.ft.svc"
    first = await certificates.ensure(cluster, host, NOW)
    before = await certificates.ensure(cluster, host, NOW + 3284 * DAY)
    assert before.following is None
    overlap = await certificates.ensure(cluster, host, NOW + 3286 * DAY)
    assert overlap.authority == first.authority
    assert overlap.ca.startswith(first.ca)
    assert overlap.ca.count("BEGIN CERTIFICATE") == 2
    still = await certificates.ensure(cluster, host, NOW + 3520 * DAY)
    assert (still.authority, still.following) == (overlap.authority, overlap.following)
    after = await certificates.ensure(cluster, host, NOW + 3535 * DAY)
    assert (after.authority, after.following) == (overlap.following, None)
    assert "next-ca.crt" not in cluster.secret["data"]
    assert after.serves(host, NOW + 3535 * DAY)


@pytest.mark.parametrize("broken", ["ca.crt", "ca.key", "tls.crt", "next-ca.crt", "next-ca.key"])
@asynchronous
async def test_what_of_the_secret_is_broken_is_made_anew_and_the_rest_kept(broken):
    cluster = Secrets()
    await certificates.ensure(cluster, "a.svc", NOW)
    old = await certificates.ensure(cluster, "a.svc", NOW + 3290 * DAY)
    other = certificates.make("a.svc", NOW)
    text = other.authority.key if broken.endswith("ca.key") else "no certificate"
    cluster.secret["data"][broken] = base64.b64encode(text.encode()).decode()
    found = await certificates.ensure(cluster, "a.svc", NOW + 3450 * DAY)
    assert found.serves("a.svc", NOW + 3450 * DAY)
    kept = {old.authority, old.following} & {found.authority, found.following}
    assert len(kept) == (2 if broken == "tls.crt" else 1)


@asynchronous
async def test_certificate_and_authority_change_without_a_restart_and_no_running_pod_loses_trust(tmp_path, monkeypatch):
    """A pod trusts what it was started with; the standby hands on to the leader all the while."""
    ago = [300 * DAY]
    monkeypatch.setattr(certificates, "_CA_LIFETIME", 400 * DAY)
    monkeypatch.setattr(runtime, "_CERTIFICATE_CHECK", 0.05)
    monkeypatch.setattr(runtime, "utc_now", lambda: datetime.now(UTC) - ago[0])
    ports = {"one": free_port(), "two": free_port()}
    async with plane(tmp_path) as p:

        def settings(name):
            url = {"reports_url": "https://127.0.0.1/v1/reports", "advertise_address": f"127.0.0.1:{ports[name]}"}
            return url | {"identity": name, "reports_port": ports[name], "progress_interval": 0.0}

        def served() -> dict:
            return dict(p.objects("", "secrets")[0]["data"])

        async def pod_of(name: str) -> dict:
            p.script[name] = [RUNS]
            await p.apply(name=name)
            await p.phase("Running", name)
            return next(pod for pod in p.pods() if pod["metadata"]["annotations"][names.ANNOTATION_JOB] == name)

        async def reports(pod: dict) -> list[int]:
            trust = pod["metadata"]["annotations"][names.ANNOTATION_REPORTS_CA]
            return [(await p.report(port, await p.token(pod), b.report(), trust))[0] for port in ports.values()]

        async with p.operator(**settings("one")) as one:
            await until(lambda: one.elector.leading, "one leads")
            async with p.operator(**settings("two")) as two:
                await until(lambda: two.health.ready, "two is ready")
                first, data = await pod_of("first"), served()
                await until(lambda: two.elector.leader_address, "two has seen the Lease")
                assert await reports(first) == [200, 200]

                ago[0] = 150 * DAY
                await until(lambda: "next-ca.crt" in served(), "an authority to follow")
                assert served()["tls.crt"] != data["tls.crt"]
                await until(lambda: one._reporting.ca == two._reporting.ca != authority_of(data), "both know it")
                second = await pod_of("second")
                assert await reports(first) == await reports(second) == [200, 200]

                follows = base64.b64decode(served()["next-ca.crt"]).decode()
                ago[0] = 0 * DAY
                await until(lambda: authority_of(served()) == follows, "the endpoint serves by the one that followed")
                await until(lambda: all(r._reporting.ca.startswith(follows) for r in (one, two)), "both know it")
                assert await reports(second) == [200, 200]
                assert await reports(await pod_of("third")) == [200, 200]


def authority_of(data: dict) -> str:
    return base64.b64decode(data["ca.crt"]).decode()


@asynchronous
async def test_a_certificate_for_another_host_or_a_broken_secret_is_made_anew():
    cluster = Secrets()
    first = await certificates.ensure(cluster, "a.svc", NOW)
    moved = await certificates.ensure(cluster, "10.0.0.1", NOW)
    assert moved.ca == first.ca
    assert moved.serves("10.0.0.1", NOW)
    cluster.secret["data"]["tls.crt"] = "bm9uc2Vuc2U="
    assert (await certificates.ensure(cluster, "a.svc", NOW)).serves("a.svc", NOW)


@asynchronous
async def test_without_its_secret_the_operator_waits_and_says_for_what(tmp_path):
    port = free_port()
    url = {"reports_url": f"https://127.0.0.1:{port}/v1/reports", "reports_port": port, "reports_secret": "absent"}
    async with plane(tmp_path) as p, p.operator(**url, health_port=(health := free_port())) as operator:
        await p.apply()
        said = await until(lambda: operator.health.waiting.get("the certificate of the reports endpoint"), "it says so")
        assert "absent" in said
        reader, writer = await asyncio.open_connection("127.0.0.1", health)
        writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
        answer = (await reader.read()).decode()
        writer.close()
        assert "503" in answer.splitlines()[0]
        assert p.jobs() == []
