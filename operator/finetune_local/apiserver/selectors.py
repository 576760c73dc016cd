"""Label selectors (`a=b,c in (d,e),!f`) and field selectors (`metadata.name=x,status.phase!=Running`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from .errors import bad_request

Predicate = Callable[[dict[str, Any]], bool]

_SET = re.compile(r"^\s*([^\s!=,()]+)\s+(in|notin)\s*\(([^()]*)\)\s*$")
_EQUALITY = re.compile(r"^\s*([^\s!=,()]+)\s*(==|=|!=)\s*([^\s!=,()]*)\s*$")
_EXISTS = re.compile(r"^\s*(!?)\s*([^\s!=,()]+)\s*$")
_COMMA_OUTSIDE_BRACKETS = re.compile(r",(?![^(]*\))")

_FIELDS_OF_ALL = ("metadata.name", "metadata.namespace")
_FIELDS: dict[str, tuple[str, ...]] = {
    "Pod": ("spec.nodeName", "spec.restartPolicy", "spec.serviceAccountName", "status.phase", "status.podIP"),
    "Event": (
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ),
    "Secret": ("type",),
    "Namespace": ("status.phase",),
    "Job": ("status.successful",),
}


def label_selector(text: str) -> Predicate:
    """A test for objects. An empty selector takes all. Raises 400 where the text is no selector."""
    checks = [_requirement(part) for part in _COMMA_OUTSIDE_BRACKETS.split(text)] if text.strip() else []

    def matches(obj: dict[str, Any]) -> bool:
        labels = obj["metadata"].get("labels") or {}
        return all(check(labels) for check in checks)

    return matches


def _requirement(part: str) -> Callable[[Mapping[str, str]], bool]:
    if found := _SET.match(part):
        key, operator, listed = found.groups()
        values = {value.strip() for value in listed.split(",")}
        if operator == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    if found := _EQUALITY.match(part):
        key, operator, value = found.groups()
        if operator == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if found := _EXISTS.match(part):
        absent, key = found.groups()
        return lambda labels: (key in labels) != bool(absent)
    raise bad_request(f'unable to parse requirement: found "{part}" where a label requirement was expected')


def field_selector(text: str, kind: str, is_custom: bool) -> Predicate:
    """A test for objects by the fields that may be selected by for this kind. Raises 400 for others."""
    supported = _FIELDS_OF_ALL + (() if is_custom else _FIELDS.get(kind, ()))
    checks: list[tuple[list[str], str, bool]] = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        found = _EQUALITY.match(part)
        if not found:
            raise bad_request(f"invalid selector: '{part}'; can't understand '{part}'")
        key, operator, value = found.groups()
        if key not in supported:
            raise bad_request(f"field label not supported: {key}")
        checks.append((key.split("."), value, operator != "!="))

    def matches(obj: dict[str, Any]) -> bool:
        return all((_text_at(obj, path) == value) is equal for path, value, equal in checks)

    return matches


def _text_at(obj: Any, path: list[str]) -> str:
    if path == ["status", "successful"]:
        return str((obj.get("status") or {}).get("succeeded", 0))
    if path == ["source"]:
        return str((obj.get("source") or {}).get("component", ""))
    for key in path:
        obj = obj.get(key) if isinstance(obj, dict) else None
    return "" if obj is None else str(obj)


def name_in_field_selector(text: str) -> str:
    found = re.search(r"(?:^|,)\s*metadata\.name\s*==?\s*([^,\s]+)", text)
    return found.group(1) if found else ""
