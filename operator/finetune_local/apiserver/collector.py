"""The garbage collector: dependents of owners that are gone, contents of namespaces and of definitions."""

from __future__ import annotations

from .beside import Beside
from .calls import Call
from .crds import CLEANUP
from .deletes import FOREGROUND, ORPHAN, Deleter
from .resources import CRDS, NAMESPACES, GroupResource, Registry
from .store import Change, Object, Store, clone
from .writes import may_go

_Id = tuple[GroupResource, str, str]


class Collector:
    """Collects what nobody needs any more; `beside` does so after every write that may leave something."""

    def __init__(self, store: Store, registry: Registry, deleter: Deleter) -> None:
        self._store = store
        self._registry = registry
        self._deleter = deleter
        self._live: dict[str, Object] = {}
        self.beside = Beside(store, self._heard, self.collect, "garbage collector")

    def _heard(self, resource: GroupResource, change: Change) -> bool:
        obj, meta = change.object, change.object["metadata"]
        owners = meta.get("ownerReferences") or []
        before = (change.previous["metadata"].get("ownerReferences") or []) if change.previous else []
        if change.type == "DELETED" or "deletionTimestamp" in meta:
            self._live.pop(meta["uid"], None)
            return True
        self._live[meta["uid"]] = obj
        return owners != before and not all(self._lives(one, meta.get("namespace", "")) for one in owners)

    def _lives(self, reference: dict[str, str], namespace: str) -> bool:
        """Whether an owner is there to stay: a pass over everything for each new child would find nothing."""
        owner = self._live.get(reference["uid"])
        return owner is not None and _is_meant(reference, owner, namespace)

    def collect(self) -> None:
        """One pass."""
        objects = list(self._store.everything())
        owners = {obj["metadata"]["uid"]: obj for _, obj in objects}
        dependents: dict[str, list[_Id]] = {}
        for resource, obj in objects:
            meta = obj["metadata"]
            for owner in meta.get("ownerReferences") or []:
                dependents.setdefault(owner["uid"], []).append((resource, meta.get("namespace", ""), meta["name"]))
        for resource, obj in objects:
            meta = obj["metadata"]
            if meta.get("ownerReferences"):
                self._collect_dependent(resource, obj, owners)
            if "deletionTimestamp" in meta:
                self._help_deletion(resource, obj, dependents.get(meta["uid"], []))

    # Dependents ----------------------------------------------------------------------------------------

    def _collect_dependent(self, resource: GroupResource, obj: Object, owners: dict[str, Object]) -> None:
        """Deletes an object none of whose owners is there (or remains, in a foreground deletion)."""
        meta = obj["metadata"]
        live, waiting = [], False
        for reference in meta["ownerReferences"]:
            owner = owners.get(reference["uid"])
            if owner is None or not _is_meant(reference, owner, meta.get("namespace", "")):
                continue
            if FOREGROUND in owner["metadata"].get("finalizers", []) and "deletionTimestamp" in owner["metadata"]:
                waiting = True
                continue
            live.append(reference)
        if not live:
            if "deletionTimestamp" not in meta:
                self._delete(resource, obj, "Foreground" if waiting else "Background")
        elif len(live) < len(meta["ownerReferences"]) and not waiting:
            kept = clone(obj)
            kept["metadata"]["ownerReferences"] = live
            self._store.put(resource, kept)

    def _delete(self, resource: GroupResource, obj: Object, policy: str) -> None:
        known = self._registry.of_storage(resource)
        meta = obj["metadata"]
        if known is None or self._store.get(resource, meta.get("namespace", ""), meta["name"]) is None:
            return
        call = Call(known, meta.get("namespace", ""), meta["name"])
        self._deleter.delete(call, {"propagationPolicy": policy})

    # Objects being deleted -----------------------------------------------------------------------------

    def _help_deletion(self, resource: GroupResource, obj: Object, dependents: list[_Id]) -> None:
        meta = obj["metadata"]
        finalizers = meta.get("finalizers") or []
        if resource == NAMESPACES:
            self._empty_namespace(obj)
        if resource == CRDS and CLEANUP in finalizers:
            self._empty_definition(obj)
        if ORPHAN in finalizers:
            for dependent in dependents:
                self._set_free(dependent, meta["uid"])
            self._drop_finalizer(resource, obj, ORPHAN)
        if FOREGROUND in finalizers and not any(self._blocks(one, meta["uid"]) for one in dependents):
            self._drop_finalizer(resource, obj, FOREGROUND)

    def _blocks(self, dependent: _Id, owner: str) -> bool:
        found = self._store.get(*dependent)
        return found is not None and any(
            reference["uid"] == owner and reference.get("blockOwnerDeletion")
            for reference in found["metadata"].get("ownerReferences") or []
        )

    def _set_free(self, dependent: _Id, owner: str) -> None:
        found = self._store.get(*dependent)
        if found is None:
            return
        kept = clone(found)
        meta = kept["metadata"]
        meta["ownerReferences"] = [one for one in meta["ownerReferences"] if one["uid"] != owner]
        if not meta["ownerReferences"]:
            del meta["ownerReferences"]
        self._store.put(dependent[0], kept)

    def _drop_finalizer(self, resource: GroupResource, obj: Object, finalizer: str) -> None:
        meta = obj["metadata"]
        found = self._store.get(resource, meta.get("namespace", ""), meta["name"])
        if found is None or finalizer not in found["metadata"].get("finalizers", []):
            return
        kept = clone(found)
        rest = [one for one in kept["metadata"]["finalizers"] if one != finalizer]
        kept["metadata"]["finalizers"] = rest
        if not rest:
            del kept["metadata"]["finalizers"]
        if may_go(kept):
            self._store.remove(resource, kept)
        else:
            self._store.put(resource, kept)

    def _empty_namespace(self, namespace: Object) -> None:
        name = namespace["metadata"]["name"]
        content = [(r, o) for r, o in self._store.everything() if o["metadata"].get("namespace") == name]
        for resource, obj in content:
            if "deletionTimestamp" not in obj["metadata"]:
                self._delete(resource, obj, "Background")
        remains = any(o["metadata"].get("namespace") == name for _, o in self._store.everything())
        if not remains and self._store.get(NAMESPACES, "", name) and not namespace["metadata"].get("finalizers"):
            self._store.remove(NAMESPACES, namespace)

    def _empty_definition(self, crd: Object) -> None:
        resource = (crd["spec"]["group"], crd["spec"]["names"]["plural"])
        for obj in self._store.list(resource):
            if "deletionTimestamp" not in obj["metadata"]:
                self._delete(resource, obj, "Background")
        if not self._store.list(resource):
            self._drop_finalizer(CRDS, crd, CLEANUP)


def _is_meant(reference: dict[str, str], owner: Object, namespace: str) -> bool:
    """Whether the object with the owner's UID is the one named: same kind and name, same namespace or none."""
    meta = owner["metadata"]
    same = owner["kind"] == reference["kind"] and meta["name"] == reference["name"]
    return same and bool(meta.get("namespace", namespace) == namespace)
