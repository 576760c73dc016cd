"""The reports endpoint: who may say what, and what becomes of it."""

import asyncio
import base64
import contextlib
import json
import resource
import socket
import ssl
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from finetune_api import names
from finetune_api.run import Report
from finetune_local.operator_process import free_port
from finetune_operator import certificates, listener, reports, runtime
from finetune_operator.connection import Unreachable
from finetune_operator.settings import Settings
from finetune_trainer.report import Endpoint
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


class Trainer:
    """What a pod of ours reports with."""

    def __init__(self, folder, port: int, token: str, authority: str) -> None:
        self.token, ca = folder / f"token-{port}-{len(token)}", folder / "ca.crt"
        self.token.write_text(token)
        ca.write_text(authority)
        self._endpoint = Endpoint(f"https://127.0.0.1:{port}/v1/reports", self.token, ca)

    async def report(self, percent: int) -> None:
        status = Report.model_validate(b.report(percent)).trainer_status
        await asyncio.to_thread(self._endpoint.post, status)


def shown(p, percent: int) -> bool:
    return p.status().get("progress", {}).get("percent") == percent


@asynchronous
async def test_a_trainer_reports_over_one_connection_with_the_token_of_the_moment(tmp_path):
    async with reporting(tmp_path) as (p, operator, pod, port):
        trainer = Trainer(tmp_path, port, await p.token(pod), p.authority())
        for percent in (1, 2, 3):
            await trainer.report(percent)
            assert operator._reports.listener.open == 1
        trainer.token.write_text("made.up.token")
        with pytest.raises(OSError, match="401"):
            await trainer.report(4)
        await until(lambda: not operator._reports.listener.open, "who is not let in is not kept")
        trainer.token.write_text(await p.token(pod))
        await trainer.report(5)
        await until(lambda: shown(p, 5), "progress")


@asynchronous
async def test_an_operator_that_is_started_anew_between_two_reports_loses_none(tmp_path):
    port = free_port()
    settings = {"reports_url": f"https://127.0.0.1:{port}/v1/reports", "reports_port": port, "progress_interval": 0.0}
    async with plane(tmp_path) as p:
        async with p.operator(**settings):
            p.script["support-bot"] = [RUNS]
            await p.apply()
            await p.phase("Running")
            trainer = Trainer(tmp_path, port, await p.token(p.pods()[0]), p.authority())
            await trainer.report(1)
            await until(lambda: shown(p, 1), "progress")
        async with p.operator(**settings) as again:
            await until(lambda: again.health.ready and again.elector.leading, "it is there again")
            await trainer.report(2)
            await until(lambda: shown(p, 2), "progress")


@asynchronous
async def test_a_kept_connection_outlasts_a_change_of_the_leader(tmp_path):
    ports = {"one": free_port(), "two": free_port()}
    async with plane(tmp_path) as p:

        def settings(name):
            url = {"reports_url": "https://127.0.0.1/v1/reports", "advertise_address": f"127.0.0.1:{ports[name]}"}
            pace = {"lease_retry_period": 0.1, "progress_interval": 0.0}
            return url | pace | {"identity": name, "reports_port": ports[name]}

        async with p.operator(**settings("one")) as one:
            await until(lambda: one.elector.leading, "one leads")
            async with p.operator(**settings("two")) as two:
                await until(lambda: two.health.ready, "two is ready")
                p.script["support-bot"] = [RUNS]
                await p.apply()
                await p.phase("Running")
                trainer = Trainer(tmp_path, ports["one"], await p.token(p.pods()[0]), p.authority())
                await trainer.report(1)
                lease = "/apis/coordination.k8s.io/v1/namespaces/default/leases/finetune-operator"
                address = f"127.0.0.1:{ports['two']}"
                await p.client.patch(lease, {"spec": {"holderIdentity": f"two@{address}"}})
                await until(lambda: two.elector.leading and one.elector.leader_address == address, "two leads")
                assert not one.elector.leading
                await trainer.report(2)
                await until(lambda: shown(p, 2), "progress")
                assert one._reports.listener.open == 1


@asynchronous
async def test_a_connection_that_is_idle_for_too_long_is_closed_and_the_trainer_opens_another(tmp_path, monkeypatch):
    monkeypatch.setattr(reports, "_IDLE", 0.2)
    async with reporting(tmp_path) as (p, operator, pod, port):
        trainer = Trainer(tmp_path, port, await p.token(pod), p.authority())
        await trainer.report(1)
        silent = socket.create_connection(("127.0.0.1", port))
        silent = await asyncio.to_thread(
            ssl.create_default_context(cadata=p.authority()).wrap_socket, silent, server_hostname="127.0.0.1"
        )
        await until(lambda: not operator._reports.listener.open, "both are closed")
        silent.close()
        await trainer.report(2)
        await until(lambda: shown(p, 2), "progress")


@asynchronous
async def test_beyond_the_connections_that_may_stay_open_every_report_has_one_of_its_own(tmp_path):
    async with reporting(tmp_path, reports_connections=1) as (p, operator, pod, port):
        token = await p.token(pod)
        kept, other = (Trainer(tmp_path, port, token, p.authority()) for _ in range(2))
        for percent in (1, 2):
            await kept.report(percent)
            await other.report(percent + 10)
            await until(lambda: operator._reports.listener.open == 1, "the one beyond is closed")
        await kept.report(50)
        await until(lambda: shown(p, 50), "progress")
        assert operator._metrics.registry.get_sample_value("finetune_operator_reports_connections") == 1


@asynchronous
async def test_a_flood_of_connections_is_refused_and_passes(tmp_path, monkeypatch):
    monkeypatch.setattr(listener, "_PASSING", 2)
    async with reporting(tmp_path, reports_connections=0) as (p, operator, pod, port):
        flood = [socket.create_connection(("127.0.0.1", port)) for _ in range(2)]
        await until(lambda: operator._reports.listener.open == 2, "they are in")
        trainer = Trainer(tmp_path, port, await p.token(pod), p.authority())
        with pytest.raises(OSError, match=r"reset|EOF|closed"):
            await trainer.report(1)
        for connection in flood:
            connection.close()
        await until(lambda: not operator._reports.listener.open, "they are gone")
        await trainer.report(2)
        await until(lambda: shown(p, 2), "progress")


@asynchronous
async def test_a_connection_that_waits_takes_little_memory(tmp_path):
    """asyncio's own buffers alone would be 256 KiB each."""
    many = 200
    async with reporting(tmp_path) as (p, operator, _, port):
        trust = ssl.create_default_context(cadata=p.authority())

        def connect() -> ssl.SSLSocket:
            return trust.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="127.0.0.1")

        before = psutil.Process().memory_info().rss
        waiting = [await asyncio.to_thread(connect) for _ in range(many)]
        await until(lambda: operator._reports.listener.open == many, "all are in")
        grown = psutil.Process().memory_info().rss - before
        for connection in waiting:
            connection.close()
        assert grown / many < 128 * 1024, "both ends together"


def test_a_process_may_open_as_many_files_as_it_needs_where_it_is_let():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before[1] - 20, before[1]))
        assert listener._allowed(before[1] - 30) == before[1] - 30
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1] - 20, before[1])
        assert listener._allowed(before[1] - 10) == before[1] - 10
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1] - 10, before[1])
        assert listener._allowed(before[1] + 10) == before[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@asynchronous
async def test_who_connects_anew_for_each_report_as_transformers_callback_does_is_served_as_before(tmp_path):
    async with reporting(tmp_path) as (p, operator, pod, port):
        headers = {"Authorization": f"Bearer {await p.token(pod)}", "Content-Type": "application/json"}
        trust = ssl.create_default_context(cadata=p.authority())

        def post(percent: int) -> int:
            body = json.dumps(b.report(percent)).encode()
            request = urllib.request.Request(f"https://127.0.0.1:{port}/v1/reports", data=body, headers=headers)
            with urllib.request.urlopen(request, timeout=5, context=trust) as answer:
                return answer.status

        for percent in (1, 2):
            assert await asyncio.to_thread(post, percent) == 200
        await until(lambda: shown(p, 2), "progress")
        await until(lambda: not operator._reports.listener.open, "nothing stays open")


@asynchronous
async def test_reports_of_progress_alone_cause_no_turns_until_it_may_be_written(tmp_path):
    async with reporting(tmp_path, progress_interval=3600.0) as (p, operator, pod, port):
        trainer = Trainer(tmp_path, port, await p.token(pod), p.authority())
        await trainer.report(1)
        await until(operator.queue.idle, "the operator is idle")
        before = turns(operator)
        for percent in range(2, 12):
            await trainer.report(percent)
        assert turns(operator) == before
        assert (await p.report(port, await p.token(pod), b.report(99, 1, phase="Publishing")))[0] == 200
        await until(operator.queue.idle, "the operator is idle")
        assert turns(operator) == before + 1


def turns(operator) -> float:
    return operator._metrics.registry.get_sample_value("finetune_operator_reconcile_duration_seconds_count")


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


@asynchronous
async def test_more_answers_are_kept_than_there_are_pods_that_may_keep_a_connection():
    pods = Settings().reports_connections
    cluster = Reviewer(*[review()] * pods)
    authenticator = reports.Authenticator(cluster)
    for _ in range(2):
        for number in range(pods):
            await authenticator.pod_uid(f"token {number}")
    assert cluster.asked == pods


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
