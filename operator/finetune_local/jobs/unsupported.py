"""Job fields that this controller does not honour: such a Job is left alone, and says so."""

from typing import Any

_FIELDS = ("backoffLimitPerIndex", "maxFailedIndexes", "successPolicy")


def unsupported_field(job: dict[str, Any]) -> str | None:
    """A sentence naming the first field that would be misread, or None."""
    spec = job["spec"]
    if spec.get("managedBy") not in (None, "kubernetes.io/job-controller"):
        return f"spec.managedBy {spec['managedBy']}: no such controller runs in local mode"
    for name in _FIELDS:
        if spec.get(name) is not None:
            return f"spec.{name} is not supported in local mode; remove it"
    for index, rule in enumerate((spec.get("podFailurePolicy") or {}).get("rules") or ()):
        if rule["action"] not in ("FailJob", "Ignore", "Count"):
            return f"spec.podFailurePolicy.rules[{index}].action {rule['action']} is not supported in local mode"
    return None
