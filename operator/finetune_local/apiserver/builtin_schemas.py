"""Schemas of the built-in kinds, read from the `kubernetes` package's models when first needed.

The models know every field, its type and whether it is required; what they do not know, the keys by which lists
merge, is the table here. Reading costs some tenths of a second once a process, so nothing does it at start.
"""

from __future__ import annotations

import functools
import re
from typing import Any

Schema = dict[str, Any]

REF = "#/components/schemas/"
_PREFIX = "io.k8s.api."

# Lists that merge by key, in strategic merge patches and server-side apply: (model, field) → keys.
_MERGE_KEYS: dict[tuple[str, str], tuple[str, ...]] = {
    ("V1ObjectMeta", "ownerReferences"): ("uid",),
    ("V1PodSpec", "containers"): ("name",),
    ("V1PodSpec", "initContainers"): ("name",),
    ("V1PodSpec", "ephemeralContainers"): ("name",),
    ("V1PodSpec", "volumes"): ("name",),
    ("V1PodSpec", "imagePullSecrets"): ("name",),
    ("V1PodSpec", "hostAliases"): ("ip",),
    ("V1PodSpec", "topologySpreadConstraints"): ("topologyKey", "whenUnsatisfiable"),
    ("V1Container", "env"): ("name",),
    ("V1Container", "ports"): ("containerPort", "protocol"),
    ("V1Container", "volumeMounts"): ("mountPath",),
    ("V1Container", "volumeDevices"): ("devicePath",),
    ("V1PodStatus", "conditions"): ("type",),
    ("V1PodStatus", "podIPs"): ("ip",),
    ("V1JobStatus", "conditions"): ("type",),
    ("V1DeploymentStatus", "conditions"): ("type",),
    ("V1NodeStatus", "conditions"): ("type",),
    ("V1NodeStatus", "addresses"): ("type",),
    ("V1PodDisruptionBudgetStatus", "conditions"): ("type",),
    ("V1CustomResourceDefinitionStatus", "conditions"): ("type",),
    ("V1NamespaceStatus", "conditions"): ("type",),
    ("V1ServiceSpec", "ports"): ("port", "protocol"),
    ("V1ServiceStatus", "conditions"): ("type",),
    ("V1ServiceAccount", "secrets"): ("name",),
    ("V1ServiceAccount", "imagePullSecrets"): ("name",),
}
# Default of a key that an item may leave out.
_KEY_DEFAULTS = {"protocol": "TCP"}
_SETS = {("V1ObjectMeta", "finalizers")}
# Objects that merge as a whole.
_ATOMIC = {
    "V1ConfigMapKeySelector", "V1LabelSelector", "V1LocalObjectReference", "V1NodeSelector", "V1NodeSelectorTerm",
    "V1ObjectFieldSelector", "V1ObjectReference", "V1ResourceFieldSelector", "V1RoleRef", "RbacV1Subject",
    "V1SecretKeySelector", "V1SecretReference", "V1TypedLocalObjectReference",
}  # fmt: skip
_QUANTITIES = {"limits", "requests", "capacity", "allocatable", "hard", "used", "sizeLimit", "divisor", "overhead"}
_SCALARS: dict[str, Schema] = {
    "str": {"type": "string"},
    "int": {"type": "integer", "format": "int64"},
    "bool": {"type": "boolean"},
    "float": {"type": "number"},
    "datetime": {"type": "string", "format": "date-time"},
    "bytes": {"type": "string", "format": "byte"},
    "object": {"x-kubernetes-preserve-unknown-fields": True},
}
_QUANTITY: Schema = {"oneOf": [{"type": "string"}, {"type": "number"}], "format": "quantity"}


def reference(model: str) -> Schema:
    return {"allOf": [{"$ref": f"{REF}{_PREFIX}{model}"}]}


def resolve(schema: Schema) -> Schema:
    """The schema meant where `schema` only refers to one."""
    parts = schema.get("allOf")
    if isinstance(parts, list) and len(parts) == 1 and "$ref" in parts[0]:
        return definition(parts[0]["$ref"].removeprefix(REF + _PREFIX))
    return schema


@functools.cache
def definition(model: str) -> Schema:
    """The object schema of one model of the `kubernetes` package."""
    from kubernetes.aio.client import models  # deferred: costs 0.3 s, and only built-in kinds need it

    cls = getattr(models, model)
    properties: dict[str, Schema] = {}
    required: list[str] = []
    fields = {field.serialization_alias or name: field for name, field in cls.model_fields.items()}
    for attribute, kind in cls.openapi_types.items():
        name = cls.attribute_map[attribute]
        field = fields[name]
        properties[name] = _property(model, name, kind, field.description or "")
        if field.is_required():
            required.append(name)
    schema: Schema = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    if model in _ATOMIC:
        schema["x-kubernetes-map-type"] = "atomic"
    summary = (cls.__doc__ or "").split("Attributes:")[0].strip()
    if summary:
        schema["description"] = summary
    return schema


def _property(model: str, name: str, kind: str, description: str) -> Schema:
    schema = _type_schema(kind, name in _QUANTITIES)
    if description:
        schema["description"] = description
    if (model, name) in _SETS:
        schema |= {"x-kubernetes-list-type": "set", "x-kubernetes-patch-strategy": "merge"}
    elif keys := _MERGE_KEYS.get((model, name)):
        schema |= {
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": list(keys),
            "x-kubernetes-patch-strategy": "merge",
            "x-kubernetes-patch-merge-key": keys[0],
            "x-kubernetes-list-map-key-defaults": {k: v for k, v in _KEY_DEFAULTS.items() if k in keys},
        }
    elif schema.get("type") == "array":
        schema["x-kubernetes-list-type"] = "atomic"
    return schema


def _type_schema(kind: str, quantity: bool) -> Schema:
    if listed := re.fullmatch(r"List\[(.+)\]", kind):
        return {"type": "array", "items": _type_schema(listed[1], False)}
    if mapped := re.fullmatch(r"Dict\[str, (.+)\]", kind):
        return {"type": "object", "additionalProperties": _type_schema(mapped[1], quantity)}
    if kind in _SCALARS:
        return dict(_QUANTITY if quantity and kind == "str" else _SCALARS[kind])
    return reference(kind)


def closure(model: str) -> dict[str, Schema]:
    """The definition of a model and of all it refers to, by OpenAPI component name."""
    found: dict[str, Schema] = {}
    waiting = [model]
    while waiting:
        name = waiting.pop()
        if _PREFIX + name in found:
            continue
        found[_PREFIX + name] = schema = definition(name)
        waiting += [ref.removeprefix(REF + _PREFIX) for ref in _references(schema)]
    return found


def component_name(model: str) -> str:
    return _PREFIX + model


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [ref for one in value.values() for ref in _references(one)]
    if isinstance(value, list):
        return [ref for one in value for ref in _references(one)]
    return []
