"""Progress of training pods: what a report costs, and what a write of progress does."""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.operator import share
from benchmarks.operator.rig import Rig, rig
from benchmarks.row import Row
from finetune_api.run import Report, TrainerStatus
from finetune_trainer.report import Endpoint

_PODS, _ROUNDS, _AT_ONCE = 100, 5, 4
_EVERY = 5.0
"""Seconds between two reports of our trainer, each on a connection of its own."""


def rows() -> list[Row]:
    """First reports that cause no write, then such that all do."""
    quiet, _ = _measured(progress_interval="3600")
    loud, writes = _measured(progress_interval="0", progress_writes="1000000")
    return [
        Row("operator's CPU for a report", quiet * 1000, "CPU-ms", note="with a new TLS connection each"),
        Row("operator's CPU for a write of progress", (loud - quiet) / writes * 1000, "CPU-ms"),
        Row(
            "live jobs whose reports fill one core",
            _EVERY / quiet,
            "jobs",
            note=f"at one report in {_EVERY:.0f} s each",
        ),
    ]


def _measured(**settings: str) -> tuple[float, float]:
    """Processor time and status writes for each report."""
    pods = min(_PODS, share(_PODS))
    with tempfile.TemporaryDirectory() as folder, rig(**settings) as r:
        r.stop_operator()
        r.ask("seed", prefix="a", count=pods, namespace="tenant-a", stage="Running")
        r.start_operator()
        endpoints = _endpoints(r, pods, Path(folder))
        _report(endpoints, 1)  # tokens are reviewed at the first report, and every three minutes
        r.calm()
        cpu, begun = r.cpu(), r.calls()[0]
        for number in range(_ROUNDS):
            _report(endpoints, 10 + number)
        r.calm()
        spent = r.cpu() - cpu
        writes = sum(call.resource == "finetunejobs/status" for call in r.calls(begun)[1])
    return spent / (pods * _ROUNDS), writes / (pods * _ROUNDS)


def _endpoints(r: Rig, pods: int, folder: Path) -> list[Endpoint]:
    authority = folder / "ca.crt"
    authority.write_text(r.ask("authority"))
    found = []
    for number, token in enumerate(r.ask("tokens", prefix="a", count=pods)):
        file = folder / str(number)
        file.write_text(token)
        found.append(Endpoint(r.operator.reports_url, file, authority))
    return found


def _report(endpoints: list[Endpoint], percent: int) -> None:
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        list(threads.map(lambda endpoint: endpoint.post(_status(percent)), endpoints))


def _status(percent: int) -> TrainerStatus:
    metrics = {"current_step": str(percent), "total_steps": "100", "loss": "1.25", "tokens_per_second": "900"}
    said = {
        "lastUpdatedTime": datetime.now(UTC).isoformat(),
        "progressPercentage": percent,
        "estimatedRemainingSeconds": 100 - percent,
        "metrics": [{"name": name, "value": value} for name, value in metrics.items()],
    }
    return Report.model_validate({"trainerStatus": said}).trainer_status
