"""How long nothing changed: by what was seen, not by what clocks say."""

import pytest

from finetune_api.run import Report
from finetune_operator.observed import JobState, PodState, ReceivedReport
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


def reported(percent, **metrics):
    pod = PodState.of(b.running_pod())
    return ReceivedReport(pod.uid, Report.model_validate(b.report(percent, eta=0, **metrics)).trainer_status, None)


def running(report=None):
    return situation_of(JOB, [PodState.of(b.running_pod())], report)


@pytest.mark.parametrize(
    ("before", "after", "still"),
    [
        (running(reported(40, current_step="7")), running(reported(40, current_step="7")), True),
        (running(reported(40, current_step="7")), running(reported(40, current_step="8")), False),
        (running(reported(40, phase="Evaluating")), running(reported(41, phase="Evaluating")), False),
        (running(), running(reported(0)), False),
        (running(), situation_of(JOB, [PodState.of(b.running_pod("another"))], None), False),
        (
            situation_of(JOB, [PodState.of(b.waiting_pod("ErrImagePull", "no such image"))], None),
            situation_of(JOB, [PodState.of(b.waiting_pod("ImagePullBackOff", "Back-off"))], None),
            True,
        ),
        (situation_of(JOB, [], None), situation_of(JobState.of(b.job(attempt=1)), [], None), False),
    ],
)
def test_what_counts_as_progress(before, after, still):
    assert (before == after) is still
