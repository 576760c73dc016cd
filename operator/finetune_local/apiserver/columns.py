"""kubectl's usual columns of the built-in kinds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .durations import age, between
from .metadata import now
from .store import Object

NONE = "<none>"


@dataclass(frozen=True)
class Column:
    name: str
    cell: Callable[[Object], Any]
    priority: int = 0
    type: str = "string"


def _at(obj: Any, *keys: str, default: Any = NONE) -> Any:
    for key in keys:
        obj = obj.get(key) if isinstance(obj, dict) else None
    return default if obj in (None, "", []) else obj


def _field(*keys: str, default: Any = NONE) -> Callable[[Object], Any]:
    return lambda obj: _at(obj, *keys, default=default)


_AGE = Column("Age", lambda obj: age(obj["metadata"].get("creationTimestamp")))


# Pods --------------------------------------------------------------------------------------------------


def _statuses(pod: Object) -> list[Object]:
    found: list[Object] = _at(pod, "status", "containerStatuses", default=[])
    return found


def _pod_ready(pod: Object) -> str:
    ready = sum(bool(one.get("ready")) for one in _statuses(pod))
    return f"{ready}/{len(pod['spec'].get('containers', []))}"


def _pod_status(pod: Object) -> str:
    """The phase, or what a container says that is more telling."""
    status = pod.get("status") or {}
    told: str = status.get("reason") or status.get("phase") or "Unknown"
    for container in reversed(_statuses(pod)):
        state = container.get("state") or {}
        waiting, terminated = state.get("waiting") or {}, state.get("terminated")
        if waiting.get("reason"):
            told = waiting["reason"]
        elif terminated is not None:
            signal = terminated.get("signal")
            told = terminated.get("reason") or (
                f"Signal:{signal}" if signal else f"ExitCode:{terminated.get('exitCode', 0)}"
            )
    if "deletionTimestamp" in pod["metadata"] and status.get("phase") not in ("Succeeded", "Failed"):
        told = "Terminating"
    return told


def _pod_restarts(pod: Object) -> str:
    return str(sum(one.get("restartCount", 0) for one in _statuses(pod)))


def _readiness_gates(pod: Object) -> str:
    gates = pod["spec"].get("readinessGates") or []
    met = {one["type"] for one in _at(pod, "status", "conditions", default=[]) if one["status"] == "True"}
    return f"{sum(one['conditionType'] in met for one in gates)}/{len(gates)}" if gates else NONE


_POD = (
    Column("Ready", _pod_ready),
    Column("Status", _pod_status),
    Column("Restarts", _pod_restarts),
    _AGE,
    Column("IP", _field("status", "podIP"), 1),
    Column("Node", _field("spec", "nodeName"), 1),
    Column("Nominated Node", _field("status", "nominatedNodeName"), 1),
    Column("Readiness Gates", _readiness_gates, 1),
)


# Workloads ---------------------------------------------------------------------------------------------


def _containers(obj: Object, key: str) -> str:
    return ",".join(str(one.get(key, "")) for one in _at(obj, "spec", "template", "spec", "containers", default=[]))


def _selector(obj: Object) -> str:
    labels = _at(obj, "spec", "selector", "matchLabels", default={})
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items())) or NONE


_TEMPLATE = (
    Column("Containers", lambda obj: _containers(obj, "name"), 1),
    Column("Images", lambda obj: _containers(obj, "image"), 1),
    Column("Selector", _selector, 1),
)


def _job_status(job: Object) -> str:
    conditions = {one["type"] for one in _at(job, "status", "conditions", default=[]) if one["status"] == "True"}
    if "Complete" in conditions:
        return "Complete"
    if "Failed" in conditions:
        return "Failed"
    if "deletionTimestamp" in job["metadata"]:
        return "Terminating"
    if "Suspended" in conditions:
        return "Suspended"
    if "FailureTarget" in conditions:
        return "FailureTarget"
    return "SuccessCriteriaMet" if "SuccessCriteriaMet" in conditions else "Running"


def _job_completions(job: Object) -> str:
    done = _at(job, "status", "succeeded", default=0)
    completions = job["spec"].get("completions")
    if completions is not None:
        return f"{done}/{completions}"
    parallelism = job["spec"].get("parallelism", 1)
    return f"{done}/1 of {parallelism}" if parallelism > 1 else f"{done}/1"


def _job_duration(job: Object) -> str:
    status = job.get("status") or {}
    failed = next(
        (one.get("lastTransitionTime") for one in status.get("conditions") or [] if one["type"] == "Failed"), None
    )
    return between(status.get("startTime"), status.get("completionTime") or failed or now())


_JOB = (
    Column("Status", _job_status),
    Column("Completions", _job_completions),
    Column("Duration", _job_duration),
    _AGE,
    *_TEMPLATE,
)
_DEPLOYMENT = (
    Column("Ready", lambda d: f"{_at(d, 'status', 'readyReplicas', default=0)}/{d['spec'].get('replicas', 1)}"),
    Column("Up-to-date", lambda d: str(_at(d, "status", "updatedReplicas", default=0))),
    Column("Available", lambda d: str(_at(d, "status", "availableReplicas", default=0))),
    _AGE,
    *_TEMPLATE,
)


# The rest ----------------------------------------------------------------------------------------------


def _ports(service: Object) -> str:
    ports = service["spec"].get("ports") or []
    return ",".join(f"{one.get('port')}/{one.get('protocol', 'TCP')}" for one in ports) or NONE


def _service_selector(service: Object) -> str:
    selector = service["spec"].get("selector") or {}
    return ",".join(f"{key}={value}" for key, value in sorted(selector.items())) or NONE


_SERVICE = (
    Column("Type", _field("spec", "type")),
    Column("Cluster-IP", _field("spec", "clusterIP")),
    Column("External-IP", lambda _: NONE),
    Column("Port(s)", _ports),
    _AGE,
    Column("Selector", _service_selector, 1),
)


def _event_object(event: Object) -> str:
    about = event.get("involvedObject") or {}
    return f"{str(about.get('kind', '')).lower()}/{about.get('name', '')}"


def _event_last_seen(event: Object) -> str:
    series = (event.get("series") or {}).get("lastObservedTime")
    return age(series or event.get("lastTimestamp") or event.get("eventTime"))


_EVENT = (
    Column("Last Seen", _event_last_seen),
    Column("Type", _field("type", default="")),
    Column("Reason", _field("reason", default="")),
    Column("Object", _event_object),
    Column("Subobject", _field("involvedObject", "fieldPath", default=""), 1),
    Column("Source", _field("source", "component", default=""), 1),
    Column("Message", lambda event: str(event.get("message") or "").strip()),
    Column("First Seen", lambda event: age(event.get("firstTimestamp") or event.get("eventTime")), 1),
    Column("Count", lambda event: str(event.get("count") or 1), 1),
)


def _node_status(node: Object) -> str:
    ready = next((one for one in _at(node, "status", "conditions", default=[]) if one["type"] == "Ready"), None)
    if ready is None:
        return "Unknown"
    return "Ready" if ready["status"] == "True" else "NotReady"


_NODE = (
    Column("Status", _node_status),
    Column("Roles", lambda _: NONE),
    _AGE,
    Column("Version", _field("status", "nodeInfo", "kubeletVersion", default="")),
)


def _used_of_hard(quota: Object, limits: bool) -> str:
    used, hard = _at(quota, "status", "used", default={}), _at(quota, "status", "hard", default={})
    names = [name for name in sorted(hard) if name.startswith("limits.") is limits]
    return ", ".join(f"{name}: {used.get(name, '0')}/{hard[name]}" for name in names)


_NAMESPACE = (Column("Status", _field("status", "phase")), _AGE)
_SECRET = (
    Column("Type", _field("type")),
    Column("Data", lambda obj: len(obj.get("data") or {}), type="integer"),
    _AGE,
)
_QUOTA = (
    Column("Request", lambda quota: _used_of_hard(quota, False)),
    Column("Limit", lambda quota: _used_of_hard(quota, True)),
    _AGE,
)
_CONFIG_MAP = (
    Column("Data", lambda obj: len(obj.get("data") or {}) + len(obj.get("binaryData") or {}), type="integer"),
    _AGE,
)
_BINDING = (Column("Role", lambda obj: f"{_at(obj, 'roleRef', 'kind')}/{_at(obj, 'roleRef', 'name')}"), _AGE)
_CREATED = (Column("Created At", lambda obj: obj["metadata"].get("creationTimestamp"), type="date"),)
_PDB = (
    Column("Min Available", lambda obj: str(_at(obj, "spec", "minAvailable", default="N/A"))),
    Column("Max Unavailable", lambda obj: str(_at(obj, "spec", "maxUnavailable", default="N/A"))),
    Column("Allowed Disruptions", _field("status", "disruptionsAllowed", default=0), type="integer"),
    _AGE,
)

BUILTIN_COLUMNS: dict[str, tuple[Column, ...]] = {
    "Pod": _POD,
    "Job": _JOB,
    "Deployment": _DEPLOYMENT,
    "Service": _SERVICE,
    "Event": _EVENT,
    "Node": _NODE,
    "Namespace": _NAMESPACE,
    "ResourceQuota": _QUOTA,
    "Secret": _SECRET,
    "ConfigMap": _CONFIG_MAP,
    "RoleBinding": _BINDING,
    "ClusterRoleBinding": _BINDING,
    "Role": _CREATED,
    "ClusterRole": _CREATED,
    "CustomResourceDefinition": _CREATED,
    "PodDisruptionBudget": _PDB,
    "ServiceAccount": (Column("Secrets", lambda obj: len(obj.get("secrets") or []), type="integer"), _AGE),
    "Lease": (Column("Holder", _field("spec", "holderIdentity", default="")), _AGE),
    "PersistentVolumeClaim": (
        Column("Status", _field("status", "phase")),
        Column("Volume", _field("spec", "volumeName", default="")),
        _AGE,
    ),
}
