"""The learning rate over the steps."""

import pytest

from finetune_trainer.training.schedule import Schedule


@pytest.mark.parametrize(
    ("kind", "fraction", "rates"),
    [
        ("constant", 0.0, [1, 1, 1, 1]),
        ("linear", 0.0, [1, 0.75, 0.5, 0.25]),
        ("cosine", 0.0, [1, 0.853553, 0.5, 0.146447]),
        ("linear", 0.5, [1 / 3, 2 / 3, 1, 0.5]),
        ("constant", 1.0, [0.2, 0.4, 0.6, 0.8]),
    ],
)
def test_the_rate_rises_and_falls_as_named(kind, fraction, rates):
    schedule = Schedule(1.0, kind, 4, fraction)
    assert [schedule.rate(step) for step in range(4)] == pytest.approx(rates, abs=1e-6)


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("total", [1, 2, 1000])
def test_no_step_is_for_nothing(kind, total):
    schedule = Schedule(2e-4, kind, total, 0.03)
    assert all(0 < schedule.rate(step) <= 2e-4 for step in range(total))
