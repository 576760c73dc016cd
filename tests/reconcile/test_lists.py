"""Lists of thousands of objects: one by one in one answer, or in pages where the API server is older."""

import pytest

from finetune_local.apiserver import ApiError
from finetune_operator import connection
from finetune_operator.cluster import FINETUNEJOBS
from finetune_operator.connection import Connection, Unreachable
from tests.reconcile.plane import OPERATOR, asynchronous, plane


def uid_of(raw) -> str:
    return raw["metadata"]["uid"]


def verbs(p, since: int) -> list[str]:
    return [call.verb for call in p.server.requests[since:] if call.user == OPERATOR and call.resource]


@asynchronous
async def test_a_list_is_one_call_that_brings_all_and_where_to_watch_from(tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "_PAGE", 3)
    async with plane(tmp_path) as p:
        made = {uid_of(await p.apply(name=f"job-{number}")) for number in range(7)}
        reader = await Connection.connect(p.settings())
        before = len(p.server.requests)
        found, version = await reader.list_all(FINETUNEJOBS, None, {}, uid_of)
        assert set(found) == made
        assert version == str(p.server.store.version)
        assert verbs(p, before) == ["watch"]
        await reader.close()


@asynchronous
async def test_an_api_server_that_cannot_stream_is_asked_for_pages_and_not_asked_again(tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "_PAGE", 3)
    async with plane(tmp_path) as p:
        made = {uid_of(await p.apply(name=f"job-{number}")) for number in range(7)}

        async def older(call, when):
            if "sendInitialEvents" in call.path:
                raise ApiError(422, "Invalid", "sendInitialEvents is forbidden for watch")

        p.server.interceptor = older
        reader = await Connection.connect(p.settings())
        before = len(p.server.requests)
        for _ in range(2):
            found, _ = await reader.list_all(FINETUNEJOBS, None, {}, uid_of)
            assert set(found) == made
        assert verbs(p, before) == ["watch", *["list"] * 6]
        await reader.close()


@asynchronous
async def test_a_list_that_ends_early_or_is_refused_is_no_list(tmp_path):
    async with plane(tmp_path) as p:
        await p.apply()
        reader = await Connection.connect(p.settings())

        async def refuse(call, when):
            raise ApiError(403, "Forbidden", "no")

        p.server.interceptor = refuse
        with pytest.raises(connection.ApiError, match="403"):
            await reader.list_all(FINETUNEJOBS, None, {}, uid_of)
        p.server.interceptor = None

        async def ended(*_):
            yield {"type": "ADDED", "object": p.finetunejob()}

        reader.watch = ended
        with pytest.raises(Unreachable, match="before it was complete"):
            await reader.list_all(FINETUNEJOBS, None, {}, uid_of)
        await reader.close()
