"""What the server refuses of single built-in kinds beyond wrong types, as far as fine-tuning jobs need it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator
from typing import Any

from finetune_local.quantities import Quantity

from . import errors, metadata, usage
from .errors import Cause

Object = dict[str, Any]


def validate(kind: str, obj: Object, old: Object | None) -> list[Cause]:
    """What is wrong with a built-in object beyond its types; `old` is None on create."""
    faults = _VALIDATION.get(kind)
    return list(faults(obj, old)) if faults else []


def _pod_spec_faults(spec: Object, path: str) -> Iterator[Cause]:
    containers = spec.get("containers") or []
    if not containers:
        yield errors.required(f"{path}.containers")
    names: set[str] = set()
    for i, container in enumerate(containers):
        at = f"{path}.containers[{i}]"
        name = container.get("name") or ""
        if not name:
            yield errors.required(f"{at}.name")
        elif not metadata.is_dns_label(name):
            yield errors.invalid_value(f"{at}.name", name, metadata.SAY_DNS_LABEL)
        if name in names:
            yield errors.duplicate(f"{at}.name", name)
        names.add(name)
        if not container.get("image"):
            yield errors.required(f"{at}.image")
        yield from _mount_faults(container, spec, at)


def _mount_faults(container: Object, spec: Object, path: str) -> Iterator[Cause]:
    volumes = {volume.get("name") for volume in spec.get("volumes") or []}
    for i, mount in enumerate(container.get("volumeMounts") or []):
        if mount.get("name") not in volumes:
            field = f"{path}.volumeMounts[{i}].name"
            yield Cause(field, "FieldValueNotFound", f"Not found: {errors.shown(mount.get('name'))}")


def _pod_faults(pod: Object, old: Object | None) -> Iterator[Cause]:
    yield from _pod_spec_faults(pod["spec"], "spec")
    if old is not None and _fixed_of_pod(pod) != _fixed_of_pod(old):
        told = (
            "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"
            "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to "
            "existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was "
            "previously negative)"
        )
        yield Cause("spec", "FieldValueForbidden", told)


def _fixed_of_pod(pod: Object) -> Object:
    """The specification without what may change after creation; nodeName may be set once, by scheduling."""
    changeable = ("nodeName", "activeDeadlineSeconds", "tolerations", "schedulingGates")
    spec = {key: value for key, value in pod["spec"].items() if key not in changeable}
    spec["containers"] = [{**one, "image": ""} for one in spec.get("containers", [])]
    return spec


def _job_faults(job: Object, old: Object | None) -> Iterator[Cause]:
    spec, template = job["spec"], job["spec"]["template"].get("spec") or {}
    yield from _pod_spec_faults(template, "spec.template.spec")
    policy = template.get("restartPolicy")
    if policy not in ("Never", "OnFailure"):
        field = "spec.template.spec.restartPolicy"
        told = 'Required value: valid values: "OnFailure", "Never"'
        if policy == "Always":
            yield errors.not_supported(field, policy, ["OnFailure", "Never"])
        else:
            yield Cause(field, "FieldValueRequired", told)
    if "podFailurePolicy" in spec and policy != "Never":
        told = 'only "Never" is supported when podFailurePolicy is specified'
        yield errors.invalid_value("spec.template.spec.restartPolicy", policy, told)
    for field in ("parallelism", "completions", "backoffLimit", "activeDeadlineSeconds"):
        if isinstance(spec.get(field), int) and spec[field] < 0:
            yield errors.invalid_value(f"spec.{field}", spec[field], "must be greater than or equal to 0")
    if spec["completionMode"] not in ("Indexed", "NonIndexed"):
        yield errors.not_supported("spec.completionMode", spec["completionMode"], ["Indexed", "NonIndexed"])
    elif spec["completionMode"] == "Indexed":
        yield from _indexed_faults(job)
    if old is not None:
        yield from _job_change_faults(job, old)


def _indexed_faults(job: Object) -> Iterator[Cause]:
    completions = job["spec"].get("completions")
    if completions is None:
        why = "when completion mode is Indexed"
        yield errors.required("spec.completions", why)
        return
    hostname = f"{job['metadata']['name']}-{max(completions - 1, 0)}"
    if not metadata.is_dns_label(hostname):
        told = "will not able to create pod with invalid DNS label: " + hostname
        yield errors.invalid_value("metadata.name", job["metadata"]["name"], told)


_JOB_FIXED = ("completionMode", "podFailurePolicy", "selector", "manualSelector", "podReplacementPolicy")


def _job_change_faults(job: Object, old: Object) -> Iterator[Cause]:
    spec, before = job["spec"], old["spec"]
    # A suspended Job that never started may still be given its place: Kueue does.
    may_place = before.get("suspend") and not (old.get("status") or {}).get("startTime")
    if _fixed_of_template(spec["template"], may_place) != _fixed_of_template(before["template"], may_place):
        yield errors.invalid_value("spec.template", spec["template"], "field is immutable")
    for field in _JOB_FIXED:
        if spec.get(field) != before.get(field):
            yield errors.invalid_value(f"spec.{field}", spec.get(field), "field is immutable")
    if spec.get("completions") != before.get("completions"):
        elastic = spec["completionMode"] == "Indexed" and spec.get("completions") == spec.get("parallelism")
        if not elastic:
            yield errors.invalid_value("spec.completions", spec.get("completions"), "field is immutable")


def _fixed_of_template(template: Object, may_place: bool) -> Object:
    if not may_place:
        return template
    placing = ("nodeSelector", "affinity", "tolerations", "schedulingGates")
    spec = {key: value for key, value in (template.get("spec") or {}).items() if key not in placing}
    return {"spec": spec}


def _deployment_faults(deployment: Object, old: Object | None) -> Iterator[Cause]:
    spec = deployment["spec"]
    labels = (spec["template"].get("metadata") or {}).get("labels") or {}
    wanted = (spec.get("selector") or {}).get("matchLabels") or {}
    if not spec.get("selector"):
        yield errors.required("spec.selector")
    elif any(labels.get(key) != value for key, value in wanted.items()):
        told = "`selector` does not match template `labels`"
        yield errors.invalid_value("spec.template.metadata.labels", labels, told)
    if old is not None and spec.get("selector") != old["spec"].get("selector"):
        yield errors.invalid_value("spec.selector", spec.get("selector"), "field is immutable")
    yield from _pod_spec_faults(spec["template"].get("spec") or {}, "spec.template.spec")


def _service_faults(service: Object, old: Object | None) -> Iterator[Cause]:
    spec = service["spec"]
    if not spec.get("ports") and spec.get("clusterIP") != "None" and spec.get("type") != "ExternalName":
        yield errors.required("spec.ports")
    if old is not None and spec.get("clusterIP") != old["spec"].get("clusterIP"):
        yield errors.invalid_value("spec.clusterIPs[0]", [spec.get("clusterIP")], "may not change once set")


def _quota_faults(quota: Object, old: Object | None) -> Iterator[Cause]:
    spec = quota.get("spec") or {}
    for field in ("scopes", "scopeSelector"):
        if spec.get(field):
            yield Cause(f"spec.{field}", "FieldValueForbidden", "Forbidden: this API server knows no scopes of quotas")
    for name, text in (spec.get("hard") or {}).items():
        amount, at = Quantity.of(text).amount, f"spec.hard[{name}]"
        if not usage.is_measured(name):
            told = "is not measured by this API server: use pods, count/<plural>.<group>, cpu, memory, "
            told += "ephemeral-storage, requests.<resource> or limits.<resource>"
            yield errors.invalid_value(at, name, told)
        elif amount < 0:
            yield errors.invalid_value(at, text, "must be greater than or equal to 0")
        elif usage.counts_objects(name) and amount % 1:
            yield errors.invalid_value(at, text, "must be an integer")


def _secret_faults(secret: Object, old: Object | None) -> Iterator[Cause]:
    for key, text in (secret.get("data") or {}).items():
        try:
            base64.b64decode(text, validate=True)
        except (binascii.Error, TypeError):
            yield errors.invalid_value(f"data[{key}]", "<secret contents redacted>", "must be base64")
    if old is not None and old.get("immutable") and secret.get("data") != old.get("data"):
        yield Cause("data", "FieldValueForbidden", "Forbidden: field is immutable when `immutable` is set")
    if old is not None and secret.get("type") != old.get("type"):
        yield errors.invalid_value("type", secret.get("type"), "field is immutable")


def _binding_faults(binding: Object, old: Object | None) -> Iterator[Cause]:
    reference = binding.get("roleRef") or {}
    if not reference.get("name"):
        yield errors.required("roleRef.name")
    if old is not None and reference != old.get("roleRef"):
        yield errors.invalid_value("roleRef", reference, "cannot change roleRef")


def _event_faults(event: Object, old: Object | None) -> Iterator[Cause]:
    namespace = (event.get("involvedObject") or {}).get("namespace") or "default"
    if namespace != event["metadata"]["namespace"]:
        told = "does not match event.namespace"
        yield errors.invalid_value("involvedObject.namespace", namespace, told)


_VALIDATION: dict[str, Callable[[Object, Object | None], Iterator[Cause]]] = {
    "Pod": _pod_faults,
    "Job": _job_faults,
    "Deployment": _deployment_faults,
    "Service": _service_faults,
    "ResourceQuota": _quota_faults,
    "Secret": _secret_faults,
    "RoleBinding": _binding_faults,
    "ClusterRoleBinding": _binding_faults,
    "Event": _event_faults,
}
