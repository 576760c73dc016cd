"""Which attempt is the present one, what it is to be like, and when it may begin."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.attempts import Attempts
from finetune_operator.times import format_time
from tests import builders as b

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def ended(number, reason="TrainerCrashed", lasted=5, ago=0, **more):
    finished = NOW - timedelta(seconds=ago)
    started = format_time(finished - timedelta(seconds=lasted))
    times = {"startedAt": started, "finishedAt": format_time(finished)}
    return {"number": number, "reason": reason} | times | more


@pytest.mark.parametrize(
    ("recorded", "number", "present"),
    [
        ([], 0, {}),
        ([{"number": 0}], 0, {"number": 0}),
        ([{"number": 0, "reason": "Suspended"}], 0, {"number": 0, "reason": "Suspended"}),
        ([ended(0)], 1, {}),
        ([ended(0), {"number": 1}], 1, {"number": 1}),
        ([{"number": 7}, ended(6)], 7, {"number": 7}),
        ([ended(41, "FromTheFuture")], 42, {}),
        (["nonsense", {"number": "x"}], 0, {}),
    ],
)
def test_the_present_attempt_is_the_last_one_or_the_one_after_it(recorded, number, present):
    attempts = Attempts.of({"attempts": recorded})
    assert (attempts.number, attempts.present) == (number, present)


@pytest.mark.parametrize(
    ("recorded", "divisor"),
    [
        ([], 1),
        ([ended(0, "OutOfMemory")], 2),
        ([ended(0, "OutOfMemory"), ended(1, "OutOfMemory", microBatchDivisor=2)], 4),
        ([ended(0, "OutOfMemory"), ended(1, "Disrupted", microBatchDivisor=2)], 2),
        ([ended(0, "OutOfMemory"), {"number": 1, "microBatchDivisor": 2}], 2),
        ([ended(0)], 1),
    ],
)
def test_memory_that_ran_out_halves_what_goes_through_for_all_attempts_to_come(recorded, divisor):
    assert Attempts.of({"attempts": recorded}).divisor == divisor


def wait(*recorded, shortest=10, longest=600):
    begins = Attempts.of({"attempts": list(recorded)}).begins_at(b.UID, NOW, shortest, longest)
    return (begins - NOW).total_seconds() if begins else 0.0


@pytest.mark.parametrize(
    ("recorded", "about"),
    [
        ([], 0),
        ([ended(0)], 10),
        ([ended(0), ended(1)], 20),
        ([ended(n) for n in range(5)], 160),
        ([ended(n) for n in range(9)], 600),
        ([ended(0), ended(1), ended(2, lasted=601)], 10),
        ([ended(0), ended(1, lasted=601), ended(2)], 10),
        ([ended(0), ended(1, "Suspended")], 0),
        ([ended(0, ago=-3600)], 0),  # a clock was turned back
        ([{"number": 0, "finishedAt": format_time(NOW)}], 10),
    ],
)
def test_the_wait_doubles_with_each_attempt_in_a_row_that_did_not_last(recorded, about):
    assert 0.75 * about <= wait(*recorded) <= 1.25 * about


@given(st.integers(1, 10**6), st.uuids())
def test_whoever_looks_again_comes_to_the_same_moment(number, uid):
    attempts = Attempts.of({"attempts": [ended(number)]})
    begins = attempts.begins_at(str(uid), NOW, 10, 600)
    assert begins == attempts.begins_at(str(uid), NOW + timedelta(seconds=3), 10, 600)
    assert timedelta(seconds=7.5) <= begins - NOW <= timedelta(seconds=12.5)


def test_jobs_that_failed_together_do_not_begin_together():
    attempts = Attempts.of({"attempts": [ended(0)]})
    assert len({attempts.begins_at(f"uid-{n}", NOW, 10, 600) for n in range(20)}) == 20
