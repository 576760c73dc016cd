"""A thousand FineTuneJobs of one tenant at once, while another tenant creates one now and then; and the floor."""

import json

from benchmarks.operator import share
from benchmarks.operator.rig import Rig, p99, rig
from benchmarks.row import Row, at_most
from benchmarks.trainer.process import measured

_JOBS = 1000
_WORKERS = 8
_OTHERS, _OTHERS_A_SECOND = 20, 4
"""Jobs of the other tenant, so many that the last ones come while the thousand are still being worked on."""


def rows() -> list[Row]:
    """The floor comes last, on the same server."""
    count = share(_JOBS)
    with rig(workers=str(_WORKERS)) as r:
        r.ask("lives", seconds=None, starts=False)
        r.calm()
        cpu, served = r.cpu(), r.ask("cpu")
        begun = r.ask("submit", prefix="a", count=count, namespace="tenant-a")
        ended = r.ask("wait_for_jobs", count=count, seconds=200)
        ours, whole = r.cpu() - cpu, r.cpu() - cpu + r.ask("cpu") - served
        r.calm()
        settled = r.cpu() - cpu
        floor, floor_whole = _floor(r, count)
    return [
        Row(
            f"{count} at once: operator's CPU ÷ floor's client",
            ours / floor["cpu"],
            "×",
            at_most(2),
            "the floor sends 1 request a Job; a FineTuneJob takes 4 (look, Job, status, Event) and 3 events of watches",
        ),
        Row(f"{count} at once: the same with the API server's CPU", whole / floor_whole, "×"),
        Row(f"{count} at once: all Jobs exist", ended - begun, "s", at_most(20)),
        Row("operator's CPU until all Jobs exist", ours, "CPU-s"),
        Row("operator's CPU until it is idle", settled, "CPU-s"),
        Row("floor: client's CPU", floor["cpu"], "CPU-s"),
        Row("floor: wall time", floor["wall"], "s"),
        *_fair(count),
    ]


def _floor(r: Rig, count: int) -> tuple[dict[str, float], float]:
    """What the client took, and the processor time of client and server."""
    asked = {key: r.server[key] for key in ("url", "token", "ca")}
    served = r.ask("cpu")
    given = {"manifest": r.ask("example"), "count": count, "workers": _WORKERS}
    floor = measured("-m", "benchmarks.operator.floor", json.dumps(asked | given))
    return floor, floor["cpu"] + r.ask("cpu") - served


def _fair(count: int) -> list[Row]:
    others = min(_OTHERS, count)
    with rig(workers=str(_WORKERS)) as r:
        r.ask("lives", seconds=None, starts=False)
        r.calm()
        r.ask("submit", prefix="a", count=count, namespace="tenant-a")
        r.ask("submit", prefix="b", count=others, namespace="tenant-b", per_second=_OTHERS_A_SECOND)
        r.ask("wait_for_jobs", count=count + others, seconds=200)
        delays, own = r.delays("b"), r.delays("a")
    note = f"the thousandth job of the first tenant waits {max(own):.1f} s"
    return [Row(f"another tenant's job amid {count}: FineTuneJob → Job p99", p99(delays), "s", at_most(1), note)]
