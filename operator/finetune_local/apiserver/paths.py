"""From method and URL to what is asked: verb, resource, namespace, name, subresource."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .selectors import name_in_field_selector

_VERB_OF_METHOD = {"POST": "create", "PUT": "update", "PATCH": "patch"}


@dataclass(frozen=True)
class Target:
    """What a request is about. `group` is None where the URL names no resource (discovery, health)."""

    verb: str
    path: str
    group: str | None = None
    version: str = ""
    plural: str = ""
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def is_resource(self) -> bool:
        return self.group is not None


def parse(method: str, path: str, query: Mapping[str, str]) -> Target:
    """The rules of Kubernetes' request info: `/api/v1/…` and `/apis/GROUP/VERSION/…`.

    A list or watch that selects one `metadata.name` counts as naming that object, so that roles with
    resourceNames apply to it.
    """
    parts = [part for part in path.split("/") if part]
    if len(parts) >= 3 and parts[0] == "api":
        group, version, rest = "", parts[1], parts[2:]
    elif len(parts) >= 4 and parts[0] == "apis":
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return Target(method.lower(), path)
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 1:
        namespace = rest[1]
        if len(rest) > 2 and rest[2] not in ("status", "finalize"):
            rest = rest[2:]
    plural, name, subresource = (*rest[:3], "", "", "")[:3]
    verb = _verb(method, bool(name), query)
    if verb in ("list", "watch") and not name:
        name = name_in_field_selector(query.get("fieldSelector", ""))
    return Target(verb, path, group, version, plural, namespace, name, subresource)


def _verb(method: str, named: bool, query: Mapping[str, str]) -> str:
    if method == "DELETE":
        return "delete" if named else "deletecollection"
    if method in ("GET", "HEAD"):
        if query.get("watch") in ("1", "true"):
            return "watch"
        return "get" if named else "list"
    return _VERB_OF_METHOD.get(method, method.lower())
