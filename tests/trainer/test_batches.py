"""Batch plans: what every plan must hold, whatever the lengths and the settings."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.batches import micro_batches, plan_batches, token_budget

lengths = st.lists(st.integers(2, 64), min_size=1, max_size=200)


@settings(deadline=None)
@given(lengths, st.integers(1, 20), st.integers(1, 4), st.integers(0, 9))
def test_an_epoch_sees_every_example_once(lengths, batch_size, epochs, seed):
    plan = plan_batches(lengths, batch_size, epochs, None, seed)
    seen = Counter(index for step in plan for index in step)
    assert seen == Counter(dict.fromkeys(range(len(lengths)), epochs))
    assert len(list(plan)) == plan.total_steps == epochs * plan.steps_per_epoch


@settings(deadline=None)
@given(lengths, st.integers(1, 20), st.integers(1, 40), st.integers(0, 9))
def test_the_tokens_of_a_run_are_known_beforehand(lengths, batch_size, max_steps, seed):
    plan = plan_batches(lengths, batch_size, None, max_steps, seed)
    assert plan.total_tokens == sum(lengths[index] for step in plan for index in step)


@settings(deadline=None)
@given(lengths, st.integers(1, 20), st.integers(0, 9))
def test_equal_settings_make_equal_plans_and_another_seed_another(lengths, batch_size, seed):
    plans = [list(plan_batches(lengths, batch_size, 2, None, s)) for s in (seed, seed)]
    assert plans[0] == plans[1]


def test_another_seed_and_another_epoch_make_another_order():
    first, second = list(plan_batches([5] * 50, 5, 2, None, 1)), list(plan_batches([5] * 50, 5, 2, None, 2))
    together = [{frozenset(step) for step in steps} for steps in (first[:10], first[10:], second[:10])]
    assert together[0] != together[1]  # not only do the steps come in another order: other examples meet
    assert together[0] != together[2]


@pytest.mark.parametrize(
    ("examples", "batch_size", "epochs", "max_steps", "steps"),
    [
        (10, 4, None, None, 9),  # three epochs of three steps
        (10, 4, 0.5, None, 2),  # one and a half, rounded up
        (10, 4, 1 / 3, None, 1),
        (10, 4, None, 7, 7),
        (1, 16, 1, None, 1),
    ],
)
def test_the_number_of_steps_is_known_beforehand(examples, batch_size, epochs, max_steps, steps):
    assert plan_batches([3] * examples, batch_size, epochs, max_steps, 0).total_steps == steps


def test_records_of_about_one_length_are_batched_together():
    mixed = [5, 60] * 100
    plan = plan_batches(mixed, 10, 1, None, 3)
    assert all(len({mixed[index] for index in step}) == 1 for step in plan)


@settings(deadline=None)
@given(lengths, st.one_of(st.none(), st.integers(1, 8)), st.integers(8, 200))
def test_forward_passes_hold_all_of_a_step_within_their_bounds(lengths, size, budget):
    step = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    parts = micro_batches(step, lengths, size, budget)
    assert [index for part in parts for index in part] == step
    for part in parts:
        padded = len(part) * max(lengths[index] for index in part)
        assert len(part) <= size if size else padded <= budget or len(part) == 1


@pytest.mark.parametrize(("vocabulary", "tokens"), [(1000, 16_384), (151_936, 3_533), (10**6, 1_024)])
def test_a_large_vocabulary_makes_small_forward_passes(vocabulary, tokens):
    assert token_budget(vocabulary) == tokens
