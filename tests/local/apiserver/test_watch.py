"""Watches: what they tell, where they begin, and how they end."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest

from tests.local.apiserver.apiclient import JOBS, TABLE, Running, running
from tests.local.apiserver.samples import config_map, sample_job

MAPS = "/api/v1/namespaces/default/configmaps"


def version(api: Running) -> str:
    return str(api.get(MAPS).json["metadata"]["resourceVersion"])


def kinds(events: list[dict[str, object]]) -> list[tuple[str, str]]:
    return [(event["type"], event["object"]["metadata"]["name"]) for event in events]  # type: ignore[index,misc]


def test_a_watch_from_a_version_tells_every_change_since(api: Running) -> None:
    start = version(api)
    api.post(MAPS, config_map())
    api.patch(f"{MAPS}/c", {"data": {"k": "w"}})
    api.delete(f"{MAPS}/c")
    events = api.get(f"{MAPS}?watch=1&resourceVersion={start}&timeoutSeconds=1").events
    assert kinds(events) == [("ADDED", "c"), ("MODIFIED", "c"), ("DELETED", "c")]
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in events]
    assert versions == sorted(set(versions))


@pytest.mark.parametrize("since", ["", "0"])
def test_a_watch_from_nowhere_begins_with_all_objects(api: Running, since: str) -> None:
    api.post(MAPS, config_map())
    assert ("ADDED", "c") in kinds(api.get(f"{MAPS}?watch=1&resourceVersion={since}&timeoutSeconds=1").events)


def test_an_object_that_comes_to_match_is_added_and_one_that_ceases_is_deleted(api: Running) -> None:
    start = version(api)
    api.post(MAPS, config_map())
    for team in ("a", "b"):
        api.patch(f"{MAPS}/c", {"metadata": {"labels": {"team": team}}})
    path = f"{MAPS}?watch=1&resourceVersion={start}&timeoutSeconds=1&labelSelector=team=a"
    assert kinds(api.get(path).events) == [("ADDED", "c"), ("DELETED", "c")]


def test_a_watch_sees_one_namespace_or_all(api: Running) -> None:
    start = version(api)
    api.post(MAPS, config_map("here"))
    api.post(MAPS.replace("default", "kube-system"), config_map("there"))
    wait = f"?watch=1&resourceVersion={start}&timeoutSeconds=1"
    assert kinds(api.get(MAPS + wait).events) == [("ADDED", "here")]
    assert kinds(api.get("/api/v1/configmaps" + wait).events) == [("ADDED", "here"), ("ADDED", "there")]


def test_initial_events_end_with_a_marked_bookmark(api: Running) -> None:
    api.post(MAPS, config_map())
    wait = "?watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=1"
    *_, added, bookmark = api.get(MAPS + wait).events
    assert added["type"] == "ADDED"
    assert bookmark["type"] == "BOOKMARK"
    assert bookmark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


def test_a_version_before_the_history_has_expired() -> None:
    with running(history=5) as api:
        start = version(api)
        for number in range(8):
            api.post(MAPS, config_map(f"c{number}"))
        (event,) = api.get(f"{MAPS}?watch=1&resourceVersion={start}&timeoutSeconds=1").events
        assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")
        assert api.get(f"{MAPS}?watch=1&resourceVersion={version(api)}&timeoutSeconds=1").events == []


def test_a_table_watch_tells_a_table_a_change(jobs_api: Running) -> None:
    start = jobs_api.get(JOBS).json["metadata"]["resourceVersion"]
    jobs_api.post(JOBS, sample_job())
    path = f"{JOBS}?watch=1&resourceVersion={start}&timeoutSeconds=1"
    (event,) = jobs_api.get(path, accept=TABLE).events
    assert event["object"]["kind"] == "Table"
    assert event["object"]["rows"][0]["cells"][0] == "one"


@pytest.fixture
def open_watch(api: Running) -> Iterator[list[str]]:
    """A watch that is open, in a thread; lines appear in the list, and "end" when it ends."""
    lines: list[str] = []

    def watch() -> None:
        answer = api.get(f"{MAPS}?watch=1&resourceVersion={start}&timeoutSeconds=30")
        lines.extend(json.loads(line)["type"] for line in answer.text.splitlines())
        lines.append("end")

    start = version(api)
    thread = threading.Thread(target=watch)
    thread.start()
    api.until(lambda: api.server.open_watches == 1)
    yield lines
    api.server.end_watches()
    thread.join()


def test_a_watch_can_be_ended_from_outside(api: Running, open_watch: list[str]) -> None:
    api.post(MAPS, config_map())
    api.in_loop(lambda: api.server.end_watches(("", "configmaps")))
    api.until(lambda: open_watch == ["ADDED", "end"])
    assert api.server.open_watches == 0


def test_a_watch_ends_with_its_definition(jobs_api: Running) -> None:
    ended = threading.Event()

    def watch() -> None:
        jobs_api.get(f"{JOBS}?watch=1&timeoutSeconds=30")
        ended.set()

    threading.Thread(target=watch, daemon=True).start()
    jobs_api.until(lambda: jobs_api.server.open_watches == 1)
    jobs_api.delete("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/samplejobs.finetune.dev")
    assert ended.wait(5)


def test_a_client_that_goes_away_ends_its_watch_without_a_word(api: Running, caplog: pytest.LogCaptureFixture) -> None:
    connection = api.connect()
    connection.request("GET", f"{MAPS}?watch=1", headers=api.authorization())
    connection.getresponse()
    api.until(lambda: api.server.open_watches == 1)
    connection.sock.close()
    for number in range(20):
        api.post(MAPS, config_map(f"c{number}"))
    connection.close()
    api.until(lambda: api.server.open_watches == 0)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
