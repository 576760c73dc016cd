"""Pod logs, read from the files that a node agent writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.local.apiserver.apiclient import Running
from tests.local.apiserver.samples import pod

PODS = "/api/v1/namespaces/default/pods"


def start(api: Running, logs_dir: Path, text: str = "one\ntwo\nthree\n") -> Path:
    """A pod that runs on a node, and the file of its log."""
    uid = api.post(PODS, pod()).json["metadata"]["uid"]
    api.patch(f"{PODS}/p", {"spec": {"nodeName": "node1"}})
    state = {"name": "main", "state": {"running": {}}, "ready": True, "restartCount": 0, "image": "i", "imageID": ""}
    api.patch(f"{PODS}/p/status", {"status": {"phase": "Running", "containerStatuses": [state]}})
    log = logs_dir / uid / "main.log"
    log.parent.mkdir(parents=True)
    log.write_text(text)
    return log


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("", "one\ntwo\nthree\n"),
        ("?tailLines=2", "two\nthree\n"),
        ("?tailLines=0", ""),
        ("?container=main", "one\ntwo\nthree\n"),
    ],
)
def test_a_log_is_told_whole_or_by_its_last_lines(api: Running, logs_dir: Path, query: str, text: str) -> None:
    start(api, logs_dir)
    answer = api.get(f"{PODS}/p/log{query}", accept="*/*")
    assert (answer.status, answer.text) == (200, text)
    assert answer.headers["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize(("lines", "begins"), [("", "one\ntwo\nthree\n"), ("&tailLines=1", "three\n")])
def test_a_log_is_followed_until_the_pod_ends(api: Running, logs_dir: Path, lines: str, begins: str) -> None:
    log = start(api, logs_dir)
    followed = api.in_background(lambda: api.get(f"{PODS}/p/log?follow=true{lines}").text)
    api.until(lambda: api.server.requests[-1].subresource == "log")
    with log.open("a") as more:
        more.write("four\n")
    api.patch(f"{PODS}/p/status", {"status": {"phase": "Succeeded"}})
    told = followed.result(10)
    assert told in (begins + "four\n", "four\n" if lines else "")


def test_a_pod_on_no_node_has_no_log_yet(api: Running) -> None:
    api.post(PODS, pod())
    assert api.get(f"{PODS}/p/log").status == 204


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("?container=other", "container other is not valid for pod p"),
        ("?previous=true", 'previous terminated container "main" in pod "p" not found'),
        ("?timestamps=true", "the parameter timestamps is not supported"),
    ],
)
def test_a_log_that_cannot_be_told_is_a_bad_request(api: Running, logs_dir: Path, query: str, told: str) -> None:
    start(api, logs_dir)
    answer = api.get(f"{PODS}/p/log{query}")
    assert answer.status == 400
    assert told in answer.json["message"]


def test_a_container_that_waits_says_why(api: Running, logs_dir: Path) -> None:
    start(api, logs_dir)
    waiting = {"name": "main", "state": {"waiting": {"reason": "ImagePullBackOff"}}}
    api.patch(f"{PODS}/p/status", {"status": {"containerStatuses": [waiting]}})
    told = 'container "main" in pod "p" is waiting to start: ImagePullBackOff'
    assert api.get(f"{PODS}/p/log").json["message"] == told


def test_of_several_containers_one_must_be_named(api: Running) -> None:
    body = pod()
    body["spec"]["containers"].append({"name": "side", "image": "busybox:1"})
    api.post(PODS, body)
    told = "a container name must be specified for pod p, choose one of: [main side]"
    assert api.get(f"{PODS}/p/log").json["message"] == told
