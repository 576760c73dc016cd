"""Many jobs that run: what they hold in memory, and how fast one of them is heard."""

import urllib.request

from benchmarks.operator import share
from benchmarks.operator.rig import Rig, p99, rig
from benchmarks.row import Row, at_most

_SIZES = ((1000, 50, 150), (5000, 250, 250))
"""Live jobs, and the goals: milliseconds from an event to the decision, MiB."""
_ENDS, _A_SECOND = 200, 10
"""Pods that succeed, so many that the second worst of them is p99."""


def rows() -> list[Row]:
    """One operator after the other."""
    return [row for size, delay, memory in _SIZES for row in _rows(share(size), delay, memory)]


def _rows(size: int, delay: float, memory: float) -> list[Row]:
    ends = min(_ENDS, size)
    with rig() as r:
        r.stop_operator()
        r.ask("seed", prefix="a", count=size, namespace="tenant-a", stage="Running")
        r.start_operator()
        r.calm()
        held, cpu = r.memory(), r.cpu()
        scraped = _scrape(r)
        scrape_cpu = r.cpu() - cpu
        begun = r.calls()[0]
        r.ask("finish", prefix="a", count=ends, per_second=_A_SECOND)
        r.ask("wait", prefix="a", count=ends, phase="Succeeded", seconds=60)
        _, calls = r.calls(begun)
        changed = r.ask("times")["changed"]
        most = max(held, r.memory())
    writes = {call.name: call.at for call in reversed(calls) if call.resource == "finetunejobs/status"}
    delays = [(writes[name] - at) * 1000 for name, at in changed.items() if name in writes]
    note = f"from the pod's change in the API server until the status write arrives there; median {_median(delays):.0f}"
    return [
        Row(f"{size} live jobs: event → decision p99", p99(delays), "ms", at_most(delay), note),
        Row(f"{size} live jobs: memory", most, "MiB", at_most(memory)),
        Row(f"{size} live jobs: one scrape of /metrics", scrape_cpu * 1000, "CPU-ms", note=f"{scraped} series"),
    ]


def _scrape(r: Rig) -> int:
    """Series told."""
    with urllib.request.urlopen(f"http://127.0.0.1:{r.operator.metrics_port}/metrics") as answer:
        return sum(not line.startswith(b"#") for line in answer.read().splitlines())


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
