"""What resources there are: `/version`, `/api`, `/apis` (plain and aggregated) and the lists of each group."""

from __future__ import annotations

from typing import Any

from .resources import ALL_VERBS, Registry, Resource

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
VERSION = {
    "major": "1",
    "minor": "34",
    "gitVersion": "v1.34.0+finetune-local",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "",
    "compiler": "python",
    "platform": "linux/amd64",
}
_SUBRESOURCES: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "status": (("get", "patch", "update"), {}),
    "log": (("get",), {}),
    "eviction": (("create",), {"group": "policy", "version": "v1", "kind": "Eviction"}),
    "token": (("create",), {"group": "authentication.k8s.io", "version": "v1", "kind": "TokenRequest"}),
}


def group_versions(registry: Registry) -> dict[str, dict[str, list[Resource]]]:
    """Resources by group and version; built-in groups first, in alphabetical order."""
    found: dict[str, dict[str, list[Resource]]] = {}
    for resource in sorted(registry, key=lambda r: (r.is_custom, r.group, r.plural)):
        found.setdefault(resource.group, {}).setdefault(resource.version, []).append(resource)
    return found


def api_versions() -> dict[str, Any]:
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def api_groups(registry: Registry) -> dict[str, Any]:
    groups = [_group(name, list(versions)) for name, versions in group_versions(registry).items() if name]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def api_group(registry: Registry, name: str) -> dict[str, Any] | None:
    versions = group_versions(registry).get(name)
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(name, list(versions))} if name and versions else None


def _group(name: str, versions: list[str]) -> dict[str, Any]:
    told = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": told, "preferredVersion": told[0]}


def resource_list(registry: Registry, group: str, version: str) -> dict[str, Any] | None:
    """The resources and subresources of one group version; None where there is none."""
    resources = group_versions(registry).get(group, {}).get(version)
    if not resources:
        return None
    entries = [entry for resource in resources for entry in _entries(resource)]
    name = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": entries}


def _entries(resource: Resource) -> list[dict[str, Any]]:
    told: dict[str, Any] = {
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        told["shortNames"] = list(resource.short_names)
    if resource.categories:
        told["categories"] = list(resource.categories)
    entries = [told]
    for name in resource.subresources:
        verbs, kind = _SUBRESOURCES[name]
        entries.append(
            {
                "name": f"{resource.plural}/{name}",
                "singularName": "",
                "namespaced": resource.namespaced,
                "kind": resource.kind,
                **kind,
                "verbs": list(verbs),
            }
        )
    return entries


def aggregated(registry: Registry, core: bool) -> dict[str, Any]:
    """The APIGroupDiscoveryList of `/api` (core) or `/apis` (all other groups)."""
    items = []
    for group, versions in group_versions(registry).items():
        if (group == "") is not core:
            continue
        told = [
            {"version": version, "resources": [_aggregated(one) for one in resources], "freshness": "Current"}
            for version, resources in versions.items()
        ]
        items.append({"metadata": {"name": group} if group else {}, "versions": told})
    api_version = "apidiscovery.k8s.io/v2"
    return {"kind": "APIGroupDiscoveryList", "apiVersion": api_version, "metadata": {}, "items": items}


def _aggregated(resource: Resource) -> dict[str, Any]:
    own = {"group": resource.group, "version": resource.version, "kind": resource.kind}
    told: dict[str, Any] = {
        "resource": resource.plural,
        "responseKind": own,
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.singular,
        "verbs": [verb for verb in ALL_VERBS if verb in resource.verbs],
    }
    if resource.short_names:
        told["shortNames"] = list(resource.short_names)
    if resource.categories:
        told["categories"] = list(resource.categories)
    if resource.subresources:
        told["subresources"] = [
            {"subresource": name, "responseKind": _SUBRESOURCES[name][1] or own, "verbs": list(_SUBRESOURCES[name][0])}
            for name in resource.subresources
        ]
    return told
