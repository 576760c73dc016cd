"""Whether a pod fits on the node, and what the scheduler says if not."""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from finetune_local.quantities import Quantity

Object = dict[str, Any]

_NOT_ELSEWHERE = "no new claims to deallocate, preemption: 0/1 nodes are available: 1 {why} for {what}."


def machine_capacity() -> dict[str, str]:
    """CPUs and memory of this machine, as Kubernetes quantities."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cpu": str(cpus), "memory": f"{memory // 1024}Ki", "pods": "110"}


def amounts(quantities: Mapping[str, Any]) -> dict[str, Decimal]:
    """Quantities as numbers: CPUs, bytes, devices."""
    return {name: Quantity.of(quantity).amount for name, quantity in quantities.items()}


def requests(pod: Object) -> dict[str, Decimal]:
    """What a pod asks for; a limit without a request is one."""
    total: defaultdict[str, Decimal] = defaultdict(Decimal)
    for container in pod["spec"]["containers"]:
        resources = container.get("resources") or {}
        wanted = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
        for name, amount in amounts(wanted).items():
            total[name] += amount
    return {**total, "pods": Decimal(1)}


def obstacle(pod: Object, node: Object, others: Iterable[Object]) -> str | None:
    """Why the pod cannot run beside the others on the node, in the scheduler's words; None if it can."""
    selector = pod["spec"].get("nodeSelector") or {}
    labels = node["metadata"].get("labels") or {}
    if any(labels.get(key) != value for key, value in selector.items()):
        return _sentence(["1 node(s) didn't match Pod's node affinity/selector"], never=True)
    capacity = amounts(node["status"]["allocatable"])
    wanted = requests(pod)
    taken: defaultdict[str, Decimal] = defaultdict(Decimal)
    for other in others:
        for name, amount in requests(other).items():
            taken[name] += amount
    short = [
        name for name, amount in wanted.items() if amount and amount + taken[name] > capacity.get(name, Decimal(0))
    ]
    if not short:
        return None
    never = any(wanted[name] > capacity.get(name, Decimal(0)) for name in short)
    return _sentence([f"1 Insufficient {name}" for name in sorted(short)], never)


def _sentence(reasons: list[str], never: bool) -> str:
    why, what = (
        ("Preemption is not helpful", "scheduling") if never else ("No preemption victims found", "incoming pod")
    )
    return f"0/1 nodes are available: {', '.join(reasons)}. {_NOT_ELSEWHERE.format(why=why, what=what)}"
