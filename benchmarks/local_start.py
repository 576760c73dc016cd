"""How long local mode takes to be ready, imports excluded, and what the operator's process needs.

    python benchmarks/local_start.py [runs]

Prints one row a run: seconds of wall clock until the operator is ready (leader, caches full), and the resident memory
of the operator's process then.
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path

import psutil

from finetune_local.cluster import LocalCluster

GOAL_SECONDS, GOAL_MIB = 2.0, 120.0


async def start_once() -> tuple[float, float]:
    """(seconds until ready, MiB of the operator)."""
    with tempfile.TemporaryDirectory() as directory:
        begun = time.perf_counter()
        async with LocalCluster(Path(directory)):
            seconds = time.perf_counter() - begun
            return seconds, operator_memory()


def operator_memory() -> float:
    """Resident MiB of the operator started by this process."""
    children = psutil.Process().children(recursive=True)
    [operator] = [child for child in children if "finetune_operator" in child.cmdline()]
    return float(operator.memory_info().rss) / 2**20


def main() -> int:
    """Runs and prints; the answer is 1 where a goal is missed by the best run, which a busy machine disturbs least."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print(f"{'run':>4} {'ready, s':>9} {'operator, MiB':>14}   goals: {GOAL_SECONDS} s, {GOAL_MIB:.0f} MiB")
    measured = []
    for run in range(1, runs + 1):
        measured.append(asyncio.run(start_once()))
        print(f"{run:>4} {measured[-1][0]:>9.2f} {measured[-1][1]:>14.0f}")
    best, memory = min(seconds for seconds, _ in measured), max(mib for _, mib in measured)
    print(f"best {best:.2f} s, most {memory:.0f} MiB")
    return int(best > GOAL_SECONDS or memory > GOAL_MIB)


if __name__ == "__main__":
    sys.exit(main())
