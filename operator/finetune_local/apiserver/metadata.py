"""metadata: what every object's must hold, and what the server writes into it."""

from __future__ import annotations

import re
import secrets
import uuid
from datetime import UTC, datetime
from typing import Any

from . import errors
from .errors import Cause
from .resources import Resource

ANNOTATIONS_LIMIT = 256 * 1024  # bytes of all annotations' keys and values
_RANDOM_SUFFIX = "bcdfghjklmnpqrstvwxz2456789"
FIELDS = frozenset(
    [
        "annotations",
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generateName",
        "generation",
        "labels",
        "managedFields",
        "name",
        "namespace",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
        "uid",
    ]
)

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_QUALIFIED = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_LABEL_1035 = "[a-z]([-a-z0-9]*[a-z0-9])?"

_SAY_SUBDOMAIN = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
    "and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
SAY_DNS_LABEL = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end "
    "with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    f"'{_LABEL}')"
)
_SAY_1035 = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, "
    "and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is "
    f"'{_LABEL_1035}')"
)
_SAY_QUALIFIED = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    f"'{_QUALIFIED}')"
)
_SAY_VALUE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    f"'({_QUALIFIED})?')"
)


def now() -> str:
    """The time as metav1.Time is written: UTC, whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def new_uid() -> str:
    return str(uuid.uuid4())


def generated_name(prefix: str) -> str:
    """generateName and five random characters; the prefix is cut so that the name has at most 63."""
    return prefix[:58] + "".join(secrets.choice(_RANDOM_SUFFIX) for _ in range(5))


def is_dns_label(name: str) -> bool:
    return len(name) <= 63 and re.fullmatch(_LABEL, name) is not None


def validate(meta: dict[str, Any], resource: Resource) -> list[Cause]:
    return [
        *_name_faults(meta.get("name") or "", resource),
        *_label_faults(meta.get("labels") or {}),
        *_annotation_faults(meta.get("annotations") or {}),
        *_finalizer_faults(meta.get("finalizers") or []),
        *_owner_faults(meta.get("ownerReferences") or []),
    ]


def _name_faults(name: str, resource: Resource) -> list[Cause]:
    if not name:
        return [errors.required("metadata.name", "name or generateName is required")]
    if resource.group == "rbac.authorization.k8s.io":
        bad = name in (".", "..") or "/" in name or "%" in name
        told = "may not contain '/' or '%'"
        return [errors.invalid_value("metadata.name", name, told)] if bad else []
    pattern, limit, told = _SUBDOMAIN, 253, _SAY_SUBDOMAIN
    if resource.kind == "Namespace" and not resource.is_custom:
        pattern, limit, told = _LABEL, 63, SAY_DNS_LABEL
    if resource.kind == "Service" and not resource.is_custom:
        pattern, limit, told = _LABEL_1035, 63, _SAY_1035
    if len(name) > limit:
        return [errors.invalid_value("metadata.name", name, f"must be no more than {limit} bytes")]
    if not re.fullmatch(pattern, name):
        return [errors.invalid_value("metadata.name", name, told)]
    return []


def _key_faults(field: str, key: str) -> list[Cause]:
    prefix, slash, name = key.rpartition("/")
    faults = []
    if slash and (len(prefix) > 253 or not re.fullmatch(_SUBDOMAIN, prefix)):
        faults.append(errors.invalid_value(field, key, f"prefix part {_SAY_SUBDOMAIN}"))
    if len(name) > 63:
        faults.append(errors.invalid_value(field, key, "name part must be no more than 63 bytes"))
    if not re.fullmatch(_QUALIFIED, name):
        faults.append(errors.invalid_value(field, key, _SAY_QUALIFIED))
    return faults


def _label_faults(labels: dict[str, Any], field: str = "metadata.labels") -> list[Cause]:
    faults = []
    for key, value in sorted(labels.items()):
        faults += _key_faults(field, key)
        if not isinstance(value, str):
            faults.append(errors.invalid_type(field, value, f"label {key} must be a string"))
        elif len(value) > 63:
            faults.append(errors.invalid_value(field, value, "must be no more than 63 bytes"))
        elif not re.fullmatch(f"({_QUALIFIED})?", value):
            faults.append(errors.invalid_value(field, value, _SAY_VALUE))
    return faults


def _annotation_faults(annotations: dict[str, Any]) -> list[Cause]:
    field = "metadata.annotations"
    faults = [fault for key in sorted(annotations) for fault in _key_faults(field, key.lower())]
    for key, value in sorted(annotations.items()):
        if not isinstance(value, str):
            faults.append(errors.invalid_type(field, value, f"annotation {key} must be a string"))
    size = sum(len(k.encode()) + len(v.encode()) for k, v in annotations.items() if isinstance(v, str))
    if size > ANNOTATIONS_LIMIT:
        faults.append(errors.too_long(field, ANNOTATIONS_LIMIT))
    return faults


def _finalizer_faults(finalizers: list[Any]) -> list[Cause]:
    return [fault for one in finalizers for fault in _key_faults("metadata.finalizers", str(one))]


def _owner_faults(owners: list[dict[str, Any]]) -> list[Cause]:
    faults = []
    for i, owner in enumerate(owners):
        for key in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(key):
                field = f"metadata.ownerReferences[{i}].{key}"
                faults.append(errors.invalid_value(field, owner.get(key, ""), "must not be empty"))
    if sum(bool(owner.get("controller")) for owner in owners) > 1:
        told = "Only one reference can have Controller set to true"
        faults.append(errors.invalid_value("metadata.ownerReferences", owners, told))
    return faults
