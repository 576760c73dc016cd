"""The few messages that clients send as protobuf whatever is offered: `auth can-i`, `create secret`, Helm's records.

Answers are JSON, which every client accepts that sends these.
"""

from __future__ import annotations

import base64
from typing import Any

from .errors import bad_request

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"

# Fields by number: (JSON name, what it holds). A dict is a nested message, a list of one a repeated field.
_META = {
    1: ("name", "text"), 2: ("generateName", "text"), 3: ("namespace", "text"), 11: ("labels", "map"),
    12: ("annotations", "map"),
}  # fmt: skip
_ATTRIBUTES = {
    1: ("namespace", "text"), 2: ("verb", "text"), 3: ("group", "text"), 4: ("version", "text"),
    5: ("resource", "text"), 6: ("subresource", "text"), 7: ("name", "text"),
}  # fmt: skip
_BOUND = {1: ("kind", "text"), 2: ("apiVersion", "text"), 3: ("name", "text"), 4: ("uid", "text")}
_TOKEN_SPEC = {1: ("audiences", ["text"]), 3: ("boundObjectRef", _BOUND), 4: ("expirationSeconds", "number")}
_ACCESS_SPEC = {
    1: ("resourceAttributes", _ATTRIBUTES),
    2: ("nonResourceAttributes", {1: ("path", "text"), 2: ("verb", "text")}),
}
_DELETE_OPTIONS = {
    1: ("gracePeriodSeconds", "number"), 2: ("preconditions", {1: ("uid", "text"), 2: ("resourceVersion", "text")}),
    3: ("orphanDependents", "flag"), 4: ("propagationPolicy", "text"), 5: ("dryRun", ["text"]),
}  # fmt: skip
_MESSAGES: dict[str, dict[int, Any]] = {
    "DeleteOptions": _DELETE_OPTIONS,
    "SelfSubjectAccessReview": {2: ("spec", _ACCESS_SPEC)},
    "SelfSubjectReview": {},
    "TokenRequest": {2: ("spec", _TOKEN_SPEC)},
    "Namespace": {1: ("metadata", _META)},
    "ServiceAccount": {1: ("metadata", _META)},
    "ConfigMap": {1: ("metadata", _META), 2: ("data", "map"), 3: ("binaryData", "map of bytes")},
    "ResourceQuota": {1: ("metadata", _META), 2: ("spec", {1: ("hard", "map of quantity"), 2: ("scopes", ["text"])})},
    "Secret": {1: ("metadata", _META), 2: ("data", "map of bytes"), 3: ("type", "text"), 4: ("stringData", "map")},
}
_Field = int | bytes


def decode(body: bytes) -> dict[str, Any]:
    """The object in a protobuf body, as JSON. Raises 400 for kinds that are only understood as JSON."""
    try:
        if body[:4] != _MAGIC:
            raise ValueError("it has no envelope")
        envelope = dict(_fields(body[4:]))
        type_meta = {number: _text(value) for number, value in _fields(_bytes(envelope[1]))}
        kind = type_meta[2]
        if kind not in _MESSAGES:
            raise ValueError(f"{kind} is only understood as JSON")
        content = _message(_bytes(envelope.get(2, b"")), _MESSAGES[kind])
    except (ValueError, KeyError, IndexError) as error:
        raise bad_request(f"the protobuf body cannot be read: {error}") from error
    return {"apiVersion": type_meta[1], "kind": kind, **content}


def _message(message: bytes, layout: dict[int, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for number, value in _fields(message):
        if number not in layout:
            continue
        name, holds = layout[number]
        if isinstance(holds, list):
            found.setdefault(name, []).append(_value(value, holds[0]))
        elif isinstance(holds, str) and holds.startswith("map"):
            entry = dict(_fields(_bytes(value)))
            found.setdefault(name, {})[_text(entry[1])] = _value(entry.get(2, b""), holds[len("map of ") :] or "text")
        elif value != b"":
            found[name] = _value(value, holds)
    return found


def _value(value: _Field, holds: Any) -> Any:
    if isinstance(holds, dict):
        return _message(_bytes(value), holds)
    if holds in ("number", "flag"):
        return bool(value) if holds == "flag" else value
    if holds == "quantity":
        return _text(dict(_fields(_bytes(value)))[1])
    return base64.b64encode(_bytes(value)).decode() if holds == "bytes" else _text(value)


def _bytes(value: _Field) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number stands where bytes should")
    return value


def _text(value: _Field) -> str:
    return _bytes(value).decode()


def _fields(message: bytes) -> list[tuple[int, _Field]]:
    """Fields in their order: numbers (varints) and length-delimited bytes."""
    found: list[tuple[int, _Field]] = []
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        if tag & 7 == 0:
            number, at = _varint(message, at)
            found.append((tag >> 3, number))
        elif tag & 7 == 2:
            size, at = _varint(message, at)
            found.append((tag >> 3, message[at : at + size]))
            at += size
        else:
            raise ValueError(f"wire type {tag & 7} is not known")
    return found


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
