"""Cells of Tables: JSONPath, durations, and kubectl's columns of built-in kinds."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_local.apiserver.columns import BUILTIN_COLUMNS
from finetune_local.apiserver.durations import age, human_duration
from finetune_local.apiserver.jsonpath import JsonPathError, compile_path

OBJ = {
    "metadata": {"labels": {"a.b/c": "x"}},
    "status": {"conditions": [{"type": "A", "v": 1}, {"type": "Ready", "v": 2}], "list": [1, 2, 3]},
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (".status.list", [[1, 2, 3]]),
        (".status.list[0]", [1]),
        (".status.list[-1]", [3]),
        (".status.list[-1:]", [3]),
        (".status.list[1:]", [2, 3]),
        (".status.list[*]", [1, 2, 3]),
        (".status.list[9]", []),
        (".status.conditions[*].type", ["A", "Ready"]),
        ('.status.conditions[?(@.type=="Ready")].v', [2]),
        (".status.conditions[?(@.type!='Ready')].v", [1]),
        (".status.conditions[?(@.v==2)].type", ["Ready"]),
        (r".metadata.labels.a\.b/c", ["x"]),
        (".metadata.labels['a.b/c']", ["x"]),
        ("{.status.list[0]}", [1]),
        (".status.nothing.at.all", []),
    ],
)
def test_a_path_finds_values(path: str, found: list[Any]) -> None:
    assert compile_path(path)(OBJ) == found


@pytest.mark.parametrize("path", [".a[", ".a[?(@.b=~1)]", ".a[x]"])
def test_a_path_that_cannot_be_read_is_refused(path: str) -> None:
    with pytest.raises(JsonPathError, match="cannot"):
        compile_path(path)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (-5, "<invalid>"), (-0.5, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (150, "2m30s"), (599, "9m59s"),
        (600, "10m"), (3 * 3600 - 1, "179m"), (3 * 3600, "3h"), (4 * 3600 + 120, "4h2m"), (8 * 3600, "8h"),
        (47 * 3600, "47h"), (48 * 3600, "2d"), (51 * 3600, "2d3h"), (9 * 86400, "9d"), (3 * 365 * 86400, "3y"),
        (3 * 365 * 86400 + 5 * 86400, "3y5d"), (9 * 365 * 86400, "9y"),
    ],
)  # fmt: skip
def test_a_duration_is_told_in_two_units_at_most(seconds: float, told: str) -> None:
    assert human_duration(seconds) == told


def test_an_unknown_time_has_an_unknown_age() -> None:
    assert (age(None), age("no time")) == ("<unknown>", "<unknown>")


def cell(kind: str, column: str, obj: dict[str, Any]) -> Any:
    found = next(one for one in BUILTIN_COLUMNS[kind] if one.name == column)
    return found.cell({"metadata": {}, "spec": {}} | obj)


def container(**state: Any) -> dict[str, Any]:
    return {"containerStatuses": [{"name": "main", "state": state, "restartCount": 2}]}


@pytest.mark.parametrize(
    ("kind", "column", "obj", "told"),
    [
        ("Pod", "Status", {"status": {"phase": "Pending"}}, "Pending"),
        ("Pod", "Status", {"status": {"phase": "Pending", **container(waiting={"reason": "ImagePullBackOff"})}},
         "ImagePullBackOff"),
        ("Pod", "Status", {"status": {"phase": "Failed", **container(terminated={"reason": "OOMKilled"})}},
         "OOMKilled"),
        ("Pod", "Status", {"status": {"phase": "Failed", **container(terminated={"exitCode": 3})}}, "ExitCode:3"),
        ("Pod", "Status", {"status": {"phase": "Running"}, "metadata": {"deletionTimestamp": "x"}}, "Terminating"),
        ("Pod", "Restarts", {"status": container()}, "2"),
        ("Pod", "Ready", {"spec": {"containers": [{}]}, "status": {}}, "0/1"),
        ("Job", "Status", {"status": {"conditions": [{"type": "Failed", "status": "True"}]}}, "Failed"),
        ("Job", "Status", {"status": {"conditions": [{"type": "Suspended", "status": "True"}]}}, "Suspended"),
        ("Job", "Completions", {"spec": {"completions": 2}, "status": {"succeeded": 1}}, "1/2"),
        ("Job", "Duration",
         {"status": {"startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:01:30Z"}}, "90s"),
        ("Deployment", "Ready", {"spec": {"replicas": 2}, "status": {"readyReplicas": 1}}, "1/2"),
        ("Service", "Port(s)", {"spec": {"ports": [{"port": 80, "protocol": "TCP"}]}}, "80/TCP"),
        ("Event", "Object", {"involvedObject": {"kind": "Job", "name": "a"}}, "job/a"),
        ("Node", "Status", {"status": {"conditions": [{"type": "Ready", "status": "False"}]}}, "NotReady"),
        ("Lease", "Holder", {"spec": {"holderIdentity": "me"}}, "me"),
        ("Secret", "Data", {"data": {"a": "b"}}, 1),
    ],
)  # fmt: skip
def test_built_in_kinds_have_kubectls_cells(kind: str, column: str, obj: dict[str, Any], told: Any) -> None:
    assert cell(kind, column, obj) == told
