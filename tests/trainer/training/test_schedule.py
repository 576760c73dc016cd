"""The learning rate over the steps."""

import pytest
import torch
from transformers import get_wsd_schedule

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


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine", "wsd", "plateau"])
@pytest.mark.parametrize("total", [1, 2, 1000])
def test_no_step_is_for_nothing(kind, total):
    schedule = Schedule(2e-4, kind, total, 0.03)
    assert all(0 < schedule.rate(step) <= 2e-4 for step in range(total))


@pytest.mark.parametrize(("total", "warmup", "decay"), [(100, 0.1, 0.2), (50, 0.0, 1.0), (40, 0.25, 0.5), (10, 0, 0)])
def test_warm_up_stable_decay_is_that_of_transformers(total, warmup, decay):
    """But for the warm-up, which begins with zero there and spends a step on it."""
    rising = int(warmup * total)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = get_wsd_schedule(optimizer, rising, int(decay * total), total, decay_type="linear")
    expected = [theirs.lr_lambdas[0](step) for step in range(rising, total)]
    ours = Schedule(1.0, "wsd", total, warmup, decay)
    assert [ours.rate(step) for step in range(rising, total)] == pytest.approx(expected)
    assert [ours.rate(step) for step in range(rising)] == pytest.approx([(n + 1) / (rising + 1) for n in range(rising)])


def test_a_fifth_of_the_steps_decays_unless_it_is_said_otherwise_and_never_before_the_warm_up_is_over():
    assert [Schedule(1.0, "wsd", 10, 0).rate(step) for step in (7, 8, 9)] == [1, 1, 0.5]
    assert [Schedule(1.0, "wsd", 4, 0.5, 1.0).rate(step) for step in (1, 2, 3)] == pytest.approx([2 / 3, 1, 0.5])
