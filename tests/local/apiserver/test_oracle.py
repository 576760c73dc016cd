"""Replays what kubectl asked a real API server, and compares the answers.

What cannot be the same is mapped (UIDs, resourceVersions, generated names) or blotted out (times, ages).
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.local.apiserver.apiclient import APPLY, JOBS, Running, running
from tests.local.apiserver.samples import exchanges

_TIMES = {"creationTimestamp", "deletionTimestamp", "time", "expirationTimestamp", "lastTransitionTime", "token"}
_AGE = re.compile(r"\d+(s|m|h|d|m\d+s|h\d+m)")
_VOLATILE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?<=too old resource version: 1 )\(\d+\)")

# Statuses whose message is put in words of the JSON parser.
_OWN_WORDS = {"raw-bad-json"}


class Replay:
    """Sends the recorded requests, translated, and remembers what stands for what."""

    def __init__(self, api: Running) -> None:
        self.api = api
        self.ours: dict[str, str] = {}

    def translated(self, text: str) -> str:
        for theirs, ours in sorted(self.ours.items(), key=lambda pair: -len(pair[0])):
            text = text.replace(theirs, ours)
        return text

    def learn(self, theirs: Any, ours: Any) -> None:
        """UIDs, resourceVersions and generated names of the same objects."""
        if isinstance(theirs, dict) and isinstance(ours, dict):
            for key in theirs.keys() & ours.keys():
                if key == "uid" or (key == "name" and "generateName" in theirs):
                    self.ours[theirs[key]] = ours[key]
                if key == "resourceVersion" and "uid" in theirs:
                    self.ours[f'"{theirs[key]}"'] = f'"{ours[key]}"'
                self.learn(theirs[key], ours[key])
        elif isinstance(theirs, list) and isinstance(ours, list):
            for one, other in zip(theirs, ours, strict=False):
                self.learn(one, other)


def comparable(value: Any, key: str = "") -> Any:
    """A body without what differs from run to run, and without what carries no meaning."""
    if key in _TIMES and isinstance(value, str):
        return "<time>"
    if key == "resourceVersion":
        return "<version>"
    if key == "managedFields":
        value = sorted(value, key=lambda one: (one["operation"], one["manager"], one.get("subresource", "")))
    if key == "cells":
        return ["<age>" if isinstance(one, str) and _AGE.fullmatch(one) else one for one in value]
    if isinstance(value, dict):
        dropped = {"description", "priority"} if "priority" in value else set()
        if value.get("kind") == "Status":
            value = {**value, "details": value.get("details") or {}}
        return {k: comparable(v, k) for k, v in value.items() if k not in dropped and v not in (None, "")}
    if isinstance(value, list):
        return [comparable(one) for one in value]
    return _VOLATILE.sub("<own>", value) if isinstance(value, str) else value


def without_containers(managed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """managedFields of built-in kinds: Go's structs hide which containers were set, so those are not compared."""

    def bare(tree: Any) -> Any:
        return {key: bare(one) for key, one in tree.items() if key != "."} if isinstance(tree, dict) else tree

    return [bare(entry) for entry in managed]


def body_of(text: str) -> Any:
    lines = [json.loads(line) for line in text.splitlines() if line.startswith('{"type"')]
    if lines:
        return lines
    try:
        return json.loads(text)
    except ValueError:
        return text.strip()


def expected_body(response: Any) -> Any:
    if isinstance(response, dict) and response.keys() == {"type", "object"}:
        return [response]
    return body_of(response) if isinstance(response, str) else response


def replay(api: Running) -> list[tuple[str, dict[str, Any], Any, Any]]:
    """Every exchange with both answers: (step, exchange, real, ours)."""
    session = Replay(api)
    seen = []
    for one in exchanges():
        if one["step"] == "describe" and "z" not in api.get(JOBS + "/one").json["metadata"]["annotations"]:
            # Done by hand while the recording watched.
            annotated = {"metadata": {"annotations": {"z": "1"}}}
            api.patch(f"{JOBS}/one?fieldManager=kubectl-annotate", annotated)
        path = re.sub(r"timeoutSeconds=\d+", "timeoutSeconds=1", session.translated(one["path"]))
        path = _with_live_version(api, path, one)
        sent = session.translated(one["request"])
        kind = one["headers"].get("Content-Type", "application/json")
        answer = api.call(one["method"], path, sent or None, kind, one["headers"]["Accept"], agent="curl/8")
        theirs, ours = expected_body(one["response"]), body_of(answer.text)
        session.learn(theirs, ours)
        named = json.loads(session.translated(json.dumps(theirs)))
        seen.append((one["step"], one | {"ours": answer}, named, ours))
    return seen


def _with_live_version(api: Running, path: str, one: dict[str, Any]) -> str:
    """Watches begin where the live server is now, but for the one that asks for a version long gone."""
    if "watch=true" not in path:
        return path
    items = api.get(f"{JOBS}?fieldSelector=metadata.name%3Done").json["items"]
    # The recorded watch saw the write that lay between its list and itself.
    back = 1 if one["step"] == "wait-condition" else 0
    return re.sub(
        r"resourceVersion=\d+", f"resourceVersion={int(items[0]['metadata']['resourceVersion']) - back}", path
    )


@pytest.fixture(scope="module")
def replayed() -> list[tuple[str, dict[str, Any], Any, Any]]:
    with running() as api:
        return replay(api)


def test_every_answer_has_the_status_code_of_the_real_server(replayed: Any) -> None:
    real = [(step, one["method"], one["path"], one["status"]) for step, one, _, _ in replayed]
    ours = [(step, one["method"], one["path"], one["ours"].status) for step, one, _, _ in replayed]
    assert ours == real


def test_every_body_means_what_the_real_one_means(replayed: Any) -> None:
    for step, one, theirs, ours in replayed:
        if step == "apply-crd" and "status" in ours:
            del theirs["status"], ours["status"]  # here a definition is established before the answer
        if theirs is None:
            continue  # the real one answered in protobuf
        if step in _OWN_WORDS:
            assert ours["reason"] == theirs["reason"]
            continue
        theirs, ours = comparable(theirs), comparable(ours)
        if "/samplejobs" not in one["path"]:
            theirs, ours = _without_managed(theirs), _without_managed(ours)
        assert ours == theirs, f"{step} {one['method']} {one['path']}"


def _without_managed(body: Any) -> Any:
    if isinstance(body, dict):
        return {key: _without_managed(one) for key, one in body.items() if key != "managedFields"}
    return [_without_managed(one) for one in body] if isinstance(body, list) else body


@pytest.mark.parametrize("wanted", ["raw-lease-create", "apply-batch-job"])
def test_a_built_in_object_has_the_same_managed_fields_as_on_the_real_server(replayed: Any, wanted: str) -> None:
    _, _, theirs, ours = next(one for one in replayed if one[0] == wanted and one[1]["method"] == "POST")
    managed = [without_containers(comparable(body)["metadata"]["managedFields"]) for body in (ours, theirs)]
    assert managed[0] == managed[1]


def test_a_warning_is_told_where_the_real_server_tells_one(replayed: Any) -> None:
    warned = [(one.get("warning"), one["ours"].headers.get("Warning")) for _, one, _, _ in replayed]
    assert [ours for _, ours in warned] == [theirs for theirs, _ in warned]


def test_the_resource_version_moves_only_where_the_real_one_does(replayed: Any) -> None:
    """Objects with the same version there have the same version here, and the other way round."""
    pairs = set()
    for _, one, theirs, ours in replayed:
        if isinstance(theirs, dict) and "uid" in theirs.get("metadata", {}) and one["status"] < 300:
            versions = [body["metadata"].get("resourceVersion") for body in (theirs, ours)]
            pairs.add((theirs["metadata"]["uid"], *versions))
    assert len({(uid, real) for uid, real, _ in pairs}) == len(pairs)
    assert len({(uid, own) for uid, _, own in pairs}) == len(pairs)


def test_an_apply_needs_no_schema_to_be_refused_as_recorded(jobs_api: Running) -> None:
    """The recorded conflict, alone: fields of another manager stay unless the apply is forced."""
    recorded = next(one for one in exchanges() if one["step"] == "server-side-apply")
    create = next(one for one in exchanges() if one["step"] == "apply" and one["method"] == "POST")
    jobs_api.post(create["path"], create["request"])
    change = json.loads(recorded["request"])
    change["spec"]["epochs"] = 9
    answer = jobs_api.patch(f"{JOBS}/one?fieldManager=ci", change, APPLY)
    assert answer.status == 409
    assert ".spec.epochs" in [cause["field"] for cause in answer.json["details"]["causes"]]
