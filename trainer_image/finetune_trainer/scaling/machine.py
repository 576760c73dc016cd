"""What this machine gives: processors, as far as the container may use them, and memory."""

import ctypes
import gc
import math
import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def cpu_limit(quota: Path = _QUOTA) -> int | None:
    """Processors that the container's CPU limit (cgroup v2) leaves, rounded up; None where there is no limit.

    torch does not look at it: it would start a thread for each processor of the node, and they would stand in each
    other's way.
    """
    try:
        share, period = quota.read_text().split()
        return max(1, math.ceil(int(share) / int(period)))
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return None


def thread_count(default: int, quota: Path = _QUOTA) -> int:
    """Threads to compute with: OMP_NUM_THREADS where it is set (torch's default is then just that), else the limit."""
    limit = cpu_limit(quota)
    return default if limit is None or os.environ.get("OMP_NUM_THREADS") else min(default, limit)


_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
"""Parameters of glibc's mallopt(3). Another libc has no such function, and goes on as it is."""


def keep_freed_memory() -> None:
    """Makes the allocator keep what was freed for the next step, which needs as much again.

    glibc hands large blocks back to the kernel, which fills them with zeros when they are asked for anew: measured, a
    tenth to a fifth of a step's time on a CPU. Threads that come share what is kept, instead of each keeping its own.
    """
    _set_allocator({_ARENA_MAX: 1, _MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 1 << 30, _TOP_PAD: 16 << 20})


def give_back_freed_memory() -> None:
    """The opposite, for whom memory counts more than time; and what lies about unused goes back at once.

    Blocks of half a MiB and more are the kernel's own. Measured on 40 MiB of activations: with 4 MiB instead it takes a
    fifth less time and 36 MiB more.
    """
    _set_allocator({_MMAP_THRESHOLD: 1 << 19, _TRIM_THRESHOLD: 1 << 18, _TOP_PAD: 0})
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    tidy_memory()


def tidy_memory() -> None:
    """Hands back what is free now: another kind of work comes, which needs blocks of other sizes."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def _set_allocator(parameters: dict[int, int]) -> None:
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        for parameter, value in parameters.items():
            mallopt(parameter, value)
