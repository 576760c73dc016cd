"""Pieces of work that share one fate."""

import threading
import time

import pytest

from finetune_trainer.errors import Stopped
from finetune_trainer.storage.parallel import Abandoned, Group, in_parallel


def test_results_come_in_the_order_of_the_items():
    turn = threading.Barrier(3)

    def work(item, group):
        turn.wait(10)  # all three are at it at once
        return item * item

    assert in_parallel([3, 1, 2], work, width=3) == [9, 1, 4]


def test_items_are_taken_as_there_is_room_for_them():
    """Whoever makes them, by reading gigabytes for instance, does not run ahead."""
    made, ended = [], []

    def items():
        for item in range(50):
            made.append(item)
            yield item

    def work(item, group):
        assert len(made) - len(ended) <= 4
        ended.append(item)

    in_parallel(items(), work, width=3)
    assert len(ended) == 50


def test_the_first_error_ends_the_rest_and_is_raised():
    ended = threading.Event()

    def work(item, group):
        if item == "fails":
            raise ValueError("first")
        try:
            group.pause(60)
        finally:
            ended.set()

    with pytest.raises(ValueError, match="first"):
        in_parallel(["waits", "fails", "never begun"], work, width=2)
    assert ended.is_set()


def test_an_error_in_making_the_items_ends_the_work():
    seen = []

    def items():
        yield 1
        raise OSError("unreadable")

    def work(item, group):
        seen.append(group)
        group.pause(60)

    with pytest.raises(OSError, match="unreadable"):
        in_parallel(items(), work, width=2)
    assert all(group.abandoned for group in seen)


def test_who_is_told_to_stop_takes_the_work_down_with_it():
    begun = threading.Event()
    groups: list[Group] = []

    def items():
        yield 1
        begun.wait(10)
        raise Stopped  # as SIGTERM does in the main thread

    def work(item, group):
        groups.append(group)
        begun.set()
        group.pause(60)

    with pytest.raises(Stopped):
        in_parallel(items(), work, width=2)
    assert groups[0].abandoned


def test_a_group_below_another_ends_with_it_and_not_the_other_way_round():
    above = Group()
    one, other = Group(above), Group(above)
    one.abandon()
    other.require()
    above.require()
    above.abandon()
    with pytest.raises(Abandoned):
        other.pause(60)
    with pytest.raises(Abandoned):
        Group(above).require()


def test_work_with_a_rate_takes_its_time_however_many_share_it():
    group, began = Group(rate=1_000_000), time.monotonic()
    in_parallel(range(4), lambda _, below: below.spend(60_000), width=4, above=group)
    assert time.monotonic() - began >= 0.2


def test_whoever_waits_for_a_rate_goes_on_at_once_where_it_is_lifted():
    group, waits = Group(rate=1), threading.Event()

    def spend():
        waits.set()
        Group(group).spend(1_000_000)

    thread = threading.Thread(target=spend, daemon=True)
    thread.start()
    waits.wait(10)
    group.hurry()
    thread.join(10)
    assert not thread.is_alive()
    Group(group).spend(1_000_000)


def test_whoever_waits_for_a_rate_ends_where_the_work_is_abandoned():
    group = Group(rate=1)
    threading.Timer(0.01, group.abandon).start()
    with pytest.raises(Abandoned):
        Group(group).spend(1_000_000)
