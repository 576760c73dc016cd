"""How long nothing changed: by what was seen, not by what clocks say."""

import pytest

from finetune_operator.observed import JobState, PodState
from finetune_operator.stillness import LOOK, Stillness, situation_of
from tests import builders as b

JOB = JobState.of(b.job())


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def test_looks_add_up_until_something_changes():
    clock = Clock()
    stillness = Stillness(clock)
    told = []
    for what in ("a", "a", "a", "b", "b"):
        told.append(stillness.seen("uid", what))
        clock.now += LOOK
    assert told == [0.0, LOOK, 2 * LOOK, 0.0, LOOK]
    stillness.forget("uid")
    assert stillness.seen("uid", "b") == 0.0


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_who_was_paused_or_whose_clock_jumps_has_not_seen_an_hour_of_nothing(jump):
    clock = Clock()
    stillness = Stillness(clock)
    stillness.seen("uid", "a")
    clock.now += jump
    assert stillness.seen("uid", "a") <= 2 * LOOK


def test_what_stirs_between_two_looks_counts_from_then_on():
    clock = Clock()
    stillness = Stillness(clock)
    stillness.stirred("uid")
    stillness.seen("uid", "a")
    clock.now += 20
    stillness.stirred("uid")
    clock.now += 7
    assert stillness.seen("uid", "a") == 7.0
    clock.now += 20
    assert stillness.seen("uid", "a") == 27.0


RUNNING = situation_of(JOB, [PodState.of(b.running_pod())])


@pytest.mark.parametrize(
    ("before", "after", "still"),
    [
        (RUNNING, situation_of(JOB, [PodState.of(b.running_pod())]), True),
        (RUNNING, situation_of(JOB, [PodState.of(b.running_pod("another"))]), False),
        (
            situation_of(JOB, [PodState.of(b.waiting_pod("ErrImagePull", "no such image"))]),
            situation_of(JOB, [PodState.of(b.waiting_pod("ImagePullBackOff", "Back-off"))]),
            True,
        ),
        (situation_of(JOB, []), situation_of(JobState.of(b.job(attempt=1)), []), False),
    ],
)
def test_what_counts_as_a_change(before, after, still):
    assert (before == after) is still
