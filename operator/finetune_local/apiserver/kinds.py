"""What the server fills in and checks for single built-in kinds, as far as fine-tuning jobs need it."""

from __future__ import annotations

import base64
import binascii
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from . import errors, metadata
from .errors import Cause
from .store import clone

Object = dict[str, Any]

_service_ips = itertools.count(2)


# Defaults ----------------------------------------------------------------------------------------------


def apply_defaults(kind: str, obj: Object) -> None:
    """Fills in, in place, what the real server defaults for this kind."""
    fill = _DEFAULTS.get(kind)
    if fill:
        fill(obj)


def prepare_create(kind: str, obj: Object) -> None:
    """What the server decides once, when the object is created; its uid is known by now."""
    prepare = _ON_CREATE.get(kind)
    if prepare:
        prepare(obj)


def _pod_spec_defaults(spec: Object) -> None:
    for container in [*spec.get("initContainers", []), *spec.get("containers", [])]:
        image = container.get("image", "")
        tag = image.rsplit("/", 1)[-1].partition(":")[2]
        latest = "@" not in image and tag in ("", "latest")
        container.setdefault("imagePullPolicy", "Always" if latest else "IfNotPresent")
        container.setdefault("resources", {})
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("terminationMessagePolicy", "File")
        _requests_default_to_limits(container["resources"])
        for port in container.get("ports", []):
            port.setdefault("protocol", "TCP")
        for variable in container.get("env", []):
            source = (variable.get("valueFrom") or {}).get("fieldRef")
            if source:
                source.setdefault("apiVersion", "v1")
    for volume in spec.get("volumes", []):
        _volume_defaults(volume)
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("schedulerName", "default-scheduler")
    spec.setdefault("securityContext", {})
    spec.setdefault("terminationGracePeriodSeconds", 30)
    if "serviceAccountName" in spec:
        spec["serviceAccount"] = spec["serviceAccountName"]


def _requests_default_to_limits(resources: Object) -> None:
    limits = resources.get("limits") or {}
    if limits:
        resources["requests"] = {**limits, **(resources.get("requests") or {})}


def _volume_defaults(volume: Object) -> None:
    for source in ("secret", "configMap", "projected", "downwardAPI"):
        if isinstance(volume.get(source), dict):
            volume[source].setdefault("defaultMode", 420)
    for part in (volume.get("projected") or {}).get("sources", []):
        if "serviceAccountToken" in part:
            part["serviceAccountToken"].setdefault("expirationSeconds", 3600)
        for item in (part.get("downwardAPI") or {}).get("items", []):
            item.get("fieldRef", {}).setdefault("apiVersion", "v1")


def _pod_defaults(pod: Object) -> None:
    spec = pod["spec"]
    _pod_spec_defaults(spec)
    spec.setdefault("enableServiceLinks", True)


def _pod_on_create(pod: Object) -> None:
    spec = pod["spec"]
    spec.setdefault("serviceAccountName", "default")
    spec.setdefault("serviceAccount", spec["serviceAccountName"])
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
    spec.setdefault("priority", 0)
    for key in ("not-ready", "unreachable"):
        spec.setdefault("tolerations", []).append(
            {
                "effect": "NoExecute", "key": f"node.kubernetes.io/{key}", "operator": "Exists",
                "tolerationSeconds": 300,
            }
        )
    pod["status"] = {"phase": "Pending", "qosClass": _qos_class(spec)}


def _qos_class(spec: Object) -> str:
    resources = [container.get("resources") or {} for container in spec.get("containers", [])]
    if not any(one.get("requests") or one.get("limits") for one in resources):
        return "BestEffort"
    guaranteed = all(
        {"cpu", "memory"} <= (one.get("limits") or {}).keys()
        and all(one["requests"].get(key) == one["limits"][key] for key in ("cpu", "memory"))
        for one in resources
    )
    return "Guaranteed" if guaranteed else "Burstable"


def _job_defaults(job: Object) -> None:
    spec = job["spec"]
    if "completions" not in spec and "parallelism" not in spec:
        spec["completions"] = 1
    spec.setdefault("parallelism", 1)
    spec.setdefault("backoffLimit", 2**31 - 1 if "backoffLimitPerIndex" in spec else 6)
    spec.setdefault("completionMode", "NonIndexed")
    spec.setdefault("suspend", False)
    spec.setdefault("manualSelector", False)
    spec.setdefault("podReplacementPolicy", "Failed" if "podFailurePolicy" in spec else "TerminatingOrFailed")
    for rule in (spec.get("podFailurePolicy") or {}).get("rules", []):
        for condition in rule.get("onPodConditions") or []:
            condition.setdefault("status", "True")
    template = spec["template"].get("spec")
    if isinstance(template, dict):
        _pod_spec_defaults(template)


def _job_on_create(job: Object) -> None:
    meta, spec = job["metadata"], job["spec"]
    job["status"] = {}
    if spec["manualSelector"]:
        return
    labels = {
        "batch.kubernetes.io/controller-uid": meta["uid"],
        "batch.kubernetes.io/job-name": meta["name"],
        "controller-uid": meta["uid"],
        "job-name": meta["name"],
    }
    template = spec["template"].setdefault("metadata", {})
    template["labels"] = (template.get("labels") or {}) | labels
    if not meta.get("labels"):
        meta["labels"] = clone(template["labels"])
    uid_label = "batch.kubernetes.io/controller-uid"
    spec["selector"] = {"matchLabels": {uid_label: meta["uid"]}}


def _deployment_defaults(deployment: Object) -> None:
    spec = deployment["spec"]
    spec.setdefault("replicas", 1)
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("progressDeadlineSeconds", 600)
    rolling = {"maxSurge": "25%", "maxUnavailable": "25%"}
    spec.setdefault("strategy", {"type": "RollingUpdate", "rollingUpdate": rolling})
    if isinstance(spec["template"].get("spec"), dict):
        _pod_spec_defaults(spec["template"]["spec"])


def _service_defaults(service: Object) -> None:
    spec = service.setdefault("spec", {})
    spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    spec.setdefault("internalTrafficPolicy", "Cluster")
    for port in spec.get("ports", []):
        port.setdefault("protocol", "TCP")
        port.setdefault("targetPort", port.get("port"))


def _service_on_create(service: Object) -> None:
    spec = service["spec"]
    if spec.setdefault("clusterIP", "") == "":
        number = next(_service_ips)
        spec["clusterIP"] = f"10.96.{number // 250}.{number % 250}"
    spec["clusterIPs"] = [spec["clusterIP"]]
    spec.setdefault("ipFamilies", ["IPv4"])
    spec.setdefault("ipFamilyPolicy", "SingleStack")
    service["status"] = {"loadBalancer": {}}


def _namespace_on_create(namespace: Object) -> None:
    meta = namespace["metadata"]
    meta["labels"] = (meta.get("labels") or {}) | {"kubernetes.io/metadata.name": meta["name"]}
    namespace["spec"] = {"finalizers": ["kubernetes"]}
    namespace["status"] = {"phase": "Active"}


def _secret_defaults(secret: Object) -> None:
    secret.setdefault("type", "Opaque")
    for key, text in (secret.pop("stringData", None) or {}).items():
        secret.setdefault("data", {})[key] = base64.b64encode(text.encode()).decode()


def _role_ref_defaults(binding: Object) -> None:
    reference = binding.get("roleRef") or {}
    reference.setdefault("apiGroup", "rbac.authorization.k8s.io")
    for subject in binding.get("subjects") or []:
        is_account = subject.get("kind") == "ServiceAccount"
        subject.setdefault("apiGroup", "" if is_account else "rbac.authorization.k8s.io")
        if not subject["apiGroup"]:
            del subject["apiGroup"]


def _event_defaults(event: Object) -> None:
    event.setdefault("eventTime", None)
    event.setdefault("reportingComponent", "")
    event.setdefault("reportingInstance", "")
    event.setdefault("source", {})


def _claim_on_create(claim: Object) -> None:
    claim["status"] = {"phase": "Pending"}


_DEFAULTS: dict[str, Callable[[Object], None]] = {
    "Pod": _pod_defaults,
    "Job": _job_defaults,
    "Deployment": _deployment_defaults,
    "Service": _service_defaults,
    "Secret": _secret_defaults,
    "RoleBinding": _role_ref_defaults,
    "ClusterRoleBinding": _role_ref_defaults,
    "Event": _event_defaults,
}
_ON_CREATE: dict[str, Callable[[Object], None]] = {
    "Pod": _pod_on_create,
    "Job": _job_on_create,
    "Service": _service_on_create,
    "Namespace": _namespace_on_create,
    "PersistentVolumeClaim": _claim_on_create,
}


# Validation --------------------------------------------------------------------------------------------


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
            yield errors.invalid_value(f"{at}.name", name, metadata._SAY_LABEL)
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
        told = f'Required value: valid values: "OnFailure", "Never"'
        if policy == "Always":
            yield errors.not_supported(field, policy, ["OnFailure", "Never"])
        else:
            yield Cause(field, "FieldValueRequired", told)
    if "podFailurePolicy" in spec and policy != "Never":
        told = "only \"Never\" is supported when podFailurePolicy is specified"
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
    "Secret": _secret_faults,
    "RoleBinding": _binding_faults,
    "ClusterRoleBinding": _binding_faults,
    "Event": _event_faults,
}
