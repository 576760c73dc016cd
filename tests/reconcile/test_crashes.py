"""The operator dies at any of its calls to the API server and is started again: same end, one Job."""

import asyncio

import pytest

from finetune_api import names
from finetune_local.apiserver import DropConnection
from tests.reconcile.plane import DEADLINE, OPERATOR, SUCCEEDS, Plane, asynchronous, plane, until

QUICK = {"identity": "one"}
PHASES = ("before", "after")


class Killer:
    """Cuts the operator off at its n-th call (kopf's, watches and the Lease not counted), before the call is carried
    out or before it is answered; from then on the operator gets no call through."""

    def __init__(self, p: Plane, at: int | None, when: str) -> None:
        self.counted = 0
        self.struck = False
        self._at, self._when = at, when
        p.server.interceptor = self

    async def __call__(self, call, when) -> None:
        if call.user != OPERATOR:
            return
        if self.struck:
            raise DropConnection
        if call.user_agent != names.MANAGER or call.resource == "leases" or call.verb == "watch" or not call.resource:
            return
        if when == "before":
            self.counted += 1
        if self.counted == self._at and when == self._when:
            self.struck = True
            raise DropConnection


def reached_the_same_end(p: Plane) -> None:
    """One Job, one pod, and the status of a job that nobody disturbed."""
    assert len(p.jobs()) == 1
    assert len(p.pods()) == 1
    status = p.status()
    assert [attempt["reason"] for attempt in status["attempts"]] == ["Succeeded"]
    assert status["result"]["digest"] == "sha256:abc"


async def clear(p: Plane) -> None:
    """Make the cluster as it was."""
    p.server.interceptor = None
    await p.delete()
    await until(lambda: not p.jobs() and not p.pods() and not p.finetunejob(), "all is gone")


async def calls_of_an_undisturbed_life(p: Plane) -> int:
    killer = Killer(p, None, "before")
    async with p.operator(**QUICK):
        await p.apply()
        await p.phase("Succeeded")
        await until(lambda: len(p.events()) == 3, "its Events")
    reached_the_same_end(p)
    await clear(p)
    return killer.counted


@asynchronous
async def test_the_operator_may_be_killed_at_any_call(tmp_path):
    async with plane(tmp_path) as p:
        p.script["support-bot"] = [SUCCEEDS]
        calls = await calls_of_an_undisturbed_life(p)
        assert calls >= 8
        for at in range(1, calls + 1):
            for when in PHASES:
                killer = Killer(p, at, when)
                await p.apply()
                async with p.operator(**QUICK):
                    await until(lambda killer=killer: killer.struck or p.status().get("phase") == "Succeeded")
                p.server.interceptor = None
                async with p.operator(**QUICK):
                    await p.phase("Succeeded")
                reached_the_same_end(p)
                await clear(p)


@pytest.mark.parametrize(("verb", "resource"), [("create", "jobs"), ("patch", "finetunejobs")])
@asynchronous
async def test_the_process_may_be_killed_around_a_write(tmp_path, verb, resource):
    async with plane(tmp_path) as p:
        p.script["support-bot"] = [SUCCEEDS]
        struck = asyncio.Event()

        async def strike(call, when):
            if call.user == OPERATOR and (call.verb, call.resource) == (verb, resource) and when == "after":
                struck.set()
                raise DropConnection

        p.server.interceptor = strike
        await p.apply()
        async with p.process(lease_retry_period=0.2) as process:
            await asyncio.wait_for(struck.wait(), DEADLINE)
            process.kill()
            await process.wait()
        p.server.interceptor = None
        async with p.process(lease_retry_period=0.2):
            await p.phase("Succeeded")
        reached_the_same_end(p)
