"""What the server fills in for single built-in kinds, as far as fine-tuning jobs need it."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Callable
from typing import Any

from .store import clone

Object = dict[str, Any]

_service_ips = itertools.count(2)


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
    for container in [*spec.get("initContainers", []), *spec.get("containers", [])]:
        _requests_default_to_limits(container["resources"])
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
                "effect": "NoExecute",
                "key": f"node.kubernetes.io/{key}",
                "operator": "Exists",
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
