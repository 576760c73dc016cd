"""The log of requests, and faults that tests put in the way."""

from __future__ import annotations

import asyncio
import http.client

import pytest

from finetune_local.apiserver import ApiError, DropConnection, RequestRecord
from tests.local.apiserver.apiclient import JOBS, Running
from tests.local.apiserver.samples import config_map, sample_job

MAPS = "/api/v1/namespaces/default/configmaps"


def test_every_request_is_recorded_with_what_it_asked_and_got(jobs_api: Running) -> None:
    jobs_api.post(JOBS, sample_job())
    jobs_api.patch(f"{JOBS}/one/status?fieldManager=x", {"status": {"phase": "Running"}}, agent="operator/2.0")
    record = jobs_api.server.requests[-1]
    assert (record.method, record.path) == ("PATCH", f"{JOBS}/one/status?fieldManager=x")
    assert (record.user_agent, record.user) == ("operator/2.0", "kubernetes-admin")
    asked = (record.verb, record.group, record.resource, record.subresource, record.namespace, record.name)
    assert asked == ("patch", "finetune.dev", "samplejobs", "status", "default", "one")
    assert (record.status, record.writes) == (200, True)


def test_reads_and_dry_runs_are_no_writes(api: Running) -> None:
    api.post(f"{MAPS}?dryRun=All", config_map())
    api.get(MAPS)
    assert not any(record.writes for record in api.server.requests)


def test_a_request_can_be_answered_with_an_error_before_it_takes_effect(api: Running) -> None:
    async def interceptor(record: RequestRecord, phase: str) -> None:
        if record.verb == "create" and phase == "before":
            raise ApiError(503, "ServiceUnavailable", "come back later")

    api.server.interceptor = interceptor
    answer = api.post(MAPS, config_map())
    assert (answer.status, answer.json["reason"]) == (503, "ServiceUnavailable")
    api.server.interceptor = None
    assert api.get(MAPS).items == []


@pytest.mark.parametrize(("phase", "left"), [("before", []), ("after", ["c"])])
def test_a_connection_can_be_cut_before_or_after_the_effect(api: Running, phase: str, left: list[str]) -> None:
    async def interceptor(record: RequestRecord, now: str) -> None:
        if record.verb == "create" and now == phase:
            raise DropConnection

    api.server.interceptor = interceptor
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError, OSError)):
        api.post(MAPS, config_map())
    assert api.server.requests[-1].status == 0
    assert api.get(MAPS).items == left


def test_a_request_can_be_held_up(api: Running) -> None:
    released = asyncio.Event()
    held: list[str] = []

    async def interceptor(record: RequestRecord, phase: str) -> None:
        if record.verb == "create" and phase == "before":
            held.append(record.resource)
            await released.wait()

    api.server.interceptor = interceptor
    future = api.in_background(lambda: api.post(MAPS, config_map()).status)
    api.until(lambda: held == ["configmaps"])
    assert api.get(MAPS).items == []
    api.in_loop(released.set)
    assert future.result(10) == 201


def test_a_server_that_is_busy_says_for_how_long(api: Running) -> None:
    async def busy(record: RequestRecord, phase: str) -> None:
        raise ApiError(429, "TooManyRequests", "busy", retry_after=7)

    api.server.interceptor = busy
    answer = api.get(MAPS)
    assert (answer.status, answer.headers["Retry-After"]) == (429, "7")


def test_a_server_that_lags_lists_what_was_and_reads_what_is(api: Running) -> None:
    past = api.server.store.present()
    api.post(MAPS, config_map())
    api.server.lag(past)
    listed = api.get(MAPS).json
    assert [item["metadata"]["name"] for item in listed["items"] if item["metadata"]["name"] == "c"] == []
    assert listed["metadata"]["resourceVersion"] == str(past.version)
    assert api.get(f"{MAPS}/c").status == 200
