"""Deletion: grace periods, finalizers, what becomes of dependents, and eviction of pods."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from . import errors
from .calls import Call
from .crds import CLEANUP
from .errors import ApiError
from .metadata import now
from .resources import CRDS, JOBS, NAMESPACES, PODS, Resource
from .store import Object, Store, clone
from .writes import may_go

FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"
_POLICIES = ("Background", "Foreground", "Orphan")
_JOB_WARNING = (
    "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or "
    "set propagationPolicy=Orphan to suppress this warning"
)


class Deleter:
    def __init__(self, store: Store) -> None:
        self._store = store

    def delete(self, call: Call, options: dict[str, Any]) -> tuple[Object, bool]:
        """Deletes, or begins to. Returns the object's last state and whether it is gone."""
        resource = call.resource
        old = self._store.get(resource.storage, call.namespace, call.name)
        if old is None:
            raise errors.not_found(call.name, resource.group, resource.plural)
        self._check_preconditions(call, old, options.get("preconditions") or {})
        call.dry_run = call.dry_run or "All" in (options.get("dryRun") or [])
        policy = self._policy(call, options)
        obj = clone(old)
        meta = obj["metadata"]
        self._add_finalizer(meta, policy, resource)
        grace = self._grace(resource, obj, options)
        if "deletionTimestamp" not in meta or grace < meta.get("deletionGracePeriodSeconds", 0):
            if "deletionTimestamp" not in meta and resource.has_generation:
                meta["generation"] = meta.get("generation", 0) + 1
            meta["deletionTimestamp"] = _in_seconds(grace)
            meta["deletionGracePeriodSeconds"] = grace
        if resource.group_resource == NAMESPACES:
            obj["status"] = {**obj.get("status", {}), "phase": "Terminating"}
            meta.pop("deletionGracePeriodSeconds", None)
        return self._store_deletion(call, old, obj)

    def _store_deletion(self, call: Call, old: Object, obj: Object) -> tuple[Object, bool]:
        resource = call.resource
        held = resource.group_resource == NAMESPACES or not may_go(obj)
        if call.dry_run:
            return obj, not held
        if not held:
            return self._store.remove(resource.storage, old), True
        if obj == old:
            return old, False
        return self._store.put(resource.storage, obj), False

    def evict(self, call: Call, options: dict[str, Any]) -> None:
        """The eviction API: marks the pod as disrupted, then deletes it. Knows no disruption budgets."""
        old = self._store.get(PODS, call.namespace, call.name)
        if old is None:
            raise errors.not_found(call.name, "", "pods")
        pod = clone(old)
        status = pod.setdefault("status", {})
        if status.get("phase") not in ("Succeeded", "Failed"):
            mark = {
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "EvictionByEvictionAPI",
                "message": "Eviction API: evicting",
                "lastProbeTime": None,
                "lastTransitionTime": now(),
            }
            others = [one for one in status.get("conditions") or [] if one["type"] != mark["type"]]
            status["conditions"] = [*others, mark]
            if not call.dry_run:
                self._store.put(PODS, pod)
        self.delete(call, options.get("deleteOptions") or {})

    @staticmethod
    def _check_preconditions(call: Call, old: Object, wanted: dict[str, Any]) -> None:
        for key, told in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
            actual = old["metadata"][key]
            if wanted.get(key) not in (None, actual):
                why = f"Precondition failed: {told} in precondition: {wanted[key]}, {told} in object meta: {actual}"
                raise errors.conflict(call.name, call.resource.group, call.resource.plural, why)

    @staticmethod
    def _policy(call: Call, options: dict[str, Any]) -> str:
        """The propagation asked for; Jobs orphan their pods by default, all others collect them."""
        policy = options.get("propagationPolicy")
        if policy is None and options.get("orphanDependents") is not None:
            policy = "Orphan" if options["orphanDependents"] else "Background"
        if policy is None and call.resource.group_resource == JOBS:
            call.warnings.append(_JOB_WARNING)
            policy = "Orphan"
        if policy not in (None, *_POLICIES):
            fault = errors.not_supported("propagationPolicy", policy, [*_POLICIES, "nil"])
            raise ApiError(422, "Invalid", f"DeleteOptions is invalid: {fault.field}: {fault.message}")
        return policy or "Background"

    @staticmethod
    def _add_finalizer(meta: dict[str, Any], policy: str, resource: Resource) -> None:
        finalizer = {"Foreground": FOREGROUND, "Orphan": ORPHAN}.get(policy)
        if resource.group_resource == CRDS:
            finalizer = CLEANUP
        if resource.group_resource == NAMESPACES or finalizer is None:
            return
        if finalizer not in meta.get("finalizers", []):
            meta["finalizers"] = [*meta.get("finalizers", []), finalizer]

    @staticmethod
    def _grace(resource: Resource, obj: Object, options: dict[str, Any]) -> int:
        """Seconds that a pod on a node gets; everything else goes at once."""
        if resource.group_resource != PODS:
            return 0
        finished = (obj.get("status") or {}).get("phase") in ("Succeeded", "Failed")
        if not obj["spec"].get("nodeName") or finished:
            return 0
        asked = options.get("gracePeriodSeconds")
        default = int(obj["spec"].get("terminationGracePeriodSeconds", 30))
        return default if asked is None else max(int(asked), 0)


def _in_seconds(seconds: int) -> str:
    moment = datetime.now(UTC) + timedelta(seconds=seconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
