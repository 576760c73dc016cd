"""The leader election: who leads, and who stops in time."""

import asyncio
import contextlib
import copy

import pytest

from finetune_operator.connection import ApiError, Unreachable
from finetune_operator.lease import Elector
from finetune_operator.settings import Settings
from tests.reconcile.plane import asynchronous, until

SETTINGS = {"lease_duration": 15.0, "lease_renew_deadline": 10.0, "lease_retry_period": 2.0}


class Leases:
    """A cluster with at most one Lease, and faults."""

    def __init__(self):
        self.lease = None
        self.version = 0
        self.fault = None

    async def _maybe_fail(self):
        if self.fault == "hang":
            await asyncio.Event().wait()
        if self.fault:
            raise self.fault

    def _store(self, lease):
        self.version += 1
        self.lease = copy.deepcopy(lease)
        self.lease["metadata"]["resourceVersion"] = str(self.version)
        return copy.deepcopy(self.lease)

    async def get_lease(self):
        await self._maybe_fail()
        return copy.deepcopy(self.lease)

    async def create_lease(self, lease):
        await self._maybe_fail()
        if self.lease:
            raise ApiError(409, {"reason": "AlreadyExists"})
        return self._store(lease)

    async def update_lease(self, lease):
        await self._maybe_fail()
        if lease["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise ApiError(409, {"reason": "Conflict"})
        return self._store(lease)


class Candidate:
    """An elector whose clock stands still until told otherwise."""

    def __init__(self, cluster, name, time, **settings):
        self.changes = []
        chosen = Settings(identity=name, **(SETTINGS | settings))
        self.elector = Elector(cluster, chosen, f"{name}:1", self.changes.append, lambda: time[0])

    async def round(self):
        await self.elector._round()
        return self.elector.leading


def candidates(*names, **settings):
    cluster, time = Leases(), [100.0]
    return cluster, time, [Candidate(cluster, name, time, **settings) for name in names]


@asynchronous
async def test_the_first_leads_and_the_others_know_its_address():
    cluster, _, (one, two) = candidates("one", "two")
    assert await one.round()
    assert not await two.round()
    assert two.elector.leader_address == "one:1"
    assert cluster.lease["spec"]["holderIdentity"] == "one@one:1"


@asynchronous
async def test_a_silent_leader_is_replaced_after_the_duration_by_the_observers_own_clock():
    cluster, time, (one, two) = candidates("one", "two")
    await one.round()
    await two.round()
    time[0] += 14
    assert not await two.round()
    time[0] += 2
    assert await two.round()
    assert cluster.lease["spec"]["leaseTransitions"] == 1
    assert not await one.round(), "the former leader sees that it was replaced"
    assert one.changes == [True, False]


@asynchronous
async def test_a_leader_that_renews_is_left_alone():
    _, time, (one, two) = candidates("one", "two")
    await one.round()
    for _ in range(20):
        time[0] += 8
        assert await one.round()
        assert not await two.round()
    assert one.changes == [True]


@pytest.mark.parametrize("fault", [Unreachable("cut"), ApiError(500, {"reason": "InternalError"})])
@asynchronous
async def test_a_leader_that_cannot_renew_stops_before_another_may_begin(fault):
    cluster, time, (one, two) = candidates("one", "two")
    await one.round()
    await two.round()
    cluster.fault = fault
    time[0] += 9
    assert await one.round()
    time[0] += 2
    assert not await one.round()
    cluster.fault = None
    assert not await two.round()
    assert one.changes == [True, False]


@asynchronous
async def test_a_request_that_hangs_does_not_keep_a_leader_leading():
    cluster, time, (one,) = candidates("one", lease_renew_deadline=2.1)
    await one.round()
    cluster.fault = "hang"
    time[0] += 2.05
    hanging = asyncio.create_task(one.round())
    await asyncio.sleep(0)
    time[0] += 0.1
    assert not await asyncio.wait_for(hanging, 5)


@asynchronous
async def test_two_that_reach_for_it_at_once_get_one_leader():
    cluster, _, (one, two) = candidates("one", "two")
    assert sorted(await asyncio.gather(one.round(), two.round())) == [False, True]
    assert cluster.lease


@asynchronous
async def test_the_same_replica_started_again_leads_at_once():
    cluster, time, (one,) = candidates("one")
    await one.round()
    assert await Candidate(cluster, "one", time).round()
    assert cluster.lease["spec"]["leaseTransitions"] == 0


@asynchronous
async def test_a_leader_that_ends_gives_the_lease_back():
    cluster, time, (one, two) = candidates("one", "two")
    task = asyncio.create_task(one.elector.run())
    await until(lambda: one.elector.leading)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert one.changes == [True, False]
    assert await two.round()
    assert cluster.lease["spec"]["holderIdentity"] == "two@two:1"
    assert time
