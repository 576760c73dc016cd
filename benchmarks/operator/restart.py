"""An operator that starts over thousands of jobs that need nothing any more."""

from benchmarks.operator import share
from benchmarks.operator.rig import rig
from benchmarks.row import Row, at_most

_JOBS = 5000


def rows() -> list[Row]:
    """Jobs and pods of the ended jobs are still there."""
    count = share(_JOBS)
    with rig() as r:
        r.stop_operator()
        r.ask("seed", prefix="a", count=count, namespace="tenant-a", stage="Succeeded")
        begun = r.calls()[0]
        ready = r.start_operator()
        r.calm()
        _, calls = r.calls(begun)
        spent, memory = r.cpu(), r.memory()
    return [
        Row(f"restart over {count} settled jobs: writes", float(sum(c.writes for c in calls)), "calls", at_most(0)),
        Row(f"restart over {count} settled jobs: calls", float(len(calls)), "calls", at_most(20), _told(calls)),
        Row(f"restart over {count} settled jobs: ready", ready, "s", at_most(10)),
        Row(f"restart over {count} settled jobs: CPU until idle", spent, "CPU-s", note="Python's start is 2 of them"),
        Row(f"restart over {count} settled jobs: memory", memory, "MiB"),
    ]


def _told(calls: list) -> str:
    kinds = [f"{call.verb} {call.resource or 'discovery'}" for call in calls]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
