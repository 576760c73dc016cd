"""Create, replace and patch: what happens to an object between the request's body and the store."""

from __future__ import annotations

from typing import Any

from . import cel, crds, errors, events, kind_defaults, kind_faults, managed, metadata, schema
from .builtin_schemas import definition
from .calls import Call
from .decode import check_kind, normalise, parse_json, parse_yaml, tell_unknown, tell_unknown_in_patch
from .errors import MODIFIED, ApiError
from .patch import json_patch, merge_patch, strategic_merge
from .quotas import Quotas
from .resources import CRDS, NAMESPACES, Registry, Resource
from .store import Object, Store, clone

APPLY = "application/apply-patch+yaml"
JSON_PATCH, MERGE_PATCH = "application/json-patch+json", "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
_CREATE_ATTEMPTS = 8
_KEPT = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink")


class Writer:
    """Writes to the store by the rules of the API. Everything here runs without a pause in the event loop."""

    def __init__(self, store: Store, registry: Registry, quotas: Quotas) -> None:
        self._store = store
        self._registry = registry
        self._quotas = quotas

    # The three ways in ---------------------------------------------------------------------------------

    def create(self, call: Call, body: Any) -> Object:
        resource = call.resource
        self._check_namespace(call, body)
        check_kind(body, resource)
        unknown = normalise(body, resource)
        tell_unknown(unknown, call.validation, resource, call.warnings)
        obj = events.to_stored(resource, body)
        return self._insert(call, obj)

    def replace(self, call: Call, body: Any) -> Object:
        resource = call.resource
        check_kind(body, resource)
        unknown = normalise(body, resource)
        tell_unknown(unknown, call.validation, resource, call.warnings)
        obj = events.to_stored(resource, body)
        old = self._existing(call)
        if resource.is_custom and not obj["metadata"].get("resourceVersion"):
            fault = errors.invalid_value("metadata.resourceVersion", 0, "must be specified for an update")
            raise errors.invalid(call.name, resource.group, resource.kind, [fault])
        return self._store_update(call, old, obj)

    def patch(self, call: Call, media_type: str, body: bytes) -> tuple[Object, bool]:
        """The patched object, and whether the patch (an apply) created it."""
        resource = call.resource
        if media_type not in self.patch_types(resource):
            raise errors.unsupported_media_type(self.patch_types(resource))
        if media_type == APPLY:
            return self._apply(call, parse_yaml(body, resource.kind))
        patch = parse_json(body, resource.kind)
        old = self._existing(call)
        before = events.to_shown(resource, old)
        obj = self._patched(before, patch, media_type, resource)
        check_kind(obj, resource)
        unknown = normalise(obj, resource)
        tell_unknown_in_patch(unknown, call.validation, obj, call.warnings)
        return self._store_update(call, old, events.to_stored(resource, obj)), False

    @staticmethod
    def patch_types(resource: Resource) -> tuple[str, ...]:
        strategic = () if resource.is_custom else (STRATEGIC,)
        return (JSON_PATCH, MERGE_PATCH, *strategic, APPLY)

    @staticmethod
    def _patched(before: Object, patch: Any, media_type: str, resource: Resource) -> Any:
        if media_type == JSON_PATCH:
            return json_patch(before, patch)
        if not isinstance(patch, dict):
            raise errors.bad_request("a merge patch must be an object")
        if media_type == MERGE_PATCH:
            return clone(merge_patch(before, patch))
        return clone(strategic_merge(before, patch, definition(resource.model)))

    def _apply(self, call: Call, body: Any) -> tuple[Object, bool]:
        resource = call.resource
        self._check_namespace(call, body)
        check_kind(body, resource)
        if body["metadata"].get("managedFields"):
            raise errors.bad_request("metadata.managedFields must be nil")
        body["metadata"].setdefault("name", call.name)
        unknown = normalise(body, resource)
        tell_unknown(unknown, call.validation, resource, call.warnings)
        applied = events.to_stored(resource, body)
        old = self._store.get(resource.storage, call.namespace, call.name)
        merged = managed.apply(old, applied, call)
        if old is None:
            return self._insert(call, merged, is_apply=True), True
        return self._store_update(call, old, merged, is_apply=True), False

    # Into the store ------------------------------------------------------------------------------------

    def _insert(self, call: Call, obj: Object, is_apply: bool = False) -> Object:
        resource, meta = call.resource, obj["metadata"]
        self._check_identity(call, meta)
        prefix = "" if meta.get("name") else meta.get("generateName", "")
        if meta.get("resourceVersion"):
            raise errors.bad_request("resourceVersion should not be set on objects to be created")
        for key in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"):
            meta.pop(key, None)
        meta["uid"], meta["creationTimestamp"] = metadata.new_uid(), metadata.now()
        if resource.has_generation:
            meta["generation"] = 1
        if resource.has_status:
            obj.pop("status", None)
        if prefix:
            meta["name"] = self._free_name(call, prefix)
        self._fill_defaults(resource, obj)
        if not is_apply:
            managed.track({}, obj, call)
        if not resource.is_custom:
            kind_defaults.prepare_create(resource.kind, obj)
        if resource.group_resource == CRDS:
            crds.prepare(obj)
        self._validate(resource, obj, None)
        self._quotas.admit(call, obj)
        if self._store.get(resource.storage, call.namespace, meta["name"]) is not None:
            raise errors.already_exists(meta["name"], resource.group, resource.plural)
        return self._put(call, obj)

    def _free_name(self, call: Call, prefix: str) -> str:
        for _ in range(_CREATE_ATTEMPTS):
            name = metadata.generated_name(prefix)
            if self._store.get(call.resource.storage, call.namespace, name) is None:
                return name
        raise errors.already_exists(name, call.resource.group, call.resource.plural)

    def _store_update(self, call: Call, old: Object, obj: Object, is_apply: bool = False) -> Object:
        resource, meta, before = call.resource, obj["metadata"], old["metadata"]
        self._check_identity(call, meta)
        self._check_preconditions(call, old, meta)
        for key in _KEPT:
            if key in before:
                meta[key] = before[key]
            else:
                meta.pop(key, None)
        obj = self._separate_status(call, old, obj)
        self._fill_defaults(resource, obj)
        self._validate(resource, obj, old)
        self._check_finalizers(call, old, obj)
        obj["metadata"]["resourceVersion"] = before["resourceVersion"]
        if resource.has_generation and _specified(obj) != _specified(old):
            obj["metadata"]["generation"] = before.get("generation", 0) + 1
        if not is_apply:
            managed.track(old, obj, call)
        if obj == old:
            return old
        if "deletionTimestamp" in obj["metadata"] and may_go(obj):
            return obj if call.dry_run else self._finish_deletion(resource, obj)
        return self._put(call, obj)

    def _finish_deletion(self, resource: Resource, obj: Object) -> Object:
        """The last finalizer is gone: so is the object. What is answered is what was written last."""
        self._store.remove(resource.storage, obj)
        return obj

    def _put(self, call: Call, obj: Object) -> Object:
        return obj if call.dry_run else self._store.put(call.resource.storage, obj)

    # Checks --------------------------------------------------------------------------------------------

    def _existing(self, call: Call) -> Object:
        found = self._store.get(call.resource.storage, call.namespace, call.name)
        if found is None:
            raise errors.not_found(call.name, call.resource.group, call.resource.plural)
        return found

    def _check_namespace(self, call: Call, body: Any) -> None:
        """Nothing can be created in a namespace that is not there or is going."""
        if not call.resource.namespaced:
            return
        namespace = self._store.get(NAMESPACES, "", call.namespace)
        if namespace is None:
            raise errors.not_found(call.namespace, "", "namespaces")
        if "deletionTimestamp" in namespace["metadata"]:
            name = (body.get("metadata") or {}).get("name", "") if isinstance(body, dict) else ""
            told = (
                f'{errors.qualified(call.resource.plural, call.resource.group)} "{name}" is forbidden: unable to '
                f"create new content in namespace {call.namespace} because it is being terminated"
            )
            error = errors.forbidden(told, name, call.resource.group, call.resource.plural)
            why = {"reason": "NamespaceTerminating", "field": "metadata.namespace",
                   "message": f"namespace {call.namespace} is being terminated"}  # fmt: skip
            raise ApiError(error.code, error.reason, told, {**(error.details or {}), "causes": [why]})

    @staticmethod
    def _check_identity(call: Call, meta: dict[str, Any]) -> None:
        if call.resource.namespaced:
            if meta.setdefault("namespace", call.namespace) != call.namespace:
                told = "the namespace of the provided object does not match the namespace sent on the request"
                raise errors.bad_request(told)
        else:
            meta.pop("namespace", None)
        if call.name and meta.setdefault("name", call.name) != call.name:
            told = "the name of the object ({}) does not match the name on the URL ({})"
            raise errors.bad_request(told.format(meta["name"], call.name))

    @staticmethod
    def _check_preconditions(call: Call, old: Object, meta: dict[str, Any]) -> None:
        resource, before = call.resource, old["metadata"]
        if meta.get("uid", before["uid"]) != before["uid"]:
            told = f"Precondition failed: UID in precondition: {meta['uid']}, UID in object meta: {before['uid']}"
            raise errors.conflict(call.name, resource.group, resource.plural, told)
        if meta.get("resourceVersion") not in (None, "", before["resourceVersion"]):
            raise errors.conflict(call.name, resource.group, resource.plural, MODIFIED)

    @staticmethod
    def _check_finalizers(call: Call, old: Object, obj: Object) -> None:
        if "deletionTimestamp" not in old["metadata"]:
            return
        added = set(obj["metadata"].get("finalizers") or ()) - set(old["metadata"].get("finalizers") or ())
        if added:
            told = (
                "Forbidden: no new finalizers can be added if the object is being deleted, found new "
                f"finalizers {sorted(added)}"
            )
            cause = errors.Cause("metadata.finalizers", "FieldValueForbidden", told)
            raise errors.invalid(call.name, call.resource.group, call.resource.kind, [cause])

    @staticmethod
    def _separate_status(call: Call, old: Object, obj: Object) -> Object:
        """`/status` changes nothing but the status; the main resource all but the status."""
        if call.subresource == "status":
            kept: Object = clone(old)
            kept.pop("status", None)
            if "managedFields" in obj["metadata"]:
                kept["metadata"]["managedFields"] = obj["metadata"]["managedFields"]
            return kept | ({"status": obj["status"]} if "status" in obj else {})
        if call.resource.has_status:
            obj.pop("status", None)
            return obj | ({"status": old["status"]} if "status" in old else {})
        return obj

    @staticmethod
    def _fill_defaults(resource: Resource, obj: Object) -> None:
        if resource.is_custom:
            schema.apply_defaults(obj, resource.schema or {})
        else:
            kind_defaults.apply_defaults(resource.kind, obj)

    def _validate(self, resource: Resource, obj: Object, old: Object | None) -> None:
        causes = metadata.validate(obj["metadata"], resource)
        if resource.is_custom:
            causes += _custom_faults(obj, old, resource.schema or {})
        else:
            causes += kind_faults.validate(resource.kind, obj, old)
            if resource.group_resource == CRDS:
                causes += crds.validate(obj, old, self._registry)
        if causes:
            raise errors.invalid(obj["metadata"].get("name", ""), resource.group, resource.kind, causes)


def may_go(obj: Object) -> bool:
    """Whether nothing holds an object that is being deleted: no finalizer, no grace period."""
    meta = obj["metadata"]
    return not meta.get("finalizers") and not meta.get("deletionGracePeriodSeconds")


def _specified(obj: Object) -> Object:
    return {key: value for key, value in obj.items() if key not in ("metadata", "status")}


def _custom_faults(obj: Object, old: Object | None, structure: dict[str, Any]) -> list[errors.Cause]:
    fields = {key: value for key, value in obj.items() if key not in ("apiVersion", "kind", "metadata")}
    causes = schema.validate(fields, structure)
    if not cel.has_rules(structure):
        return causes
    if cel.blocks_rules(causes):
        return [*causes, cel.NOT_CHECKED]
    return causes + cel.check(obj, old, structure)
