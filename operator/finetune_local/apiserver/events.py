"""Events are one thing under two names: core/v1 and events.k8s.io/v1. They are stored as core/v1."""

from __future__ import annotations

from .resources import Resource
from .store import Object

GROUP = "events.k8s.io"
_CORE_OF_NEW = {
    "note": "message",
    "regarding": "involvedObject",
    "reportingController": "reportingComponent",
    "deprecatedCount": "count",
    "deprecatedFirstTimestamp": "firstTimestamp",
    "deprecatedLastTimestamp": "lastTimestamp",
    "deprecatedSource": "source",
}
_NEW_OF_CORE = {core: new for new, core in _CORE_OF_NEW.items()}


def to_shown(resource: Resource, stored: Object) -> Object:
    """An object as this resource shows it."""
    return _renamed(stored, _NEW_OF_CORE, f"{GROUP}/v1") if resource.group == GROUP else stored


def to_stored(resource: Resource, shown: Object) -> Object:
    """The inverse of `to_shown`."""
    return _renamed(shown, _CORE_OF_NEW, "v1") if resource.group == GROUP else shown


def _renamed(event: Object, names: dict[str, str], api_version: str) -> Object:
    return {names.get(key, key): value for key, value in event.items()} | {"apiVersion": api_version}
