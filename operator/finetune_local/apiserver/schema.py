"""Structural schemas (CRDs) applied to objects: pruning, defaulting and validation, with the real messages.

Schemas are those of apiextensions.k8s.io/v1: OpenAPI v3 without references, plus `x-kubernetes-*`. The messages
are those of the real API server, as recorded in `tests/data/oracle`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from . import errors
from .builtin_schemas import Schema, resolve
from .errors import Cause
from .patch import same_json
from .store import clone

PRESERVE = "x-kubernetes-preserve-unknown-fields"
INT_OR_STRING = "x-kubernetes-int-or-string"


def child(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


# Pruning and defaulting --------------------------------------------------------------------------------


def prune(value: Any, schema: Schema, path: str = "") -> list[str]:
    """Removes, in place, the fields that the schema does not know, and returns their paths."""
    schema = resolve(schema)
    if isinstance(value, list):
        items = schema.get("items")
        if not isinstance(items, dict):
            return []
        return [one for i, item in enumerate(value) for one in prune(item, items, f"{path}[{i}]")]
    if not isinstance(value, dict):
        return []
    properties = schema.get("properties") or {}
    extra = schema.get("additionalProperties")
    keeps = schema.get(PRESERVE) or extra is True
    unknown = []
    for key in list(value):
        if key in properties:
            unknown += prune(value[key], properties[key], child(path, key))
        elif isinstance(extra, dict):
            unknown += prune(value[key], extra, child(path, key))
        elif not keeps and not _is_embedded_root(schema, key):
            unknown.append(child(path, key))
            del value[key]
    return unknown


def _is_embedded_root(schema: Schema, key: str) -> bool:
    embedded = schema.get("x-kubernetes-embedded-resource")
    return bool(embedded) and key in ("apiVersion", "kind", "metadata")


def apply_defaults(value: Any, schema: Schema) -> None:
    """Fills in defaults in place. A null where the schema is not nullable gives way to the default."""
    if isinstance(value, dict):
        properties = schema.get("properties") or {}
        for key, inner in properties.items():
            missing = key not in value or (value[key] is None and not inner.get("nullable"))
            if missing and "default" in inner:
                value[key] = clone(inner["default"])
            if key in value:
                apply_defaults(value[key], inner)
        extra = schema.get("additionalProperties")
        if isinstance(extra, dict):
            for key in value.keys() - properties.keys():
                apply_defaults(value[key], extra)
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for item in value:
            apply_defaults(item, schema["items"])


# Validation --------------------------------------------------------------------------------------------


def validate(value: Any, schema: Schema, path: str = "") -> list[Cause]:
    """Everything wrong with a value, in the order of the fields' names."""
    if value is None and schema.get("nullable"):
        return []
    if schema.get(INT_OR_STRING):
        wrong = _type_fault(value, "integer,string", path) if not _is_int_or_string(value) else []
    else:
        wrong = _type_fault(value, schema["type"], path) if "type" in schema else []
    if wrong:
        return wrong
    return [
        *_enum_faults(value, schema, path),
        *_scalar_faults(value, schema, path),
        *_array_faults(value, schema, path),
        *_object_faults(value, schema, path),
        *_combination_faults(value, schema, path),
    ]


def type_name(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "integer" if value.is_integer() else "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def _is_int_or_string(value: Any) -> bool:
    return type_name(value) in ("integer", "string")


def _type_fault(value: Any, expected: str, path: str) -> list[Cause]:
    actual = type_name(value)
    if actual == expected or (expected == "number" and actual == "integer"):
        return []
    told = f'{path} in body must be of type {expected}: "{actual}"'
    return [errors.invalid_type(path, actual, told)]


def _enum_faults(value: Any, schema: Schema, path: str) -> Iterator[Cause]:
    allowed = schema.get("enum")
    if allowed is not None and not any(same_json(value, one) for one in allowed):
        yield errors.not_supported(path, value, allowed)


def _scalar_faults(value: Any, schema: Schema, path: str) -> Iterator[Cause]:
    if isinstance(value, str):
        yield from _string_faults(value, schema, path)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield from _number_faults(value, schema, path)


def _string_faults(value: str, schema: Schema, path: str) -> Iterator[Cause]:
    if len(value) > schema.get("maxLength", math.inf):
        yield errors.too_long(path, schema["maxLength"])
    if len(value) < schema.get("minLength", 0):
        told = f"{path} in body should be at least {schema['minLength']} chars long"
        yield errors.invalid_value(path, value, told)
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield errors.invalid_value(path, value, f"{path} in body should match '{schema['pattern']}'")
    if "format" in schema and not _has_format(value, schema["format"]):
        told = f"{path} in body must be of type {schema['format']}: {errors.shown(value)}"
        yield errors.invalid_type(path, value, told)


_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
_DURATION = re.compile(r"-?(\d+(\.\d+)?(ns|us|µs|ms|s|m|h))+|0")


def _has_format(value: str, name: str) -> bool:
    if name == "date-time":
        if not _DATE_TIME.fullmatch(value):
            return False
        try:
            datetime.fromisoformat(value[:19])
        except ValueError:
            return False
    if name == "duration":
        return bool(_DURATION.fullmatch(value))
    return True


def _number_faults(value: float, schema: Schema, path: str) -> Iterator[Cause]:
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None:
        if schema.get("exclusiveMinimum") and value <= least:
            yield errors.invalid_value(path, value, f"{path} in body should be greater than {_number(least)}")
        elif value < least:
            told = f"{path} in body should be greater than or equal to {_number(least)}"
            yield errors.invalid_value(path, value, told)
    if most is not None:
        if schema.get("exclusiveMaximum") and value >= most:
            yield errors.invalid_value(path, value, f"{path} in body should be less than {_number(most)}")
        elif value > most:
            told = f"{path} in body should be less than or equal to {_number(most)}"
            yield errors.invalid_value(path, value, told)
    step = schema.get("multipleOf")
    if step and not math.isclose(value / step, round(value / step), abs_tol=1e-9):
        yield errors.invalid_value(path, value, f"{path} in body should be a multiple of {_number(step)}")


def _number(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _size_faults(value: list[Any] | dict[str, Any], schema: Schema, path: str, what: str) -> Iterator[Cause]:
    """``what`` is the end of the bounds' names: Items or Properties."""
    least, most = schema.get(f"min{what}", 0), schema.get(f"max{what}", math.inf)
    if len(value) > most:
        yield errors.too_many(path, len(value), most)
    if len(value) < least:
        told = f"{path} in body should have at least {least} {what.lower()}"
        yield errors.invalid_value(path, len(value), told)


def _array_faults(value: Any, schema: Schema, path: str) -> Iterator[Cause]:
    if not isinstance(value, list):
        return
    yield from _size_faults(value, schema, path, "Items")
    for i, item in enumerate(value):
        yield from validate(item, schema.get("items") or {}, f"{path}[{i}]")
    yield from _duplicate_faults(value, schema, path)


def _duplicate_faults(value: list[Any], schema: Schema, path: str) -> Iterator[Cause]:
    kind = schema.get("x-kubernetes-list-type")
    seen: set[str] = set()
    for i, item in enumerate(value):
        identity = item
        if kind == "map" and isinstance(item, dict):
            identity = {key: item.get(key) for key in schema["x-kubernetes-list-map-keys"]}
        elif kind != "set":
            continue
        text = json.dumps(identity, sort_keys=True)
        if text in seen:
            yield errors.duplicate(f"{path}[{i}]", identity)
        seen.add(text)


def _object_faults(value: Any, schema: Schema, path: str) -> Iterator[Cause]:
    if not isinstance(value, dict):
        return
    yield from _size_faults(value, schema, path, "Properties")
    properties = schema.get("properties") or {}
    extra = schema.get("additionalProperties")
    for key in sorted(set(schema.get("required") or ()) | value.keys()):
        if key not in value:
            yield errors.required(child(path, key))
        elif key in properties:
            yield from validate(value[key], properties[key], child(path, key))
        elif isinstance(extra, dict):
            yield from validate(value[key], extra, child(path, key))


def _combination_faults(value: Any, schema: Schema, path: str) -> Iterator[Cause]:
    for part in schema.get("allOf") or []:
        yield from validate(value, part, path)
    if "anyOf" in schema and all(validate(value, part, path) for part in schema["anyOf"]):
        told = f"{path} in body must validate at least one schema (anyOf)"
        yield errors.invalid_value(path, value, told)
    if "oneOf" in schema:
        count = sum(not validate(value, part, path) for part in schema["oneOf"])
        if count != 1:
            found = "Found none valid" if count == 0 else f"Found {count} valid alternatives"
            told = f"{path} in body must validate one and only one schema (oneOf). {found}"
            yield errors.invalid_value(path, value, told)
    if "not" in schema and not validate(value, schema["not"], path):
        yield errors.invalid_value(path, value, f"{path} in body must not validate the schema (not)")
