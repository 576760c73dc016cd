"""Jobs and pods as a real cluster changed them."""

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

_FILE = Path(__file__).parents[1] / "data" / "oracle" / "objects.jsonl.gz"
_TEARDOWN = 100.0
"""Seconds after which the recorded cluster was being taken down."""


@cache
def _rows() -> list[dict[str, Any]]:
    with gzip.open(_FILE, "rt") as lines:
        return [row for line in lines if (row := json.loads(line))["t"] < _TEARDOWN]


def history(name: str) -> list[dict[str, Any]]:
    """Every state of a recorded Job and its pods, in order."""
    return [
        row["object"]
        for row in _rows()
        if row["object"]["kind"] in ("Job", "Pod")
        and row["type"] != "DELETED"
        and row["object"]["metadata"]["namespace"] == "oracle"
        and name in (row["object"]["metadata"]["name"], row["object"]["metadata"].get("labels", {}).get("job-name"))
    ]


def jobs() -> list[dict[str, Any]]:
    """Every state of every recorded Job, in order."""
    return [row["object"] for row in _rows() if row["object"]["kind"] == "Job"]


def refusals() -> list[str]:
    """What the Events of the Job say whose namespace has no quota for pods."""
    return [
        row["object"]["message"]
        for row in _rows()
        if row["object"]["kind"] == "Event"
        and row["object"]["reason"] == "FailedCreate"
        and row["object"]["metadata"]["namespace"] == "quota"
    ]


def last_job(name: str) -> dict[str, Any]:
    """The Job in its last state."""
    return [seen for seen in history(name) if seen["kind"] == "Job"][-1]


def last_pods(name: str) -> list[dict[str, Any]]:
    """The pods in their last states, in the order of their appearance."""
    found = {seen["metadata"]["name"]: seen for seen in history(name) if seen["kind"] == "Pod"}
    return list(found.values())
