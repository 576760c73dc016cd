"""What this machine gives: processors, as far as the container may use them."""

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
