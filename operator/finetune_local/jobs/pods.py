"""A Job's pods: what they look like when made, and how they are told apart."""

import copy
from datetime import datetime, timedelta
from typing import Any

from finetune_local.clock import parse

Object = dict[str, Any]

FINALIZER = "batch.kubernetes.io/job-tracking"
"""Keeps a finished pod until its Job has counted it."""
INDEX = "batch.kubernetes.io/job-completion-index"


def is_indexed(job: Object) -> bool:
    return bool(job["spec"].get("completionMode") == "Indexed")


def manifest(job: Object, index: int | None) -> Object:
    """The pod for a completion index, or of a NonIndexed Job."""
    template = copy.deepcopy(job["spec"]["template"])
    meta = template.get("metadata") or {}
    name, uid = job["metadata"]["name"], job["metadata"]["uid"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": f"{name}-" if index is None else f"{name}-{index}-",
            "namespace": job["metadata"]["namespace"],
            "labels": dict(meta.get("labels") or {}),
            "annotations": dict(meta.get("annotations") or {}),
            "finalizers": [*(meta.get("finalizers") or ()), FINALIZER],
            "ownerReferences": [
                {
                    "apiVersion": "batch/v1",
                    "kind": "Job",
                    "name": name,
                    "uid": uid,
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "spec": template["spec"],
    }
    if index is not None:
        _give_index(pod, name, index)
    return pod


def _give_index(pod: Object, job_name: str, index: int) -> None:
    pod["metadata"]["annotations"][INDEX] = str(index)
    pod["metadata"]["labels"][INDEX] = str(index)
    pod["spec"]["hostname"] = f"{job_name}-{index}"
    source = {"fieldRef": {"fieldPath": f"metadata.labels['{INDEX}']"}}
    for container in (*pod["spec"]["containers"], *(pod["spec"].get("initContainers") or ())):
        env = container.setdefault("env", [])
        if not any(variable["name"] == "JOB_COMPLETION_INDEX" for variable in env):
            env.append({"name": "JOB_COMPLETION_INDEX", "valueFrom": source})


def index_of(pod: Object) -> int | None:
    """The completion index, of a pod that has one."""
    text = (pod["metadata"].get("annotations") or {}).get(INDEX, "")
    return int(text) if text.isdigit() else None


def owner(pod: Object) -> Object | None:
    """The reference to the Job that controls the pod: ``name`` and ``uid``."""
    references = pod["metadata"].get("ownerReferences") or ()
    return next((one for one in references if one.get("controller") and one["kind"] == "Job"), None)


def phase(pod: Object) -> str:
    return str((pod.get("status") or {}).get("phase", "Pending"))


def is_finished(pod: Object) -> bool:
    return phase(pod) in ("Succeeded", "Failed")


def is_deleting(pod: Object) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def is_active(pod: Object) -> bool:
    return not is_finished(pod) and not is_deleting(pod)


def is_terminating(pod: Object) -> bool:
    return not is_finished(pod) and is_deleting(pod)


def is_ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def is_held(pod: Object) -> bool:
    """Whether it has not been counted yet."""
    return FINALIZER in (pod["metadata"].get("finalizers") or ())


def finished_at(pod: Object) -> datetime:
    """When its last container ended; of a pod without such a record, when it was to be gone or was made."""
    ends = [
        container["state"]["terminated"]["finishedAt"]
        for container in (pod.get("status") or {}).get("containerStatuses") or ()
        if (container.get("state", {}).get("terminated") or {}).get("finishedAt")
    ]
    if ends:
        return max(map(parse, ends))
    meta = pod["metadata"]
    if is_deleting(pod):
        grace = timedelta(seconds=meta.get("deletionGracePeriodSeconds", 0))
        return parse(meta["deletionTimestamp"]) - grace
    return parse(meta["creationTimestamp"])


def read_indexes(text: str) -> frozenset[int]:
    """``1,3-5`` → {1, 3, 4, 5}."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def write_indexes(indexes: frozenset[int]) -> str:
    """{1, 3, 4, 5} → ``1,3-5``. Two in a row are written ``3,4``."""
    runs: list[list[int]] = []
    for index in sorted(indexes):
        if runs and runs[-1][-1] == index - 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    parts = [",".join(map(str, run)) if len(run) < 3 else f"{run[0]}-{run[-1]}" for run in runs]
    return ",".join(parts)
