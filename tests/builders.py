"""Short functions that make objects as the API server holds them: FineTuneJobs, Jobs, pods."""

import json
from typing import Any

from finetune_api import names

Raw = dict[str, Any]

NAMESPACE = "team-a"
UID = "0c9a1f52-6f0e-4b3c-9a58-3f1d2f6a7b10"
CREATED = "2026-11-21T10:00:00Z"


def spec(**changed: Any) -> Raw:
    """The smallest spec; keyword arguments replace its sections."""
    smallest = {
        "model": {"uri": "hf://Qwen/Qwen2.5-0.5B-Instruct"},
        "data": {"train": [{"uri": "s3://team-a/train.jsonl"}], "validationFraction": 0.1},
        "output": {"uri": "s3://team-a/adapters/"},
        "preflight": "Never",
    }
    return smallest | changed


def finetunejob(
    name: str = "support-bot",
    *,
    namespace: str = NAMESPACE,
    uid: str = UID,
    version: str = "1",
    generation: int = 1,
    status: Raw | None = None,
    deleting: bool = False,
    **sections: Any,
) -> Raw:
    """A FineTuneJob; keyword arguments beyond the named ones are sections of its spec."""
    meta: Raw = {
        "name": name,
        "namespace": namespace,
        "uid": uid,
        "resourceVersion": version,
        "generation": generation,
        "creationTimestamp": CREATED,
    }
    if deleting:
        meta["deletionTimestamp"] = CREATED
    raw = {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": meta, "spec": spec(**sections)}
    return raw | ({"status": status} if status is not None else {})


def manifest(name: str = "support-bot", *, namespace: str = NAMESPACE, **sections: Any) -> Raw:
    """A FineTuneJob as a user applies it."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec(**sections),
    }


def labels(uid: str = UID, attempt: int = 0) -> Raw:
    return {names.LABEL_MANAGED_BY: names.MANAGER, names.LABEL_JOB_UID: uid, names.LABEL_ATTEMPT: str(attempt)}


def job(
    *conditions: str | Raw,
    name: str | None = None,
    uid: str = UID,
    owner: str | None = None,
    attempt: int = 0,
    suspend: bool = False,
    check: bool = False,
) -> Raw:
    """The Job of a FineTuneJob, with conditions that are true (a name, or the whole condition)."""
    meta: Raw = {
        "name": name or names.child_name("support-bot", uid, attempt),
        "namespace": NAMESPACE,
        "uid": f"job-{attempt}-of-{uid}",
        "resourceVersion": "7",
        "creationTimestamp": CREATED,
        "labels": labels(uid, attempt) | ({names.LABEL_CHECK: "true"} if check else {}),
        "ownerReferences": [{"kind": names.KIND, "uid": owner or uid, "controller": True}],
    }
    status: Raw = {"conditions": [c if isinstance(c, dict) else condition(c) for c in conditions]}
    spec = {"suspend": True} if suspend else {}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec, "status": status}


def failed_job(**more: Any) -> Raw:
    """A Job that its first failed pod has ended."""
    message = "Job has reached the specified backoff limit"
    return job(condition("Failed", "BackoffLimitExceeded", message), **more)


def condition(kind: str, reason: str = "", message: str = "", status: str = "True") -> Raw:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": "2026-11-21T10:05:00Z",
    }


def pod(
    state: Raw | None = None,
    *,
    phase: str = "Pending",
    name: str = "support-bot-0-abcde",
    conditions: tuple[Raw, ...] = (),
    created: str = CREATED,
    uid: str = UID,
    attempt: int = 0,
    index: int | None = None,
    gone_by: str | None = None,
    grace: int = 0,
) -> Raw:
    """A training pod whose ``trainer`` container is in a state (of the container status); with an index where there are
    several."""
    meta = {
        "name": name,
        "namespace": NAMESPACE,
        "uid": f"uid-of-{name}",
        "resourceVersion": "8",
        "creationTimestamp": created,
        "labels": labels(uid, attempt),
    }
    if index is not None:
        meta["annotations"] = {names.ANNOTATION_INDEX: str(index)}
    if gone_by:
        meta |= {"deletionTimestamp": gone_by, "deletionGracePeriodSeconds": grace}
    containers = [{"name": names.TRAINER_CONTAINER, "state": state}] if state else []
    status: Raw = {"phase": phase, "conditions": list(conditions), "containerStatuses": containers}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"nodeName": "node1"}, "status": status}


def running_pod(name: str = "support-bot-0-abcde", **more: Any) -> Raw:
    return pod({"running": {"startedAt": "2026-11-21T10:00:05Z"}}, phase="Running", name=name, **more)


def waiting_pod(reason: str, message: str = "", **more: Any) -> Raw:
    return pod({"waiting": {"reason": reason, "message": message}}, **more)


def ended_pod(
    code: int,
    message: str = "",
    reason: str = "",
    name: str = "support-bot-0-abcde",
    finished: str = "2026-11-21T10:01:05Z",
    **more: Any,
) -> Raw:
    ended = {
        "exitCode": code,
        "message": message,
        "reason": reason or ("Error" if code else "Completed"),
        "startedAt": "2026-11-21T10:00:05Z",
        "finishedAt": finished,
    }
    return pod({"terminated": ended}, phase="Failed" if code else "Succeeded", name=name, **more)


def result(**changed: Any) -> str:
    """The termination message of a run that went well."""
    said = {
        "contract": 1,
        "outcome": "Succeeded",
        "metrics": [{"name": "eval_loss", "value": 1.21, "baseline": 1.834}],
        "result": {
            "adapterURI": "s3://team-a/adapters/support-bot/1f0c0000-0/",
            "digest": "sha256:abc",
            "baseModel": "hf://Qwen/Qwen2.5-0.5B-Instruct",
        },
        "usage": {"trainedTokens": 12345},
    }
    return json.dumps(said | changed)


def checked(**changed: Any) -> str:
    """The termination message of a check that went well."""
    found = {"records": 90, "validationRecords": 10, "tokens": 5678, "longest": 99}
    found |= dict.fromkeys(("leftOut", "cut", "duplicates"), 0)
    return json.dumps({"contract": 1, "outcome": "Succeeded", "checked": found | changed})


def error(reason: str, message: str) -> str:
    """The termination message of a run that failed."""
    return json.dumps({"contract": 1, "outcome": "Failed", "error": {"reason": reason, "message": message}})


def report(percent: int | None = 42, eta: int | None = 3060, **metrics: str) -> Raw:
    """The body of a trainer's POST to the reports endpoint."""
    status: Raw = {"lastUpdatedTime": "2026-11-21T10:00:10Z"}
    if percent is not None:
        status["progressPercentage"] = percent
    if eta is not None:
        status["estimatedRemainingSeconds"] = eta
    status["metrics"] = [{"name": name, "value": value} for name, value in metrics.items()]
    return {"trainerStatus": status}
