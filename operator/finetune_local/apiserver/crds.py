"""CustomResourceDefinitions: what is accepted, and what the server writes into their status."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from . import cel, errors
from .errors import Cause
from .jsonpath import JsonPathError, compile_path
from .metadata import now
from .resources import Registry
from .store import Object

CLEANUP = "customresourcecleanup.apiextensions.k8s.io"


def prepare(crd: Object) -> None:
    """Defaults, and the status of a definition that is served at once."""
    spec = crd["spec"]
    names = spec["names"]
    names.setdefault("singular", names["kind"].lower())
    names.setdefault("listKind", f"{names['kind']}List")
    spec.setdefault("conversion", {"strategy": "None"})
    time = now()
    crd["status"] = {
        "conditions": [
            {
                "type": "NamesAccepted",
                "status": "True",
                "lastTransitionTime": time,
                "reason": "NoConflicts",
                "message": "no conflicts found",
            },
            {
                "type": "Established",
                "status": "True",
                "lastTransitionTime": time,
                "reason": "InitialNamesAccepted",
                "message": "the initial names have been accepted",
            },
        ],
        "acceptedNames": dict(names),
        "storedVersions": [one["name"] for one in spec["versions"] if one.get("storage")],
    }


def validate(crd: Object, old: Object | None, registry: Registry) -> list[Cause]:
    return list(_faults(crd, old, registry))


def _faults(crd: Object, old: Object | None, registry: Registry) -> Iterator[Cause]:
    spec, name = crd["spec"], crd["metadata"].get("name", "")
    wanted = f"{spec['names']['plural']}.{spec['group']}"
    if name != wanted:
        told = 'must be spec.names.plural+"."+spec.group'
        yield errors.invalid_value("metadata.name", name, told)
    taken = registry.of_storage((spec["group"], spec["names"]["plural"]))
    if taken is not None and not taken.is_custom:
        yield errors.invalid_value("spec.group", spec["group"], "is a built-in resource's")
    if spec["scope"] not in ("Namespaced", "Cluster"):
        yield errors.not_supported("spec.scope", spec["scope"], ["Cluster", "Namespaced"])
    if old is not None:
        for field in ("group", "scope"):
            if spec[field] != old["spec"][field]:
                yield errors.invalid_value(f"spec.{field}", spec[field], "field is immutable")
    served = [one for one in spec["versions"] if one.get("served")]
    if len(served) != 1:
        told = "this server serves exactly one version of a custom resource"
        yield errors.invalid_value("spec.versions", [one["name"] for one in served], told)
    for i, version in enumerate(spec["versions"]):
        yield from _version_faults(version, f"spec.versions[{i}]")


def _version_faults(version: dict[str, Any], path: str) -> Iterator[Cause]:
    structure = (version.get("schema") or {}).get("openAPIV3Schema")
    if not isinstance(structure, dict):
        yield errors.required(f"{path}.schema.openAPIV3Schema", "schemas are required")
    else:
        yield from _schema_faults(structure, f"{path}.schema.openAPIV3Schema")
    for subresource in version.get("subresources") or {}:
        if subresource != "status":
            yield errors.not_supported(f"{path}.subresources", subresource, ["status"])
    for i, column in enumerate(version.get("additionalPrinterColumns") or []):
        try:
            compile_path(column["jsonPath"])
        except JsonPathError as error:
            field = f"{path}.additionalPrinterColumns[{i}].jsonPath"
            yield errors.invalid_value(field, column["jsonPath"], str(error))


def _schema_faults(structure: dict[str, Any], path: str) -> Iterator[Cause]:
    """What makes a schema one that this server cannot keep to."""
    if "$ref" in structure:
        yield Cause(f"{path}.$ref", "FieldValueForbidden", "Forbidden: $ref is not supported")
    untyped = not structure.get("type") and not structure.get("x-kubernetes-int-or-string")
    if untyped and not structure.get("x-kubernetes-preserve-unknown-fields"):
        yield errors.required(f"{path}.type", "must not be empty for specified object fields")
    for i, rule in enumerate(structure.get(cel.RULES) or []):
        yield from _rule_faults(rule, f"{path}.{cel.RULES}[{i}]")
    for key, inner in (structure.get("properties") or {}).items():
        yield from _schema_faults(inner, f"{path}.properties[{key}]")
    for key in ("items", "additionalProperties"):
        if isinstance(structure.get(key), dict):
            yield from _schema_faults(structure[key], f"{path}.{key}")


def _rule_faults(rule: dict[str, Any], path: str) -> Iterator[Cause]:
    if rule.get("optionalOldSelf"):
        yield Cause(f"{path}.optionalOldSelf", "FieldValueForbidden", "Forbidden: not supported by this server")
    for key in ("rule", "messageExpression"):
        if key in rule:
            try:
                cel.compile_rule(rule[key])
            except ValueError as error:
                yield errors.invalid_value(f"{path}.{key}", rule[key], f"compilation failed: {error}")
