"""The fields of an object as a set of paths, in the elements of FieldsV1: `f:name`, `k:{…}`, `v:…`.

Structs, maps and lists of type map are made of their parts; all other lists, and scalars, are one field each.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from .builtin_schemas import Schema, definition, resolve
from .resources import Resource
from .store import Object

Path = tuple[str, ...]
CONTAINER = object()
"""Stands for the value of a path that is made of parts."""

_UNMANAGED = frozenset(
    [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "selfLink",
        "managedFields",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ]
)
_TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
_META: Schema = {
    "properties": {
        "labels": _TEXTS,
        "annotations": _TEXTS,
        "finalizers": {"type": "array", "x-kubernetes-list-type": "set"},
        "ownerReferences": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["uid"],
        },
    }
}


def schema_of(resource: Resource) -> Schema:
    """The schema by which objects of a resource are merged and taken apart."""
    schema = resource.schema if resource.schema is not None else definition(resource.model)
    return {**schema, "properties": {**(schema.get("properties") or {}), "metadata": _META}}


def managed_part(obj: Object) -> Object:
    """An object without what belongs to no manager: identity, and what the server writes."""
    meta = {key: value for key, value in obj.get("metadata", {}).items() if key not in _UNMANAGED}
    rest = {key: value for key, value in obj.items() if key not in ("apiVersion", "kind", "metadata")}
    return {**rest, **({"metadata": meta} if meta else {})}


def member_schema(schema: Schema, key: str) -> Schema:
    found = (schema.get("properties") or {}).get(key, schema.get("additionalProperties"))
    return resolve(found) if isinstance(found, dict) else {}


def item_element(item: Any, schema: Schema) -> str:
    """The path element of an item of a list of type map."""
    defaults = schema.get("x-kubernetes-list-map-key-defaults") or {}
    keys = {key: item.get(key, defaults.get(key)) for key in schema["x-kubernetes-list-map-keys"]}
    told = {key: value for key, value in sorted(keys.items()) if value is not None}
    return "k:" + json.dumps(told, separators=(",", ":"))


def value_element(value: Any) -> str:
    return "v:" + json.dumps(value, separators=(",", ":"))


def paths(obj: Object, schema: Schema) -> dict[Path, Any]:
    """All fields of an object with their values."""
    found = dict(_walk(managed_part(obj), schema, ()))
    found.pop((), None)
    found.pop(("f:metadata",), None)
    return found


def _walk(value: Any, schema: Schema, path: Path) -> Iterator[tuple[Path, Any]]:
    schema = resolve(schema)
    kind = schema.get("x-kubernetes-list-type")
    if isinstance(value, dict) and schema.get("x-kubernetes-map-type") != "atomic":
        yield path, CONTAINER
        for key, one in value.items():
            yield from _walk(one, member_schema(schema, key), (*path, f"f:{key}"))
    elif isinstance(value, list) and kind == "map":
        yield path, CONTAINER
        for item in value:
            yield from _walk(item, schema.get("items") or {}, (*path, item_element(item, schema)))
    elif isinstance(value, list) and kind == "set":
        yield path, CONTAINER
        for item in value:
            yield (*path, value_element(item)), item
    else:
        yield path, value


def leaves(found: dict[Path, Any]) -> set[Path]:
    """The fields that an apply claims: values, items of lists, and containers that hold nothing."""
    parents = {path[:-1] for path in found}
    return {path for path in found if path not in parents or path[-1].startswith("k:")}


def with_containers(fields: set[Path]) -> set[Path]:
    """The fields and all that they lie in."""
    return {path[:length] for path in fields for length in range(1, len(path) + 1)}


def encode(fields: set[Path]) -> dict[str, Any]:
    """FieldsV1 of a set of paths; `.` marks a member that has members below it."""
    tree: dict[str, Any] = {}
    for path in sorted(fields):
        node = tree
        for element in path:
            node = node.setdefault(element, {})
        node["."] = {}
    return _trimmed(tree)


def _trimmed(tree: dict[str, Any]) -> dict[str, Any]:
    if tree.keys() == {"."}:
        return {}
    return {key: _trimmed(one) for key, one in sorted(tree.items())}


def decode(tree: dict[str, Any]) -> set[Path]:
    return set(_members(tree, ()))


def _members(tree: dict[str, Any], path: Path) -> Iterator[Path]:
    if (not tree or "." in tree) and path:
        yield path
    for key, one in tree.items():
        if key != ".":
            yield from _members(one, (*path, key))


def told(path: Path) -> str:
    """A path as conflicts show it: `.spec.ports[port=80].name`."""
    text = ""
    for element in path:
        kind, _, rest = element.partition(":")
        if kind == "f":
            text += f".{rest}"
        elif kind == "k":
            keys = json.loads(rest).items()
            text += "[" + ",".join(f"{key}={json.dumps(value)}" for key, value in keys) + "]"
        else:
            text += f"[={rest}]"
    return text


def told_order(path: Path) -> tuple[tuple[bool, str], ...]:
    """Sorts paths as the real server lists them: at each level the members first, then what lies below others."""
    return tuple((i < len(path) - 1, element) for i, element in enumerate(path))
