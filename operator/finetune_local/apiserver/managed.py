"""Which manager set which fields: metadata.managedFields, and server-side apply with its conflicts."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from . import fields
from .builtin_schemas import Schema, resolve
from .calls import Call
from .errors import ApiError
from .fields import CONTAINER, Path
from .metadata import now
from .patch import same_json
from .store import Object, clone


@dataclass
class _Manager:
    """One entry of managedFields."""

    name: str
    operation: str
    api_version: str
    subresource: str
    time: str
    fields: set[Path]

    def is_of(self, call: Call, operation: str) -> bool:
        own = (self.name, self.operation, self.api_version, self.subresource)
        return own == (call.manager, operation, call.resource.api_version, call.subresource)

    def entry(self) -> dict[str, Any]:
        told = {
            "manager": self.name, "operation": self.operation, "apiVersion": self.api_version, "time": self.time,
            "fieldsType": "FieldsV1", "fieldsV1": fields.encode(self.fields),
        }  # fmt: skip
        return told | ({"subresource": self.subresource} if self.subresource else {})


def track(old: Object, obj: Object, call: Call) -> None:
    """After an update: what it changed belongs to its manager, and to no other any more. Changes `obj`."""
    schema = fields.schema_of(call.resource)
    managers = _managers(old, obj)
    changed, removed = _difference(fields.paths(old, schema), fields.paths(obj, schema))
    own = next((one for one in managers if one.is_of(call, "Update")), None)
    for manager in managers:
        manager.fields -= removed if manager is own else removed | changed
    if changed and own is None:
        own = _new_manager(call, "Update")
        managers.append(own)
    if own is not None and (changed or removed):
        own.fields |= changed
        own.time = now()
    _write(obj, managers)


def apply(old: Object | None, applied: Object, call: Call) -> Object:
    """Server-side apply: the live object with the applied fields in it, and without those given up.

    Raises 409 where the applied fields would change others' fields and `force` is not set.
    """
    schema = fields.schema_of(call.resource)
    claimed = fields.leaves(fields.paths(applied, schema))
    live = old or {}
    managers = _managers(live, live)
    merged: Object = merge(live, applied, schema)
    own = next((one for one in managers if one.is_of(call, "Apply")), None)
    others = [one for one in managers if one is not own]
    changed, _ = _difference(fields.paths(live, schema), fields.paths(merged, schema))
    conflicts = [(one, taken) for one in others if (taken := one.fields & changed & claimed)]
    if conflicts and not call.force:
        raise _conflict(conflicts)
    for manager, taken in conflicts:
        manager.fields -= taken
    if own is None:
        own = _new_manager(call, "Apply")
        managers.append(own)
    kept = fields.with_containers(claimed.union(*(one.fields for one in others)))
    for path in sorted(own.fields - kept, key=len):
        _remove(merged, path, schema)
    if own.fields != claimed:
        own.fields, own.time = claimed, now()
    _write(merged, managers)
    return merged


def merge(live: Any, applied: Any, schema: Schema) -> Any:
    """The applied value laid over the live one, by the schema's list types."""
    schema = resolve(schema)
    kind = schema.get("x-kubernetes-list-type")
    if isinstance(live, dict) and isinstance(applied, dict) and schema.get("x-kubernetes-map-type") != "atomic":
        result = dict(live)
        for key, value in applied.items():
            result[key] = merge(live.get(key), value, fields.member_schema(schema, key))
        return result
    if isinstance(live, list) and isinstance(applied, list) and kind == "map":
        before = {fields.item_element(item, schema): item for item in live}
        for item in applied:
            element = fields.item_element(item, schema)
            before[element] = merge(before.get(element), item, schema.get("items") or {})
        return list(before.values())
    if isinstance(live, list) and isinstance(applied, list) and kind == "set":
        return live + [one for one in applied if one not in live]
    return clone(applied)


def _managers(old: Object, obj: Object) -> list[_Manager]:
    """The entries that a write starts from: the body's where it changed them, otherwise the stored ones."""
    stored = old.get("metadata", {}).get("managedFields") or []
    given = obj.get("metadata", {}).get("managedFields")
    entries = stored if given is None else given
    try:
        return [
            _Manager(
                entry["manager"], entry["operation"], entry["apiVersion"], entry.get("subresource", ""),
                entry.get("time", ""), fields.decode(entry["fieldsV1"]),
            )
            for entry in entries
            if entry
        ]  # fmt: skip
    except (KeyError, TypeError, AttributeError) as error:
        told = f"metadata.managedFields: Invalid value: {error}"
        raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, "Invalid", told) from error


def _new_manager(call: Call, operation: str) -> _Manager:
    return _Manager(call.manager, operation, call.resource.api_version, call.subresource, now(), set())


def _write(obj: Object, managers: list[_Manager]) -> None:
    kept = [one for one in managers if one.fields]
    kept.sort(key=lambda one: (one.operation != "Apply", one.time, one.name))
    if kept:
        obj["metadata"]["managedFields"] = [one.entry() for one in kept]
    else:
        obj["metadata"].pop("managedFields", None)


def _difference(before: dict[Path, Any], after: dict[Path, Any]) -> tuple[set[Path], set[Path]]:
    """Paths added or changed, and paths removed."""
    changed = {
        path
        for path, value in after.items()
        if path not in before
        or (value is not before[path] and (CONTAINER in (value, before[path]) or not same_json(value, before[path])))
    }
    return changed, before.keys() - after.keys()


def _conflict(conflicts: list[tuple[_Manager, set[Path]]]) -> ApiError:
    causes, lines = [], []
    total = sum(len(taken) for _, taken in conflicts)
    for manager, taken in conflicts:
        part = f' with subresource "{manager.subresource}"' if manager.subresource else ""
        who = f'with "{manager.name}"{part} using {manager.api_version}'
        named = [fields.told(path) for path in sorted(taken, key=fields.told_order)]
        causes += [{"reason": "FieldManagerConflict", "message": f"conflict {who}", "field": field} for field in named]
        single = f"conflict {who}: {named[0]}"
        lines.append(single if len(named) == 1 else "\n- ".join([f"conflicts {who}:", *named]))
    plural = "conflict" if total == 1 else "conflicts"
    message = f"Apply failed with {total} {plural}: " + "\n".join(lines)
    return ApiError(HTTPStatus.CONFLICT, "Conflict", message, {"causes": causes})


def _remove(obj: Any, path: Path, schema: Schema) -> None:
    """Takes a field out of an object, in place of the containers on the way (which are copied)."""
    schema = resolve(schema)
    element, rest = path[0], path[1:]
    if element.startswith("f:") and isinstance(obj, dict):
        key = element[2:]
        if key not in obj:
            return
        if not rest:
            del obj[key]
            return
        obj[key] = clone(obj[key])
        _remove(obj[key], rest, fields.member_schema(schema, key))
    elif isinstance(obj, list):
        name = fields.value_element if element.startswith("v:") else lambda item: fields.item_element(item, schema)
        for at, item in enumerate(list(obj)):
            if name(item) == element and rest:
                _remove(item, rest, schema.get("items") or {})
            elif name(item) == element:
                del obj[at]
                return
