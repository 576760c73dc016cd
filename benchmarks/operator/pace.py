"""FineTuneJobs that come one after the other, and live to their end."""

from benchmarks.operator import share
from benchmarks.operator.rig import p99, rig
from benchmarks.row import Row, at_most

_JOBS, _A_SECOND = 300, 10


def rows() -> list[Row]:
    """From the moment that the FineTuneJob is in the API server until its Job is."""
    count = share(_JOBS)
    with rig() as r:
        r.ask("lives", seconds=2)
        cpu = r.cpu()
        r.ask("submit", prefix="a", count=count, namespace="tenant-a", per_second=_A_SECOND)
        r.ask("wait", prefix="a", count=count, phase="Succeeded", seconds=120)
        spent = r.cpu() - cpu
        delays = r.delays("a")
    return [
        Row(f"{_A_SECOND} creates a second: FineTuneJob → Job p99", p99(delays), "s", at_most(1)),
        Row(f"{_A_SECOND} creates a second: median", sorted(delays)[len(delays) // 2], "s"),
        Row("operator's CPU at 10 whole lives a second", spent / (count / _A_SECOND), "cores"),
    ]
