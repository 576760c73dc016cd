"""A pod's status as a kubelet writes it: states of containers, conditions, phase."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from finetune_local.clock import timestamp
from finetune_local.node.addresses import NODE_ADDRESS, address_of

Object = dict[str, Any]
State = dict[str, dict[str, Any]]
"""``{"waiting" | "running" | "terminated": {…}}``."""

CREATING: State = {"waiting": {"reason": "ContainerCreating"}}


def waiting(reason: str, message: str) -> State:
    return {"waiting": {"reason": reason, "message": message}}


def running(since: datetime) -> State:
    return {"running": {"startedAt": timestamp(since)}}


def terminated(code: int, reason: str, finished: datetime, started: datetime | None = None, message: str = "") -> State:
    """How a container ended; without ``started`` it never ran."""
    state = {
        "exitCode": code,
        "reason": reason,
        "startedAt": timestamp(started) if started else "1970-01-01T00:00:00Z",
        "finishedAt": timestamp(finished),
    }
    return {"terminated": state | ({"message": message} if message else {})}


def lost(finished: datetime) -> State:
    """A container that was never started, or of which nothing is known, when its pod ends."""
    message = "The container could not be located when the pod was terminated"
    return terminated(137, "ContainerStatusUnknown", finished, message=message)


def phase(states: Mapping[str, State]) -> str:
    """The pod's phase, with restartPolicy Never."""
    if all("terminated" in state for state in states.values()):
        clean = all(state["terminated"]["exitCode"] == 0 for state in states.values())
        return "Succeeded" if clean else "Failed"
    return "Running" if any("waiting" not in state for state in states.values()) else "Pending"


def pod_status(pod: Object, states: Mapping[str, State], now: datetime) -> Object:
    """The status to write.

    Args:
        pod: as last seen; conditions of others are kept, and times of conditions that did not change.
        states: the state of each container.
        now: the time.
    """
    old = pod.get("status") or {}
    kept = {condition["type"]: condition for condition in old.get("conditions") or ()}
    own = _conditions(states)
    generation = pod["metadata"].get("generation", 1)
    conditions = [condition for kind, condition in kept.items() if kind not in own]
    for kind, condition in own.items():
        same = kind in kept and kept[kind]["status"] == condition["status"]
        since = kept[kind]["lastTransitionTime"] if same else timestamp(now)
        times = {"lastProbeTime": None, "lastTransitionTime": since, "observedGeneration": generation}
        conditions.append({"type": kind, **condition, **times})
    status = {
        "phase": phase(states),
        "conditions": conditions,
        "containerStatuses": [_container_status(c, states[c["name"]], pod) for c in pod["spec"]["containers"]],
        "hostIP": NODE_ADDRESS,
        "hostIPs": [{"ip": NODE_ADDRESS}],
        "observedGeneration": generation,
        "startTime": old.get("startTime", timestamp(now)),
    }
    if states and not all(state == CREATING for state in states.values()):
        status |= {"podIP": address_of(pod), "podIPs": [{"ip": address_of(pod)}]}
    return status


def _conditions(states: Mapping[str, State]) -> dict[str, Object]:
    now = phase(states)
    creating = all(state == CREATING for state in states.values())
    over = {"Succeeded": "PodCompleted", "Failed": "PodFailed"}.get(now)
    started = not creating and over is None
    unready = [name for name, state in states.items() if "running" not in state]
    ready: Object = {"status": "False" if unready else "True"}
    if over:
        ready["reason"] = over
    elif unready:
        message = f"containers with unready status: [{' '.join(unready)}]"
        ready |= {"reason": "ContainersNotReady", "message": message}
    initialized = {"status": "True"} | ({"reason": over} if over == "PodCompleted" else {})
    return {
        "PodReadyToStartContainers": {"status": "True" if started else "False"},
        "Initialized": initialized,
        "Ready": ready,
        "ContainersReady": dict(ready),
        "PodScheduled": {"status": "True"},
    }


def _container_status(container: Object, state: State, pod: Object) -> Object:
    ran = "running" in state or "terminated" in state
    identity = f"local://{pod['metadata']['uid']}/{container['name']}"
    if "terminated" in state:
        state = {"terminated": {"containerID": identity, **state["terminated"]}}
    status = {
        "name": container["name"],
        "image": container["image"],
        "imageID": container["image"] if ran else "",
        "state": state,
        "lastState": {},
        "ready": "running" in state,
        "started": "running" in state,
        "restartCount": 0,
    }
    return status | ({"containerID": identity} if ran else {})
