"""``spec.podFailurePolicy``: what a failed pod means to its Job."""

from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What the first rule that matches says.

    ``counts``: against ``backoffLimit``. ``fails_job``: the message of the Job's failure, if it is to fail at once.
    """

    counts: bool = True
    fails_job: str | None = None


def judge(policy: Object | None, pod: Object) -> Verdict:
    """The verdict on a failed pod; without a matching rule it counts."""
    for index, rule in enumerate((policy or {}).get("rules") or ()):
        found = _match(rule, pod)
        if found is None:
            continue
        if rule["action"] == "FailJob":
            return Verdict(fails_job=f"{found} matching FailJob rule at index {index}")
        return Verdict(counts=rule["action"] == "Count")
    return Verdict()


def _match(rule: Object, pod: Object) -> str | None:
    if rule.get("onExitCodes"):
        return _exit_code(rule["onExitCodes"], pod)
    return _condition(rule.get("onPodConditions") or [], pod)


def _exit_code(on: Object, pod: Object) -> str | None:
    name = f"{pod['metadata'].get('namespace', '')}/{pod['metadata']['name']}"
    status = pod.get("status") or {}
    for container in (*(status.get("containerStatuses") or ()), *(status.get("initContainerStatuses") or ())):
        code = (container.get("state", {}).get("terminated") or {}).get("exitCode", 0)
        if code == 0 or on.get("containerName") not in (None, container["name"]):
            continue
        if (code in on["values"]) == (on["operator"] == "In"):
            return f"Container {container['name']} for pod {name} failed with exit code {code}"
    return None


def _condition(patterns: list[Object], pod: Object) -> str | None:
    name = f"{pod['metadata'].get('namespace', '')}/{pod['metadata']['name']}"
    for condition in (pod.get("status") or {}).get("conditions") or ():
        for pattern in patterns:
            if pattern["type"] == condition["type"] and pattern.get("status", "True") == condition["status"]:
                return f"Pod {name} has condition {condition['type']}"
    return None
