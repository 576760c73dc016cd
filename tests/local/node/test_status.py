"""A pod's status against what a real kubelet wrote in the same states."""

from datetime import UTC, datetime
from typing import Any

import pytest

from finetune_local.node.status import pod_status
from tests.local.jobs.recording import rows

NOW = datetime(2026, 11, 21, 5, tzinfo=UTC)
OURS = {"allocatedResources", "containerID", "imageID", "resources", "volumeMounts"}
"""What differs where there is no container runtime."""
ADDRESSES = {"hostIP", "hostIPs", "podIP", "podIPs", "qosClass"}


def recorded(job: str, word: str, phase: str) -> dict[str, Any]:
    """The first pod of a Job whose status holds a word, in a phase."""
    for row in rows():
        pod = row.object
        if row.kind == "Pod" and pod["metadata"]["name"].startswith(job) and pod["status"].get("containerStatuses"):
            state = pod["status"]["containerStatuses"][0]["state"]
            if word in str(state) and pod["status"]["phase"] == phase:
                return pod
    raise LookupError(f"{job}: {word} in {phase}")


@pytest.mark.parametrize(
    ("job", "word", "phase"),
    [
        ("succeeded", "ContainerCreating", "Pending"),
        ("contract", "running", "Running"),
        ("succeeded", "terminated", "Succeeded"),
        ("user-error", "terminated", "Failed"),
        ("oom-killed", "OOMKilled", "Failed"),
        ("evicted", "terminated", "Failed"),
        ("bad-command", "StartError", "Failed"),
        ("secret-missing", "CreateContainerConfigError", "Pending"),
        ("image-missing", "ImagePullBackOff", "Pending"),
    ],
)
def test_a_status_looks_as_a_kubelets(job: str, word: str, phase: str) -> None:
    pod = recorded(job, word, phase)
    states = {status["name"]: status["state"] for status in pod["status"]["containerStatuses"]}

    ours = pod_status(pod, states, NOW)

    assert _comparable(ours) == _comparable(pod["status"])


def test_times_of_conditions_change_with_their_status_alone() -> None:
    pod = recorded("contract", "running", "Running")
    ready = next(c for c in pod["status"]["conditions"] if c["type"] == "Ready")
    states = {"trainer": pod["status"]["containerStatuses"][0]["state"]}

    still_running = pod_status(pod, states, NOW)
    ended = pod_status(pod, {"trainer": {"terminated": {"exitCode": 0}}}, NOW)

    assert next(c for c in still_running["conditions"] if c["type"] == "Ready") == ready
    since = {c["type"]: c["lastTransitionTime"] for c in ended["conditions"]}
    assert since["Ready"] == "2026-11-21T05:00:00Z"
    assert since["PodScheduled"] != "2026-11-21T05:00:00Z"


def _comparable(status: dict[str, Any]) -> dict[str, Any]:
    """Without what a machine without containers has to say otherwise."""
    kept = {key: value for key, value in status.items() if key not in ADDRESSES}
    kept["containerStatuses"] = [
        {key: value for key, value in one.items() if key not in OURS} for one in status["containerStatuses"]
    ]
    for one in kept["containerStatuses"]:
        one["state"] = {kind: {k: v for k, v in what.items() if k not in OURS} for kind, what in one["state"].items()}
    # An observer may add its conditions before or after the kubelet's own.
    kept["conditions"] = sorted(status["conditions"], key=lambda condition: condition["type"])
    return kept
