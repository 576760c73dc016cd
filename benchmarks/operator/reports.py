"""Progress of training pods: what a report costs, what a write of progress does, and what a kept connection holds.

Reports are sent by the trainer's own sender, which keeps its connection.
"""

import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.operator import share
from benchmarks.operator.rig import Rig, p99, rig
from benchmarks.row import Row, at_most
from finetune_api.run import Report, TrainerStatus
from finetune_trainer.report import Endpoint

_PODS, _ROUNDS, _AT_ONCE = 500, 4, 4
_EVERY = 5.0
"""Seconds between two reports of our trainer."""
_LIVE, _SECONDS = 5000, 30.0
"""Jobs that report every five seconds, and for how long."""


def rows() -> list[Row]:
    """First reports that cause no write, then such that all do; then as many as live jobs send."""
    pods = min(_PODS, share(_PODS))
    with _reporting(pods, progress_interval="3600") as (r, endpoints):
        anew = _cost(r, endpoints, keep=False)
        _report(endpoints, 20)
        r.calm()
        quiet = _cost(r, endpoints)
    with _reporting(pods, progress_interval="0", progress_writes="1000000") as (r, endpoints):
        begun = r.calls()[0]
        loud = _cost(r, endpoints)
        writes = sum(call.resource == "finetunejobs/status" for call in r.calls(begun)[1]) / (pods * _ROUNDS)
    return [
        Row("operator's CPU for a report", quiet * 1000, "CPU-ms", note="over a connection that is kept, as ours does"),
        Row("the same over a new TLS connection", anew * 1000, "CPU-ms", note="as transformers' own callback does"),
        Row("operator's CPU for a write of progress", (loud - quiet) / writes * 1000, "CPU-ms"),
        *_live(share(_LIVE)),
    ]


@contextmanager
def _reporting(pods: int, **settings: str) -> Iterator[tuple[Rig, list[Endpoint]]]:
    """Running jobs whose tokens have been reviewed: that is done at the first report, and every three minutes."""
    with tempfile.TemporaryDirectory() as folder, rig(**settings) as r:
        r.stop_operator()
        r.ask("seed", prefix="a", count=pods, namespace="tenant-a", stage="Running")
        r.start_operator()
        endpoints = _endpoints(r, pods, Path(folder))
        _report(endpoints, 1, keep=False)
        r.calm()
        yield r, endpoints
        for endpoint in endpoints:
            endpoint.close()


def _cost(r: Rig, endpoints: Sequence[Endpoint], keep: bool = True) -> float:
    """Processor time of a report, s."""
    cpu = r.cpu()
    for number in range(_ROUNDS):
        _report(endpoints, 30 + number, keep)
    r.calm()
    return (r.cpu() - cpu) / (len(endpoints) * _ROUNDS)


def _live(jobs: int) -> list[Row]:
    """As it is in the end: every job reports on, by the settings that the operator has where nobody chose others."""
    with _reporting(jobs, progress_interval="10") as (r, endpoints):
        before = r.memory()
        _report(endpoints, 2)
        r.calm()
        connection = (r.memory() - before) * 1024 / jobs
        cpu, begun = r.cpu(), time.monotonic()
        delays = _keep_reporting(endpoints, begun + _SECONDS)
        used = (r.cpu() - cpu) / (time.monotonic() - begun)
        sent = len(delays) / (time.monotonic() - begun)
        held = r.memory()
    name = f"{jobs} live jobs that report every {_EVERY:.0f} s"
    return [
        Row(f"{name}: operator's CPU", used * 100, "% of a core", note=f"{sent:.0f} reports a second came"),
        Row(f"{name}: report → answer p99", p99(delays) * 1000, "ms", at_most(250)),
        Row(f"{name}: memory", held, "MiB"),
        Row("memory of a kept connection", connection, "KiB"),
    ]


def _keep_reporting(endpoints: Sequence[Endpoint], until: float) -> list[float]:
    """Every endpoint reports at its time; the answer is how long each report took, s."""
    begun, delays, lock = time.monotonic(), [], threading.Lock()

    def some(first: int) -> None:
        turn, step = 0, _EVERY / len(endpoints)
        while True:
            for number in range(first, len(endpoints), _AT_ONCE):
                due = begun + turn * _EVERY + number * step
                if due >= until:
                    return
                time.sleep(max(0.0, due - time.monotonic()))
                sent = time.monotonic()
                endpoints[number].post(_status(10 + turn))
                with lock:
                    delays.append(time.monotonic() - sent)
            turn += 1

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        list(threads.map(some, range(_AT_ONCE)))
    return delays


def _endpoints(r: Rig, pods: int, folder: Path) -> list[Endpoint]:
    authority = folder / "ca.crt"
    authority.write_text(r.ask("authority"))
    found = []
    for number, token in enumerate(r.ask("tokens", prefix="a", count=pods)):
        file = folder / str(number)
        file.write_text(token)
        found.append(Endpoint(r.operator.reports_url, file, authority))
    return found


def _report(endpoints: Sequence[Endpoint], percent: int, keep: bool = True) -> None:
    def post(endpoint: Endpoint) -> None:
        endpoint.post(_status(percent))
        if not keep:
            endpoint.close()

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        list(threads.map(post, endpoints))


def _status(percent: int) -> TrainerStatus:
    metrics = {"current_step": str(percent), "total_steps": "100", "loss": "1.25", "tokens_per_second": "900"}
    said = {
        "lastUpdatedTime": datetime.now(UTC).isoformat(),
        "progressPercentage": percent,
        "estimatedRemainingSeconds": 100 - percent,
        "metrics": [{"name": name, "value": value} for name, value in metrics.items()],
    }
    return Report.model_validate({"trainerStatus": said}).trainer_status
