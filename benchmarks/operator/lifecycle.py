"""What a FineTuneJob costs the API server from its creation to its success, and while nothing happens to it."""

import time

from benchmarks.operator import share
from benchmarks.operator.rig import Call, rig
from benchmarks.row import Row, at_most

_JOBS = 200
_RUNS = 0.5
"""Seconds that each pod runs: long enough to be seen running, or the write in the middle would be spared."""
_QUIET = 15.0
"""Longer than any period after which the operator looks at a job again by itself (30 s only where labels are lost)."""


def rows() -> list[Row]:
    """Per job."""
    count = share(_JOBS)
    with rig() as r:
        r.ask("lives", seconds=_RUNS)
        begun, cpu = r.calls()[0], r.cpu()
        r.ask("submit", prefix="a", count=count, namespace="tenant-a", per_second=50)
        r.ask("wait", prefix="a", count=count, phase="Succeeded", seconds=120)
        r.calm()
        spent = r.cpu() - cpu
        _, calls = r.calls(begun)
        r.ask("lives", seconds=None)
        r.ask("submit", prefix="b", count=count, namespace="tenant-a")
        r.ask("wait", prefix="b", count=count, phase="Running", seconds=120)
        r.calm()
        begun = r.calls()[0]
        time.sleep(_QUIET)
        _, idle = r.calls(begun)
    looks = [call for call in calls if call.looks]
    return [
        Row("writes a successful life, Events excluded", _each(calls, "writes", count), "writes", at_most(4)),
        Row("GETs a life", len(looks) / count, "calls", note="one, just before the Job is created"),
        Row("Events a life", sum(c.resource == "events" for c in calls) / count, "writes"),
        Row(f"reads of {count} running jobs in {_QUIET:.0f} s", _each(idle, "looks"), "calls", at_most(0)),
        Row(f"writes of {count} running jobs in {_QUIET:.0f} s", _each(idle, "writes"), "calls", at_most(0)),
        Row("operator's CPU a life", spent / count * 1000, "CPU-ms"),
    ]


def _each(calls: list[Call], what: str, count: int = 1) -> float:
    return sum(getattr(call, what) for call in calls) / count
