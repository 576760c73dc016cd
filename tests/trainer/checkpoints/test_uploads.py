"""A queue with room for one, and a thread that works it off."""

import threading

import pytest

from finetune_trainer.checkpoints.uploads import Uploads


class Slow:
    """Work that goes on until it is let go, or abandoned."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.let_go = threading.Semaphore(0)
        self.done: list[str] = []

    def __call__(self, thing, group) -> None:
        self.begun.release()
        while not self.let_go.acquire(timeout=0.01):
            group.require()
        self.done.append(thing)


@pytest.fixture
def slow():
    return Slow()


def test_of_what_comes_while_one_is_on_its_way_only_the_newest_has_its_turn(slow):
    uploads = Uploads(slow)
    uploads.put("first")
    slow.begun.acquire()
    for thing in ("second", "third", "fourth"):
        uploads.put(thing)
    assert uploads.pending() == ["first", "fourth"]
    assert not uploads.wait(0)
    slow.let_go.release(2)
    assert uploads.wait(10)
    assert (slow.done, uploads.pending()) == (["first", "fourth"], [])


def test_where_nothing_was_put_there_is_nothing_to_wait_for(slow):
    uploads = Uploads(slow)
    assert uploads.wait(0)
    assert uploads.abandon()


def test_what_is_abandoned_ends_and_what_waits_is_never_begun(slow):
    uploads = Uploads(slow)
    uploads.put("first")
    slow.begun.acquire()
    uploads.put("second")
    assert uploads.abandon()
    assert slow.done == []
    assert not slow.begun.acquire(blocking=False)
    assert uploads._thread
    uploads._thread.join(10)
    assert not uploads._thread.is_alive()
