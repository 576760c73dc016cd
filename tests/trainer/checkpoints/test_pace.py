"""When a training is saved: by steps or by time, and never at a price that it would feel."""

from itertools import pairwise

import pytest

from finetune_trainer.checkpoints.pace import Pace


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_by_steps_time_does_not_matter(clock):
    pace = Pace(3, clock)
    clock.now = 1e6
    assert [step for step in range(1, 11) if pace.due(step)] == [3, 6, 9]


def test_by_time_one_is_due_every_ten_minutes(clock):
    pace, due = Pace(None, clock), []
    for step in range(1, 100):
        clock.now += 45
        if pace.due(step):
            due.append(clock.now)
            with pace.saving():
                clock.now += 3
    assert [round(later - earlier) for earlier, later in pairwise(due)] == [633] * (len(due) - 1)
    assert due[0] == 630


def test_a_training_never_stands_still_for_more_than_a_fiftieth_of_its_time(clock):
    pace = Pace(None, clock)
    clock.now = 600
    assert pace.due(1)
    with pace.saving():
        clock.now += 40
    clock.now += 1999
    assert not pace.due(2)
    clock.now += 1
    assert pace.due(2)


@pytest.mark.parametrize(("every_steps", "seconds", "worth"), [(None, 59, False), (None, 60, True), (1000, 0, True)])
def test_the_last_state_is_worth_an_upload_unless_it_took_less_than_a_minute(clock, every_steps, seconds, worth):
    pace = Pace(every_steps, clock)
    clock.now = 5000
    with pace.saving():
        pass
    clock.now += seconds
    assert pace.worth_an_upload() is worth
