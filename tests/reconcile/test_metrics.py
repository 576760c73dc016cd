"""What Prometheus is told: by the names and units of its conventions, bounded, and gone with what it tells of."""

import asyncio
import math
import re

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from finetune_api.conditions import Phase
from finetune_operator import jobmetrics, metrics
from finetune_operator.jobmetrics import JobCollector
from finetune_operator.journal import Journal
from finetune_operator.metrics import Metrics, call_of
from tests import builders as b
from tests.reconcile.plane import RUNS, SUCCEEDS, Plane, asynchronous, plane, until

ALL = metrics.DEFINITIONS + jobmetrics.DEFINITIONS
Samples = dict[tuple[str, frozenset], float]


def samples(text: str) -> Samples:
    """(name, labels) → value."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(found: Samples, metric: str, /, **labels: str) -> float:
    """The sum of the samples of a metric that have these labels."""
    return math.fsum(
        value for (name, has), value in found.items() if name == metric and labels.items() <= dict(has).items()
    )


def told(jobs: list, most: int = 1000) -> Samples:
    counted = Metrics()
    counted.registry.register(JobCollector(lambda: jobs, most))
    return samples(counted.text("")[0].decode())


def live(name: str, **progress: object) -> dict:
    told = {"percent": 40, "loss": 1.5, "tokensPerSecond": 900.0, "etaSeconds": 60, "heartbeat": "1970-01-01T00:01:40Z"}
    return b.finetunejob(name, uid=name, status={"phase": "Running", "progress": told | progress})


def test_names_and_units_keep_prometheus_conventions():
    for definition in ALL:
        assert re.fullmatch(r"finetune(_[a-z]+)+", definition.name)
        assert definition.name.endswith("_total") == (definition.kind == "counter")
        assert definition.kind != "histogram" or definition.name.endswith("_seconds")
        assert definition.about.endswith(".")
    assert len({definition.name for definition in ALL}) == len(ALL)


def test_a_live_job_is_told_in_base_units_and_an_ended_one_no_more():
    found = told([live("a"), b.finetunejob("b", uid="b", status={"phase": "Succeeded", "progress": {"percent": 100}})])
    a = frozenset({("namespace", b.NAMESPACE), ("name", "a")})
    assert {name: value for (name, has), value in found.items() if has == a} == {
        "finetune_job_progress_ratio": 0.4,
        "finetune_job_loss": 1.5,
        "finetune_job_tokens_per_second": 900,
        "finetune_job_eta_seconds": 60,
        "finetune_job_heartbeat_timestamp_seconds": 100,
    }
    assert of(found, "finetune_jobs", namespace=b.NAMESPACE, phase="Running") == 1
    assert of(found, "finetune_jobs", namespace=b.NAMESPACE, phase="Succeeded") == 1
    assert not [has for _, has in found if ("name", "b") in has]


def test_with_five_thousand_jobs_the_series_are_bounded_and_the_left_out_ones_are_counted():
    few, many = told([live("a")]), told([live(f"job-{n:04}") for n in range(5000)], most=100)
    each = len(jobmetrics.DEFINITIONS) - 2
    assert len(many) - len(few) == 99 * each
    assert of(many, "finetune_job_series_omitted") == 4900
    assert of(many, "finetune_jobs", phase="Running") == 5000
    assert of(many, "finetune_job_loss", name="job-0099") == 1.5
    assert not [has for _, has in many if ("name", "job-0100") in has]


@pytest.mark.parametrize(
    ("method", "path", "watch", "call"),
    [
        ("GET", "/apis/batch/v1/jobs", False, ("list", "jobs")),
        ("GET", "/apis/batch/v1/jobs", True, ("watch", "jobs")),
        ("GET", "/api/v1/namespaces/team-a/pods", False, ("list", "pods")),
        ("GET", "/apis/finetune.dev/v1alpha1/namespaces/a/finetunejobs/x", False, ("get", "finetunejobs")),
        (
            "PATCH",
            "/apis/finetune.dev/v1alpha1/namespaces/a/finetunejobs/x/status",
            False,
            ("patch", "finetunejobs/status"),
        ),
        ("POST", "/api/v1/namespaces/team-a/events", False, ("create", "events")),
        ("PUT", "/apis/coordination.k8s.io/v1/namespaces/a/leases/l", False, ("update", "leases")),
        ("GET", "/apis/finetune.dev/v1alpha1", False, ("get", "discovery")),
    ],
)
def test_calls_are_told_apart_by_verb_and_resource_and_never_by_name(method, path, watch, call):
    assert call_of(method, path, watch) == call


def written(before: dict, after: dict) -> tuple[Samples, list]:
    counted, lines = Metrics(), []
    Journal(counted).wrote(b.finetunejob(status=before), b.finetunejob(status=after))
    return samples(counted.text("")[0].decode()), lines


def status(phase: str, reason: str, message: str = "", **more: object) -> dict:
    ready = {"type": "Ready", "status": "False", "reason": reason, "message": message}
    return {"phase": phase, "message": message, "conditions": [ready]} | more


def test_each_change_of_phase_is_one_line_with_namespace_and_name_bound_and_progress_is_none(caplog):
    caplog.set_level("INFO")
    written({}, status("Starting", "JobCreated", "Job x is created."))
    written(status("Running", "Training"), status("Running", "Training", progress={"percent": 3}))
    written(status("Running", "Training"), status("Failed", "DataInvalid", "line 3: no JSON"))
    assert [(record.levelname, record.getMessage(), record.fields) for record in caplog.records] == [
        (
            "INFO",
            "Job x is created.",
            {
                "namespace": b.NAMESPACE,
                "name": "support-bot",
                "phase": "Starting",
                "reason": "JobCreated",
                "was": "new",
            },
        ),
        (
            "WARNING",
            "line 3: no JSON",
            {
                "namespace": b.NAMESPACE,
                "name": "support-bot",
                "phase": "Failed",
                "reason": "DataInvalid",
                "was": "Running",
            },
        ),
    ]


def test_an_end_and_its_gpu_seconds_are_counted_once():
    running = status("Running", "Training")
    done = status("Succeeded", "Succeeded", usage={"gpuSeconds": 240})
    found, _ = written(running, done)
    assert of(found, "finetune_jobs_finished_total", phase="Succeeded", reason="Succeeded") == 1
    assert of(found, "finetune_gpu_seconds_total", namespace=b.NAMESPACE) == 240
    found, _ = written(done, done | {"observedGeneration": 2})
    assert of(found, "finetune_jobs_finished_total") == of(found, "finetune_gpu_seconds_total") == 0


async def scraped(port: int, accept: str = "") -> tuple[Samples, str]:
    headers = {"Accept": accept} if accept else {}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/metrics", headers=headers) as answer,
    ):
        assert answer.status == 200
        return samples(await answer.text()), answer.content_type


async def idle(p: Plane, port: int) -> Samples:
    """What a running operator tells once it has told its last Event."""
    while True:
        found, _ = await scraped(port)
        told = sum(len(p.events(name)) for name in p.script)
        if of(found, "finetune_operator_api_requests_total", resource="events") >= told >= len(p.script):
            return found
        await asyncio.sleep(0.05)


@asynchronous
async def test_a_running_operator_tells_what_it_did(tmp_path):
    async with plane(tmp_path) as p, p.operator() as operator:
        await until(lambda: operator.health.ready, "it is ready")
        port = operator.metrics_endpoint.port
        p.script |= {"good": [SUCCEEDS], "bad": [[b.ended_pod(11, b.error("DataInvalid", "line 3"))]], "long": [RUNS]}
        for name in p.script:
            await p.apply(name=name)
        await p.phase("Succeeded", "good")
        await p.phase("Failed", "bad")
        await p.phase("Running", "long")
        found = await idle(p, port)
        here = {"namespace": b.NAMESPACE}
        assert of(found, "finetune_jobs", phase="Succeeded", **here) == 1
        assert of(found, "finetune_jobs", phase="Running", **here) == 1
        assert of(found, "finetune_jobs_finished_total", phase="Failed", reason="DataInvalid", **here) == 1
        assert of(found, "finetune_operator_api_requests_total", verb="create", resource="jobs", code="201") == 3
        writes = of(found, "finetune_operator_api_requests_total", verb="patch", resource="finetunejobs/status")
        assert writes == len([write for write in p.writes() if write == "patch finetunejobs/status"])
        assert of(found, "finetune_operator_leader") == 1
        assert of(found, "finetune_operator_queue_depth") == 0
        turns = of(found, "finetune_operator_reconcile_duration_seconds_count")
        assert turns >= writes
        assert of(found, "finetune_operator_queue_wait_seconds_count") >= turns
        assert of(found, "process_resident_memory_bytes") > 2**20
        _, kind = await scraped(port, "application/openmetrics-text; version=1.0.0")
        assert kind == "application/openmetrics-text"

        for name in ("good", "bad", "long"):
            await p.delete(name)
        await until(lambda: not len(operator.world.finetunejobs), "all are forgotten")
        found, _ = await scraped(port)
        assert of(found, "finetune_jobs") == 0
        assert not [has for name, has in found if name.startswith("finetune_job_") and has]


@asynchronous
async def test_a_replica_that_stands_by_tells_of_no_job(tmp_path):
    async with plane(tmp_path) as p, p.operator(identity="one") as one:
        await until(lambda: one.elector.leading, "one leads")
        async with p.operator(identity="two") as two:
            await p.apply()
            await p.phase("Starting")
            await until(lambda: len(two.world.finetunejobs) == 1, "two has seen it")
            led, _ = await scraped(one.metrics_endpoint.port)
            stands_by, _ = await scraped(two.metrics_endpoint.port)
        assert (of(led, "finetune_operator_leader"), of(led, "finetune_jobs")) == (1, 1)
        assert (of(stands_by, "finetune_operator_leader"), of(stands_by, "finetune_jobs")) == (0, 0)


def test_every_phase_is_one_that_the_counts_may_have():
    jobs = [b.finetunejob(f"j{n}", uid=str(n), status={"phase": phase.value}) for n, phase in enumerate(Phase)]
    found = told([*jobs, b.finetunejob("new", uid="new")])
    assert {dict(has)["phase"] for name, has in found if name == "finetune_jobs"} == {phase.value for phase in Phase}
    assert of(found, "finetune_jobs", phase="Pending") == 2
