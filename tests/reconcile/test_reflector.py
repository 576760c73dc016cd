"""A watch goes on where it can, and lists where it must."""

import asyncio
import contextlib

import pytest

from finetune_operator.cache import Cache
from finetune_operator.cluster import PODS
from finetune_operator.connection import ApiError, Unreachable
from finetune_operator.observed import PodState
from finetune_operator.reflector import Reflector
from tests import builders as b
from tests.reconcile.plane import asynchronous, until


class Script:
    """A cluster whose lists and watches answer by a script; then they wait for ever."""

    def __init__(self, lists, watches):
        self.lists, self.watches = list(lists), list(watches)
        self.watched_from = []

    async def list_all(self, resource, namespace, params, read):
        answer = self.lists.pop(0)
        if isinstance(answer, Exception):
            raise answer
        items, version = answer
        return [read(item) for item in items], version

    async def watch(self, resource, namespace, params, resource_version):
        self.watched_from.append(resource_version)
        for event in self.watches.pop(0) if self.watches else [None]:
            if event is None:
                await asyncio.Event().wait()
            if isinstance(event, Exception):
                raise event
            yield event


def event(kind, name, at):
    raw = b.pod(name=name)
    raw["metadata"]["resourceVersion"] = at
    return {"type": kind, "object": raw}


def bookmark(at):
    return {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": at}}}


@pytest.mark.parametrize(
    ("lists", "watches", "watched_from", "left"),
    [
        ([([], "1")], [[event("ADDED", "a", "2"), event("DELETED", "a", "3"), bookmark("9")]], ["1", "9"], set()),
        ([([b.pod(name="a")], "1")], [[event("ADDED", "c", "2")], []], ["1", "2", "2"], {"a", "c"}),
        ([([b.pod(name="a")], "1"), ([], "5")], [[ApiError(410, {"reason": "Expired"})]], ["1", "5"], set()),
        ([([], "1")], [[event("ADDED", "a", "2"), Unreachable("cut")]], ["1", "2"], {"a"}),
        ([Unreachable("away"), ([b.pod(name="a")], "1")], [], ["1"], {"a"}),
        ([([], "1"), ([b.pod(name="a")], "4")], [[ApiError(500, {"reason": "InternalError"})]], ["1", "4"], {"a"}),
    ],
    ids=["bookmark", "ended by the server", "history gone", "cut off", "unreachable at first", "failed"],
)
@asynchronous
async def test_a_watch_goes_on_where_it_can_and_lists_where_it_must(monkeypatch, lists, watches, watched_from, left):
    monkeypatch.setattr("finetune_operator.reflector.FIRST_PAUSE", 0.01)
    cluster, cache = Script(lists, watches), Cache()
    reflector = Reflector(cluster, PODS, None, PodState.of, cache, lambda text: None)
    task = asyncio.create_task(reflector.run())
    await until(lambda: len(cluster.watched_from) == len(watched_from))
    assert reflector.synced.is_set()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert cluster.watched_from == watched_from
    assert {pod.name for pod in cache.of(b.UID, b.NAMESPACE)} == left
