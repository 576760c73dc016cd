"""What an object uses of its namespace's quotas, by the names that a ResourceQuota gives such things."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from finetune_local.quantities import Quantity

from .resources import PODS, GroupResource
from .store import Object

Amounts = dict[str, Quantity]

MUST_BE_GIVEN = frozenset(f"{prefix}{name}" for prefix in ("", "requests.", "limits.") for name in ("cpu", "memory"))
"""What each container must name an amount for where a quota limits it."""
_COMPUTE = ("cpu", "memory", "ephemeral-storage")
_BY_PLURAL = ("configmaps", "persistentvolumeclaims", "resourcequotas", "secrets", "services")
"""Kinds of the core group that a quota may also count without `count/`."""
_ONE = Quantity(Decimal(1))


def counts_objects(name: str) -> bool:
    """Whether a quota of this name counts objects, so that parts of one mean nothing."""
    return name.startswith("count/") or name in ("pods", *_BY_PLURAL)


def is_measured(name: str) -> bool:
    """Whether what a quota of this name limits is measured here."""
    prefix, _, resource = name.partition(".")
    if prefix == "requests":
        return resource in _COMPUTE or "/" in resource
    if prefix == "limits":
        return resource in _COMPUTE
    return name in _COMPUTE or counts_objects(name)


def counted_by(name: str) -> GroupResource:
    """The resource whose objects use what a quota of this name limits."""
    if name in _BY_PLURAL:
        return "", name
    if name.startswith("count/"):
        plural, _, group = name.removeprefix("count/").partition(".")
        return group, plural
    return PODS


def usage(resource: GroupResource, obj: Object) -> Amounts:
    """What an object uses."""
    group, plural = resource
    found = {f"count/{plural}.{group}" if group else f"count/{plural}": _ONE}
    if not group and plural in _BY_PLURAL:
        found[plural] = _ONE
    if resource == PODS and not _has_given_up(obj):
        found |= {"pods": _ONE} | _of_pod(obj)
    return found


def of_container(container: Object) -> Amounts:
    """What a container asks for."""
    resources = container.get("resources") or {}
    found: Amounts = {}
    for name, text in (resources.get("requests") or {}).items():
        if name in _COMPUTE:
            found[name] = Quantity.of(text)
        if name in _COMPUTE or "/" in name:
            found[f"requests.{name}"] = Quantity.of(text)
    limits = {name: text for name, text in (resources.get("limits") or {}).items() if name in _COMPUTE}
    return found | {f"limits.{name}": Quantity.of(text) for name, text in limits.items()}


def containers(pod: Object) -> list[Object]:
    return [*pod["spec"]["containers"], *(pod["spec"].get("initContainers") or ())]


def add(amounts: Iterable[Amounts]) -> Amounts:
    """The sum, name by name."""
    total: defaultdict[str, Quantity] = defaultdict(Quantity)
    for one in amounts:
        for name, amount in one.items():
            total[name] += amount
    return dict(total)


def _of_pod(pod: Object) -> Amounts:
    """What its containers ask for together, or one that runs before them alone, where that is more."""
    most = add(map(of_container, pod["spec"]["containers"]))
    for before in map(of_container, pod["spec"].get("initContainers") or ()):
        for name, amount in before.items():
            if name not in most or amount.amount > most[name].amount:
                most[name] = amount
    return most


def _has_given_up(pod: Object) -> bool:
    """Whether a pod has ended, or should have been gone by now: a node that is lost holds nobody's quota."""
    if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return True
    meta = pod["metadata"]
    if "deletionTimestamp" not in meta:
        return False
    grace = timedelta(seconds=meta.get("deletionGracePeriodSeconds", 0))
    return datetime.now(UTC) > datetime.fromisoformat(meta["deletionTimestamp"]) + grace
