"""OpenAPI v3 documents, from which kubectl explains fields and learns how a kind may be patched."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from typing import Any

from .builtin_schemas import REF, closure, component_name
from .discovery import group_versions
from .resources import Registry, Resource
from .writes import Writer

# An empty OpenAPI v2 document, as JSON and as gnostic's protobuf: kubectl asks for it and does well without content.
V2_JSON = {"swagger": "2.0", "info": {"title": "Kubernetes", "version": "v1.34"}, "paths": {}, "definitions": {}}
V2_PROTOBUF = b"\n\x032.0\x12\x13\n\nKubernetes\x12\x05v1.34"
V2_PROTOBUF_TYPE = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"

_META = "V1ObjectMeta"
_WRITE_PARAMETERS = ("dryRun", "fieldManager", "fieldValidation")


def index(registry: Registry) -> dict[str, Any]:
    """Where each group version's document is; the hash changes when the document does."""
    paths = {}
    for group, versions in group_versions(registry).items():
        for version, resources in versions.items():
            path = f"apis/{group}/{version}" if group else f"api/{version}"
            paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest(resources)}"}
    return {"paths": paths}


def digest(resources: list[Resource]) -> str:
    told = [[r.group, r.version, r.plural, r.schema] for r in resources]
    text = json.dumps([importlib.metadata.version("kubernetes"), told], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest().upper()


def document(resources: list[Resource]) -> bytes:
    """The document of one group version, encoded."""
    components: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for resource in resources:
        components |= _components(resource)
        paths |= _paths(resource)
    told = {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.34"},
        "paths": paths,
        "components": {"schemas": components},
    }
    return json.dumps(told, separators=(",", ":")).encode()


def _gvk(resource: Resource) -> dict[str, str]:
    return {"group": resource.group, "kind": resource.kind, "version": resource.version}


def _component(resource: Resource) -> str:
    if not resource.is_custom:
        return component_name(resource.model)
    return ".".join([*reversed(resource.group.split(".")), resource.version, resource.kind])


def _components(resource: Resource) -> dict[str, Any]:
    if not resource.is_custom:
        found = closure(resource.model)
        name = _component(resource)
        own = {**found[name], "x-kubernetes-group-version-kind": [_gvk(resource)]}
        return {**found, name: own}
    schema = resource.schema or {}
    text = {"type": "string"}
    described = {
        "apiVersion": {**text, "description": "The version of the schema of this object."},
        "kind": {**text, "description": "The kind of this object."},
        "metadata": {
            "description": "Standard object's metadata.",
            "allOf": [{"$ref": REF + component_name(_META)}],
        },
    }
    own = {
        **schema,
        "properties": {**(schema.get("properties") or {}), **described},
        "x-kubernetes-group-version-kind": [_gvk(resource)],
    }
    return {**closure(_META), _component(resource): own}


def _paths(resource: Resource) -> dict[str, Any]:
    base = f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"
    base += "/namespaces/{namespace}" if resource.namespaced else ""
    collection = f"{base}/{resource.plural}"
    paths: dict[str, Any] = {collection: {"post": _operation(resource, "post", ["application/json"])}}
    if "get" in resource.verbs:
        paths[collection]["get"] = _operation(resource, "list", [])
        types = list(Writer.patch_types(resource))
        paths[collection + "/{name}"] = {
            "get": _operation(resource, "get", []),
            "put": _operation(resource, "put", ["application/json"]),
            "patch": _operation(resource, "patch", types),
            "delete": _operation(resource, "delete", ["application/json"]),
        }
    return paths


def _operation(resource: Resource, action: str, types: list[str]) -> dict[str, Any]:
    schema = {"$ref": REF + _component(resource)}
    told: dict[str, Any] = {
        "operationId": f"{action}{resource.group.title().replace('.', '')}{resource.version}{resource.kind}",
        "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": schema}}}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": _gvk(resource),
    }
    if types:
        told["requestBody"] = {"content": {one: {"schema": schema} for one in types}}
        told["parameters"] = [
            {"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": True}}
            for name in _WRITE_PARAMETERS
        ]
    return told
