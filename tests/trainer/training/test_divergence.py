"""When a training is called astray: soon where there is no number, and never for what a healthy training does."""

import math
import random
import re

import pytest

from finetune_trainer.training.divergence import LossWatch


def faults(losses, norm=1.0):
    """(index, fault) of the first step that is refused."""
    watch = LossWatch()
    return next(((i, fault) for i, loss in enumerate(losses) if (fault := watch.fault(loss, norm))), None)


def noisy(level, noise, count, seed=0):
    chance = random.Random(seed)
    return [level(n) + chance.gauss(0, noise) for n in range(count)]


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_seen_at_once(loss):
    assert faults([2.0, loss])[0] == 1


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_gradient_that_is_no_number_is_seen_at_once(norm):
    assert LossWatch().fault(2.0, norm) == f"gradient's norm became {norm}"


@pytest.mark.parametrize(
    "losses",
    [
        noisy(lambda n: 4 * 0.99**n, 0.3, 500),  # learning
        noisy(lambda n: 2.0, 0.5, 500),  # heterogeneous data
        noisy(lambda n: 0.01 if n % 100 else 0.4, 0.001, 500),  # overfitting, and a new record now and then
        noisy(lambda n: 2.0 if n % 37 else 9.0, 0.1, 500),  # a hard batch now and then
        noisy(lambda n: 1.5 if n < 200 else 1.9, 0.05, 400),  # a second epoch of harder data
        noisy(lambda n: 2 + 3 * (n < 3), 0.1, 100),  # warm-up
    ],
)
def test_what_a_healthy_training_does_is_no_fault(losses):
    assert faults(losses) is None


@pytest.mark.parametrize("rise", [lambda n: 6.0, lambda n: 2.0 + 0.5 * n])
def test_a_loss_that_rises_and_stays_is_seen_within_some_steps(rise):
    losses = noisy(lambda n: 2.0, 0.1, 100) + [rise(n) for n in range(30)]
    at, fault = faults(losses)
    assert 100 < at < 110
    assert re.match(r"loss rose from about (1\.9|2\.0)\d\d to [\d.]+ and stayed there", fault)


def test_a_watch_that_was_carried_over_judges_alike():
    losses = noisy(lambda n: 2.0, 0.1, 60) + [8.0] * 10
    whole, first = LossWatch(), LossWatch()
    for loss in losses[:40]:
        first.fault(loss, 1.0)
    carried = LossWatch(list(first.losses))
    verdicts = [whole.fault(loss, 1.0) for loss in losses]
    assert verdicts[40:] == [carried.fault(loss, 1.0) for loss in losses[40:]]
    assert any(verdicts)
