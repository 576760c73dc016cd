"""The operator at scale, beside the floor of plain Jobs: writes, processor time, delays, memory, restart, fairness.

    make bench-operator                             all of it, some minutes
    python -m benchmarks.operator lifecycle         some sections
    python -m benchmarks.operator --list            the sections there are

Prints a table, writes ``build/bench/operator.json`` and exits with 1 if a goal is missed. How to read it, and figures
of a run: ``docs/scale.md``.

Three processes: the operator as it is installed, with its own rights; the embedded API server, with a cluster that
costs next to nothing (``kubemark.py``); and this one, which tells the server what happens (``rig.py``). Processor time
is the operator's own, so a slow API server lengthens what is measured in wall time and nothing else.
``FINETUNE_BENCH_SHARE`` (default 1) makes every count smaller, to try a section out; goals are meant for the whole.
"""

import os

SECTIONS = {
    "lifecycle": "writes and reads of a successful life, and of jobs that nothing happens to",
    "burst": "1,000 FineTuneJobs at once, beside the floor; and another tenant's in the midst of them",
    "pace": "10 creates a second: from FineTuneJob to Job",
    "live": "1,000 and 5,000 live jobs: memory, and from a pod's end to the decision",
    "reports": "what progress of training pods costs",
    "restart": "a new operator over 5,000 jobs that have ended",
    "churn": "10,000 jobs created and deleted: memory",
}
"""Name on the command line → what it measures. The module has the section's name."""


def share(count: int) -> int:
    """So many, or fewer where a section is only tried out."""
    return max(10, round(count * float(os.environ.get("FINETUNE_BENCH_SHARE", "1"))))
