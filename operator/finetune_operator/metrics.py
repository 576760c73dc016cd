"""What the operator counts of itself, for Prometheus. ``jobmetrics`` tells of FineTuneJobs.

Every label has few values: nothing here grows with the number of jobs. ``DEFINITIONS`` is what there is; the page of
docs/reference is made of it.
"""

import re
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import aiohttp
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder

_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""Upper bounds of the histograms, s."""


@dataclass(frozen=True, slots=True)
class Definition:
    """A metric: its name with its unit, as Prometheus' conventions have it, its labels, and what it says."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    about: str
    labels: tuple[str, ...] = ()


DEPTH = Definition("gauge", "finetune_operator_queue_depth", "FineTuneJobs that wait for a worker.")
WAIT = Definition(
    "histogram",
    "finetune_operator_queue_wait_seconds",
    "Time from an event of a FineTuneJob, of its Job or of a pod until a worker takes it up.",
)
TURNS = Definition(
    "histogram", "finetune_operator_reconcile_duration_seconds", "Time of one turn of work on a FineTuneJob."
)
ERRORS = Definition(
    "counter",
    "finetune_operator_reconcile_errors_total",
    "Turns that failed and are tried again. cause: api, or bug for everything that the operator does not expect.",
    ("cause",),
)
CALLS = Definition(
    "counter",
    "finetune_operator_api_requests_total",
    "Requests to the API server. code is the HTTP status, or error where there was no answer.",
    ("verb", "resource", "code"),
)
CALL_TIME = Definition(
    "histogram",
    "finetune_operator_api_request_duration_seconds",
    "Time from a request to the API server until its answer begins.",
    ("verb", "resource"),
)
REPORTS = Definition(
    "counter",
    "finetune_operator_reports_total",
    "Progress reports of training pods, by the HTTP status they were answered with.",
    ("code",),
)
CONNECTIONS = Definition(
    "gauge",
    "finetune_operator_reports_connections",
    "Connections of the reports endpoint that are open. Beyond settings.reportsConnections pods connect anew for every "
    "report.",
)
LEADER = Definition("gauge", "finetune_operator_leader", "1 on the replica that works, 0 on those that stand by.")
FINISHED = Definition(
    "counter",
    "finetune_jobs_finished_total",
    "FineTuneJobs that came to their end since this replica started.",
    ("namespace", "phase", "reason"),
)
GPU_SECONDS = Definition(
    "counter",
    "finetune_gpu_seconds_total",
    "GPU-seconds of training pods, counted when status.usage.gpuSeconds is written, since this replica started.",
    ("namespace",),
)

DEFINITIONS = (DEPTH, WAIT, TURNS, ERRORS, CALLS, CALL_TIME, REPORTS, CONNECTIONS, LEADER, FINISHED, GPU_SECONDS)

_KINDS: dict[str, Any] = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}


class Metrics:
    """The metrics of one replica."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._of = {definition: self._make(definition) for definition in DEFINITIONS}

    def _make(self, definition: Definition) -> Any:
        more = {"buckets": _FAST} if definition.kind == "histogram" else {}
        kind = _KINDS[definition.kind]
        return kind(definition.name, definition.about, definition.labels, registry=self.registry, **more)

    def shows(self, depth: Any, leader: Any, connections: Any) -> None:
        """Where the values that are looked up when somebody asks come from: functions that answer with a number."""
        self._of[DEPTH].set_function(depth)
        self._of[CONNECTIONS].set_function(connections)
        self._of[LEADER].set_function(leader)

    def waited(self, seconds: float) -> None:
        """A FineTuneJob was taken up by a worker."""
        self._of[WAIT].observe(seconds)

    def turn(self) -> AbstractContextManager[None]:
        """Around one turn of work."""
        return self._of[TURNS].time()  # type: ignore[no-any-return]

    def failed(self, cause: Literal["api", "bug"]) -> None:
        """A turn failed."""
        self._of[ERRORS].labels(cause).inc()

    def called(self, verb: str, resource: str, code: str, seconds: float) -> None:
        """A request to the API server was answered, or was not."""
        self._of[CALLS].labels(verb, resource, code).inc()
        self._of[CALL_TIME].labels(verb, resource).observe(seconds)

    def reported(self, code: int) -> None:
        """A pod's report was answered."""
        self._of[REPORTS].labels(str(code)).inc()

    def finished(self, namespace: str, phase: str, reason: str) -> None:
        """A FineTuneJob came to its end."""
        self._of[FINISHED].labels(namespace, phase, reason).inc()

    def used(self, namespace: str, gpu_seconds: float) -> None:
        """Training pods used GPUs."""
        self._of[GPU_SECONDS].labels(namespace).inc(gpu_seconds)

    def text(self, accept: str) -> tuple[bytes, str]:
        """All metrics in a format that the Accept header takes, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def trace(self) -> aiohttp.TraceConfig:
        """What a session of aiohttp needs, to have its requests counted."""

        async def begin(_: Any, context: Any, __: Any) -> None:
            context.begun = time.monotonic()

        async def end(_: Any, context: Any, done: aiohttp.TraceRequestEndParams) -> None:
            self._called(context, done, str(done.response.status))

        async def fail(_: Any, context: Any, done: aiohttp.TraceRequestExceptionParams) -> None:
            self._called(context, done, "error")

        config = aiohttp.TraceConfig()
        config.on_request_start.append(begin)
        config.on_request_end.append(end)
        config.on_request_exception.append(fail)
        return config

    def _called(self, context: Any, done: Any, code: str) -> None:
        verb, resource = call_of(done.method, done.url.path, "watch" in done.url.query)
        self.called(verb, resource, code, time.monotonic() - context.begun)


_PATH = re.compile(
    r"/apis?(?:/[^/]+)?/v[^/]+(?:/namespaces/[^/]+)?/(?P<resource>[^/]+)(?P<name>/[^/]+)?(?P<subresource>/[^/]+)?"
)
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


def call_of(method: str, path: str, watch: bool) -> tuple[str, str]:
    """(verb, resource with its subresource) of a request, as RBAC has them; no names, which would be without number."""
    found = _PATH.fullmatch(path)
    if found is None:
        return "get", "discovery"
    reads = "watch" if watch else "get" if found["name"] else "list"
    return _VERBS.get(method, reads), found["resource"] + (found["subresource"] or "")
