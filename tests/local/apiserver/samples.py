"""Objects that tests begin from; the definition is the one that the recorded exchanges were made with."""

from __future__ import annotations

import copy
import gzip
import json
from pathlib import Path
from typing import Any

EXCHANGES = Path(__file__).parents[2] / "data" / "oracle" / "exchanges.jsonl.gz"


def exchanges() -> list[dict[str, Any]]:
    """What kubectl and curl asked a real API server, and what it answered, in order."""
    with gzip.open(EXCHANGES, "rt") as lines:
        return [json.loads(line) for line in lines]


def sample_definition() -> dict[str, Any]:
    """The CustomResourceDefinition of SampleJob, as kubectl sent it."""
    sent = next(one for one in exchanges() if one["step"] == "apply-crd" and one["method"] == "POST")
    definition: dict[str, Any] = json.loads(sent["request"])
    return definition


def sample_job(name: str = "one", **spec: Any) -> dict[str, Any]:
    """A valid SampleJob."""
    base = {"model": {"uri": "hf://org/model"}, "data": {"train": [{"uri": "s3://b/train.jsonl"}]}, "epochs": 2}
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "SampleJob",
        "metadata": {"name": name, "labels": {"team": "a"}},
        "spec": base | spec,
    }


_POD_SPEC = {"restartPolicy": "Never", "containers": [{"name": "main", "image": "busybox:1", "command": ["true"]}]}


def batch_job(name: str = "child", **spec: Any) -> dict[str, Any]:
    template = {"spec": copy.deepcopy(_POD_SPEC)}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"template": template} | spec}


def pod(name: str = "p", **meta: Any) -> dict[str, Any]:
    spec = copy.deepcopy(_POD_SPEC)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name} | meta, "spec": spec}


def config_map(name: str = "c", **meta: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name} | meta, "data": {"k": "v"}}


def owner(obj: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An ownerReference to an object that the server answered with."""
    meta = obj["metadata"]
    return {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "name": meta["name"], "uid": meta["uid"]} | more
