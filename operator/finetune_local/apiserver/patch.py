"""JSON merge patch (RFC 7386), JSON patch (RFC 6902) and the strategic merge patch of built-in kinds."""

from __future__ import annotations

from typing import Any

from .builtin_schemas import Schema, resolve
from .errors import bad_request, invalid_request
from .store import clone

MAX_JSON_PATCH_OPERATIONS = 10_000


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386: null removes, objects merge, all else replaces. Changes neither argument."""
    if not isinstance(patch, dict):
        return clone(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


# JSON patch --------------------------------------------------------------------------------------------


def json_patch(target: Any, operations: Any) -> Any:
    """RFC 6902. Raises 422 when a `test` fails or a path is not there, 400 when it is no patch at all."""
    if not isinstance(operations, list) or not all(isinstance(one, dict) for one in operations):
        raise bad_request("a JSON patch must be a list of operations")
    if len(operations) > MAX_JSON_PATCH_OPERATIONS:
        raise bad_request(f"a JSON patch may hold at most {MAX_JSON_PATCH_OPERATIONS} operations")
    document = {"": clone(target)}
    for operation in operations:
        _operate(document, operation)
    return document[""]


def _operate(document: dict[str, Any], operation: dict[str, Any]) -> None:
    kind, path = operation.get("op"), _tokens(operation.get("path"))
    if kind in ("add", "replace", "test") and "value" not in operation:
        raise bad_request(f"JSON patch operation {kind!r} needs a value")
    if kind == "add":
        _add(document, path, clone(operation["value"]))
    elif kind == "remove":
        _remove(document, path)
    elif kind == "replace":
        parent, key = _parent(document, path)
        _child(parent, key)
        parent[key] = clone(operation["value"])
    elif kind == "test":
        if not same_json(_child(*_parent(document, path)), operation["value"]):
            raise invalid_request()
    elif kind == "move":
        _add(document, path, _remove(document, _tokens(operation.get("from"))))
    elif kind == "copy":
        _add(document, path, clone(_child(*_parent(document, _tokens(operation.get("from"))))))
    else:
        raise bad_request(f"JSON patch operation {kind!r} is not known")


def same_json(left: Any, right: Any) -> bool:
    """Equality of JSON values: true is not 1, but 1 is 1.0."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same_json(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same_json, left, right))
    return bool(left == right)


def _tokens(pointer: Any) -> list[str]:
    if not isinstance(pointer, str) or (pointer and not pointer.startswith("/")):
        raise bad_request(f"JSON patch path {pointer!r} is no JSON pointer")
    return [token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")]


def _parent(document: dict[str, Any], path: list[str]) -> tuple[Any, Any]:
    """The container and the key in it; the document itself is the member "" of an outer object."""
    container: Any = document
    for token in path[:-1]:
        container = _child(container, _key(container, token))
    return container, _key(container, path[-1])


def _key(container: Any, token: str) -> Any:
    if not isinstance(container, list):
        return token
    if token == "-":
        return len(container)
    if not token.isdigit() or (len(token) > 1 and token[0] == "0"):
        raise invalid_request()
    return int(token)


def _child(container: Any, key: Any) -> Any:
    if isinstance(container, dict) and key in container:
        return container[key]
    if isinstance(container, list) and 0 <= key < len(container):
        return container[key]
    raise invalid_request()


def _add(document: dict[str, Any], path: list[str], value: Any) -> None:
    parent, key = _parent(document, path)
    if isinstance(parent, list):
        if key > len(parent):
            raise invalid_request()
        parent.insert(key, value)
    elif isinstance(parent, dict):
        parent[key] = value
    else:
        raise invalid_request()


def _remove(document: dict[str, Any], path: list[str]) -> Any:
    parent, key = _parent(document, path)
    value = _child(parent, key)
    del parent[key]
    return value


# Strategic merge patch ---------------------------------------------------------------------------------

_ORDER, _DELETE_FROM = "$setElementOrder/", "$deleteFromPrimitiveList/"


def strategic_merge(target: Any, patch: Any, schema: Schema) -> Any:
    """A merge patch in which lists with a merge key merge item by item. Changes neither argument.

    Knows the directives `$patch: replace|delete|merge`, `$retainKeys`, `$setElementOrder/…` and
    `$deleteFromPrimitiveList/…`.
    """
    if not isinstance(patch, dict):
        return clone(patch)
    schema = resolve(schema)
    directive = patch.get("$patch")
    if directive == "delete":
        return {}
    result = dict(target) if isinstance(target, dict) and directive != "replace" else {}
    if "$retainKeys" in patch:
        result = {key: value for key, value in result.items() if key in patch["$retainKeys"]}
    for key, value in patch.items():
        if key.startswith(_DELETE_FROM):
            name = key.removeprefix(_DELETE_FROM)
            result[name] = [one for one in result.get(name) or [] if one not in value]
        elif not key.startswith("$"):
            order = patch.get(_ORDER + key)
            _merge_member(result, key, value, _member_schema(schema, key), order)
    for key, order in patch.items():
        name = key.removeprefix(_ORDER)
        if key.startswith(_ORDER) and name not in patch and isinstance(result.get(name), list):
            result[name] = _ordered(result[name], order, _member_schema(schema, name))
    return result


def _member_schema(schema: Schema, key: str) -> Schema:
    found = (schema.get("properties") or {}).get(key)
    if found is None:
        found = schema.get("additionalProperties")
    return resolve(found) if isinstance(found, dict) else {}


def _merge_member(result: dict[str, Any], key: str, value: Any, schema: Schema, order: Any) -> None:
    if value is None:
        result.pop(key, None)
        return
    before = result.get(key)
    merges = schema.get("x-kubernetes-patch-strategy") == "merge"
    if isinstance(value, list) and merges:
        merged = _merge_list(before if isinstance(before, list) else [], value, schema)
        result[key] = _ordered(merged, order, schema) if order else merged
    else:
        result[key] = strategic_merge(before, value, schema)


def _merge_list(before: list[Any], patch: list[Any], schema: Schema) -> list[Any]:
    key = schema.get("x-kubernetes-patch-merge-key")
    if any(isinstance(one, dict) and one.get("$patch") == "replace" for one in patch):
        return [clone(one) for one in patch if not (isinstance(one, dict) and "$patch" in one)]
    result = list(before)
    if key is None:
        return result + [one for one in patch if one not in result]
    for item in patch:
        if not isinstance(item, dict) or key not in item:
            raise bad_request(f"map: {item} does not contain declared merge key: {key}")
        at = next((i for i, one in enumerate(result) if one.get(key) == item[key]), None)
        if item.get("$patch") == "delete":
            result = [one for one in result if one.get(key) != item[key]]
        elif at is None:
            result.append(strategic_merge({}, item, schema.get("items") or {}))
        else:
            result[at] = strategic_merge(result[at], item, schema.get("items") or {})
    return result


def _ordered(items: list[Any], order: list[Any], schema: Schema) -> list[Any]:
    """Items that `order` names in its order; others stay where they were, after those before them."""
    key = schema.get("x-kubernetes-patch-merge-key")
    names = [one.get(key) if isinstance(one, dict) else one for one in order]
    rank = {name: place for place, name in enumerate(names)}
    current = -1
    ranked = []
    for item in items:
        name = item.get(key) if isinstance(item, dict) else item
        current = rank.get(name, current)
        ranked.append((current, item))
    return [item for _, item in sorted(ranked, key=lambda pair: pair[0])]
