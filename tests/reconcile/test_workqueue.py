"""The keyed work queue."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.workqueue import LONGEST_BACKOFF, Lanes, WorkQueue
from tests.reconcile.plane import asynchronous, until


class Workers:
    """Workers on a queue that note what they do and wait until told to go on."""

    def __init__(self, count: int = 3) -> None:
        self.queue: WorkQueue[str] = WorkQueue(jitter=lambda: 1.0)
        self.queue.resume()
        self.begun: list[str] = []
        self.failures: list[str] = []
        self.at_once = 0
        self.most_at_once = 0
        self.answer: float | None = None
        self.fail = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.tasks = [asyncio.create_task(self.queue.work(self._handle, self._failed)) for _ in range(count)]

    async def _handle(self, key: str) -> float | None:
        self.begun.append(key)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await self.gate.wait()
        await asyncio.sleep(0)
        self.at_once -= 1
        if self.fail:
            self.fail -= 1
            raise ValueError(key)
        return self.answer

    def _failed(self, key: str, error: Exception) -> None:
        self.failures.append(key)

    async def __aenter__(self) -> "Workers":
        return self

    async def __aexit__(self, *_) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.mark.parametrize(
    ("added", "taken"),
    [
        ("a1 a2 a3", "a1 a2 a3"),
        ("a1 a2 a3 b1", "a1 b1 a2 a3"),
        ("a1 a2 b1 b2 c1", "a1 b1 c1 a2 b2"),
        ("a1 b1 a1 b1", "a1 b1"),
        ("", ""),
    ],
)
def test_lanes_take_turns(added, taken):
    lanes = Lanes(lambda key: key[0])
    for key in added.split():
        lanes.add(key)
    assert [lanes.take() for _ in range(len(lanes))] == taken.split()


@given(st.lists(st.one_of(st.none(), st.tuples(st.sampled_from("abc"), st.integers(0, 5)))))
def test_no_key_is_lost_or_doubled_and_none_waits_longer_than_its_lane_and_the_others_turns(story):
    """A story adds keys of three lanes and takes some in between (None)."""
    lanes: Lanes[tuple[str, int]] = Lanes(lambda key: key[0])
    waiting: dict[tuple[str, int], int] = {}

    def take() -> None:
        key = lanes.take()
        assert waiting.pop(key) >= 0, f"{key} waited for too many turns"
        for other in waiting:
            waiting[other] -= 1

    for key in story:
        if key is None:
            if waiting:
                take()
        else:
            assert lanes.add(key) == (key not in waiting)
            ahead = Counter(lane for lane, _ in waiting)[key[0]]
            waiting.setdefault(key, 3 * (ahead + 1) - 1)  # turns of three lanes, for each key of its own before it
        assert len(lanes) == len(waiting)
    while waiting:
        take()
    assert len(lanes) == 0


@asynchronous
async def test_a_tenant_with_many_keys_delays_another_by_one_turn():
    waits: list[float] = []
    queue: WorkQueue[str] = WorkQueue(lane_of=lambda key: key[0], waited=waits.append)
    begun = []

    async def handle(key: str) -> None:
        begun.append(key)

    for number in range(1000):
        queue.add(f"a{number}")
    queue.add("b")
    assert len(queue) == 1001
    queue.resume()
    worker = asyncio.create_task(queue.work(handle, lambda key, error: None))
    await until(queue.idle)
    worker.cancel()
    assert begun.index("b") == 1
    assert len(waits) == 1001
    assert min(waits) >= 0


@asynchronous
async def test_a_key_waits_at_most_once():
    async with Workers() as w:
        w.queue.pause()
        for _ in range(5):
            w.queue.add("a")
        w.queue.resume()
        await until(w.queue.idle)
        assert w.begun == ["a"]


@asynchronous
async def test_a_key_has_one_worker_and_what_came_meanwhile_is_worked_on_afterwards():
    async with Workers() as w:
        w.gate.clear()
        w.queue.add("a")
        await until(lambda: w.begun == ["a"])
        w.queue.add("a")
        w.queue.add("a")
        w.queue.add("b")
        await until(lambda: w.begun == ["a", "b"])
        w.gate.set()
        await until(w.queue.idle)
        assert w.begun == ["a", "b", "a"]


@asynchronous
async def test_different_keys_are_worked_on_at_the_same_time():
    async with Workers(count=3) as w:
        w.gate.clear()
        for key in "abcd":
            w.queue.add(key)
        await until(lambda: w.most_at_once == 3)
        w.gate.set()
        await until(w.queue.idle)
        assert sorted(w.begun) == ["a", "b", "c", "d"]


@asynchronous
async def test_a_failure_is_told_and_tried_again_later_until_a_success_forgets_it():
    async with Workers() as w:
        w.fail = 2
        w.queue.add("a")
        await until(lambda: len(w.begun) == 3, seconds=5)
        assert w.failures == ["a", "a"]
        await until(w.queue.idle)
        assert w.queue.backoff("a") == 0.2


def test_the_backoff_grows_to_its_limit():
    queue: WorkQueue[str] = WorkQueue(jitter=lambda: 1.0)
    waits = [queue.backoff("a") for _ in range(12)]
    assert waits[:4] == [0.2, 0.4, 0.8, 1.6]
    assert waits[-1] == LONGEST_BACKOFF
    assert WorkQueue(jitter=lambda: 0.0).backoff("a") == 0.1


@asynchronous
async def test_a_handler_says_when_it_wants_to_look_again():
    async with Workers() as w:
        w.answer = 0.01
        w.queue.add("a")
        await until(lambda: len(w.begun) >= 3)


@asynchronous
async def test_of_two_delays_the_shorter_counts_and_an_event_counts_at_once():
    async with Workers() as w:
        w.queue.add_after("a", 60)
        w.queue.add_after("a", 0.01)
        w.queue.add_after("a", 90)
        await until(lambda: w.begun == ["a"])
        w.queue.add_after("b", 60)
        w.queue.add("b")
        await until(lambda: w.begun == ["a", "b"])
        assert w.queue.idle()


@asynchronous
async def test_a_paused_queue_keeps_its_keys():
    async with Workers() as w:
        w.queue.pause()
        w.queue.add("a")
        await asyncio.sleep(0.05)
        assert w.begun == []
        w.queue.resume()
        await until(lambda: w.begun == ["a"])
