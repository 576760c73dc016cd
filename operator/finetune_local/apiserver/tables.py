"""Objects as kubectl's Tables: columns of custom resources by JSONPath, of built-in kinds by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from .columns import BUILTIN_COLUMNS, Column
from .durations import human_duration, parse_time
from .jsonpath import compile_path
from .resources import Resource
from .store import Object

_NAME_COLUMN = {
    "name": "Name",
    "type": "string",
    "format": "name",
    "description": "Name must be unique within a namespace.",
    "priority": 0,
}
_AGE = {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}


def as_table(resource: Resource, objects: list[Object], meta: dict[str, Any], include: str = "") -> Object:
    """A Table of the objects. `include` is includeObject: Metadata (default), Object or None."""
    definitions, cells = _layout(resource)
    rows = [{"cells": cells(obj), **_included(obj, include)} for obj in objects]
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": meta,
        "columnDefinitions": definitions,
        "rows": rows,
    }


def partial_metadata(obj: Object) -> Object:
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def _included(obj: Object, include: str) -> dict[str, Any]:
    if include == "None":
        return {"object": None}
    return {"object": obj if include == "Object" else partial_metadata(obj)}


def _layout(resource: Resource) -> tuple[list[dict[str, Any]], Callable[[Object], list[Any]]]:
    built_in = None if resource.is_custom else BUILTIN_COLUMNS.get(resource.kind)
    if built_in is not None:
        return [_NAME_COLUMN, *(_definition(column) for column in built_in)], lambda obj: [
            obj["metadata"]["name"],
            *(column.cell(obj) for column in built_in),
        ]
    columns = resource.columns or (_AGE,)
    definitions = [
        {
            "name": column["name"],
            "type": column["type"],
            "format": column.get("format", ""),
            "description": column.get("description")
            or f"Custom resource definition column (in JSONPath format): {column['jsonPath']}",
            "priority": column.get("priority", 0),
        }
        for column in columns
    ]
    return [_NAME_COLUMN, *definitions], lambda obj: [
        obj["metadata"]["name"],
        *(_custom_cell(column, obj) for column in columns),
    ]


def _definition(column: Column) -> dict[str, Any]:
    return {
        "name": column.name,
        "type": column.type,
        "format": "",
        "description": "",
        "priority": column.priority,
    }


def _custom_cell(column: dict[str, Any], obj: Object) -> Any:
    found = compile_path(column["jsonPath"])(obj)
    if not found or found[0] is None:
        return None
    value, kind = found[0], column["type"]
    if kind == "date":
        moment = parse_time(value) if isinstance(value, str) else None
        return human_duration((datetime.now(UTC) - moment).total_seconds()) if moment else "<invalid>"
    if kind == "string":
        return value if isinstance(value, str) else _text(value)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind == "integer":
        return int(value) if is_number else None
    if kind == "number":
        return value if is_number else None
    return value if isinstance(value, bool) else None


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else json.dumps(value, separators=(",", ":"))
