"""Jobs and Pods as a real cluster changed them, replayed against the embedded Job controller's decisions."""

import copy
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from finetune_local.jobs import sync as s
from finetune_local.jobs.backoff import Backoff

Object = dict[str, Any]
_FILE = Path(__file__).parents[2] / "data" / "oracle" / "objects.jsonl.gz"
_START = datetime(2026, 11, 21, 4, 5, 22, 100_000, tzinfo=UTC)
"""The recording's second zero, from the creation times in it."""
_CLUSTER_BACKOFF_SECONDS = 10.0
_TEARDOWN = 100.0
"""Seconds after which the recorded cluster was being taken down."""


@dataclass(frozen=True)
class Row:
    """One watch event, at ``seconds`` since the recording began."""

    seconds: float
    type: str
    object: Object

    @property
    def kind(self) -> str:
        return str(self.object["kind"])


@cache
def rows() -> tuple[Row, ...]:
    """All watch events in the order in which the API server made them (the watches ran side by side)."""
    with gzip.open(_FILE, "rt") as lines:
        parsed = [json.loads(line) for line in lines]
    found = [Row(row["t"], row["type"], row["object"]) for row in parsed if row["t"] < _TEARDOWN]
    return tuple(sorted(found, key=lambda row: int(row.object["metadata"]["resourceVersion"])))


def of_job(name: str, namespace: str = "oracle") -> Iterator[Row]:
    """The events of one Job and of its pods."""
    for row in rows():
        meta = row.object["metadata"]
        about = meta["name"] if row.kind == "Job" else (meta.get("labels") or {}).get("job-name")
        if row.kind in ("Job", "Pod") and meta["namespace"] == namespace and about == name:
            yield row


def events_of(name: str, namespace: str = "oracle") -> list[tuple[str, str, str]]:
    """``(type, reason, message)`` of the recorded Events about one Job."""
    return [
        (row.object["type"], row.object["reason"], row.object["message"])
        for row in rows()
        if row.kind == "Event"
        and row.object["involvedObject"]["kind"] == "Job"
        and row.object["involvedObject"]["name"] == name
        and row.object["metadata"]["namespace"] == namespace
    ]


def without_times(status: Object) -> Object:
    """A status whose times are left out; that they are there is kept."""
    bare = copy.deepcopy(status)
    for key in ("startTime", "completionTime"):
        if key in bare:
            bare[key] = "…"
    for condition in bare.get("conditions", ()):
        condition["lastProbeTime"] = condition["lastTransitionTime"] = "…"
    return bare


@dataclass
class Replay:
    """A world in which the recorded kubelet, scheduler and user act, and our decisions in place of the controller."""

    name: str
    job: Object = field(default_factory=dict)
    pods: dict[str, Object] = field(default_factory=dict)
    written: list[Object] = field(default_factory=list)
    recorded: list[Object] = field(default_factory=list)
    made: list[tuple[Object, Object]] = field(default_factory=list)
    """Our manifest beside the recorded pod, for every creation."""
    events: list[tuple[str, str, str]] = field(default_factory=list)
    _backoff: Backoff = field(default_factory=Backoff)
    _waiting: list[Object] = field(default_factory=list)

    def run(self) -> "Replay":
        """Goes through the recording; syncs whenever the real controller wrote a status."""
        seen = list(of_job(self.name))
        self._waiting = [row.object for row in seen if row.kind == "Pod" and row.type == "ADDED"]
        for row in seen:
            if row.kind == "Pod":
                self._outside(row)
            elif row.type == "ADDED":
                self.job = copy.deepcopy(row.object)
            elif row.object.get("status") == (self.recorded[-1] if self.recorded else {}):
                self.job["spec"] = copy.deepcopy(row.object["spec"])
            else:
                self.recorded.append(row.object["status"])
                if len(self.written) < len(self.recorded):
                    self._sync(_START + timedelta(seconds=row.seconds))
        return self

    def _outside(self, row: Row) -> None:
        """What others did to a pod. The controller's own part (making, deleting, releasing) is ours."""
        name = row.object["metadata"]["name"]
        if row.type == "ADDED" or name not in self.pods:
            return
        if row.type == "DELETED":
            del self.pods[name]
            return
        pod, meta = self.pods[name], row.object["metadata"]
        pod["status"] = copy.deepcopy(row.object["status"])
        if "deletionTimestamp" in meta and not self._deletes(name):
            pod["metadata"]["deletionTimestamp"] = meta["deletionTimestamp"]
            pod["metadata"]["deletionGracePeriodSeconds"] = meta["deletionGracePeriodSeconds"]

    def _deletes(self, pod_name: str) -> bool:
        return ("Normal", "SuccessfulDelete", f"Deleted pod: {pod_name}") in events_of(self.name)

    def _sync(self, now: datetime) -> None:
        plan = s.sync(self.job, self.pods.values(), self._backoff, now, _CLUSTER_BACKOFF_SECONDS)
        self._backoff = plan.backoff
        for manifest in plan.create:
            pod = self._waiting.pop(0)
            self.made.append((manifest, pod))
            self.pods[pod["metadata"]["name"]] = copy.deepcopy(pod)
            self.events.append(("Normal", "SuccessfulCreate", f"Created pod: {pod['metadata']['name']}"))
        for pod in (*plan.discard, *plan.delete):
            self.pods[pod["metadata"]["name"]]["metadata"]["deletionTimestamp"] = now.isoformat()
            self.events.append(("Normal", "SuccessfulDelete", f"Deleted pod: {pod['metadata']['name']}"))
        for pod in (*plan.discard, *plan.release):
            self.pods[pod["metadata"]["name"]]["metadata"]["finalizers"] = []
        self.written += [status for status in (plan.status, plan.settled) if status is not None]
        self.job["status"] = self.written[-1] if self.written else {}
        self.events += [(event.type, event.reason, event.message) for event in plan.events]
