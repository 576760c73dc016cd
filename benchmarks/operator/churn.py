"""Jobs that come and go: what is forgotten with them."""

from benchmarks.operator import share
from benchmarks.operator.rig import rig
from benchmarks.row import Row, at_most

_CYCLES, _AT_ONCE = 10_000, 250
_GROWTH = 1.0
"""MiB for 1,000 jobs that is still no slope: one kept KiB a job would show as that."""


def rows() -> list[Row]:
    """The slope is that of the second half: the first one fills what Python's allocator keeps."""
    cycles = share(_CYCLES)
    batch = min(_AT_ONCE, cycles // 4)
    held = []
    with rig() as r:
        r.ask("lives", seconds=0.2)
        for number in range(cycles // batch):
            prefix = f"{'abcdefghij'[number % 10]}{number}-"
            r.ask("submit", prefix=prefix, count=batch, namespace="tenant-a")
            r.ask("wait", prefix=prefix, count=batch, phase="Succeeded", seconds=60)
            r.ask("delete", prefix=prefix, count=batch)
            held.append(r.memory())
        r.calm()
    slope = _slope(held[len(held) // 2 :]) * 1000 / batch
    note = f"{held[0]:.0f} MiB after {batch}, {held[len(held) // 2]:.0f} after half, {held[-1]:.0f} at the end"
    return [Row(f"{cycles} jobs created, done and deleted: growth", slope, "MiB/1,000", at_most(_GROWTH), note)]


def _slope(values: list[float]) -> float:
    """Of the line through the values (least squares), by one step."""
    mean_x, mean_y = (len(values) - 1) / 2, sum(values) / len(values)
    above = sum((x - mean_x) * (y - mean_y) for x, y in enumerate(values))
    return above / (sum((x - mean_x) ** 2 for x in range(len(values))) or 1)
