"""Batch plans: what every plan must hold, whatever the lengths and the settings."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.training.batches import Cut, plan_batches

lengths = st.lists(st.integers(2, 64), min_size=1, max_size=200)


@settings(deadline=None)
@given(lengths, st.integers(1, 20), st.integers(1, 4), st.integers(0, 9))
def test_an_epoch_sees_every_example_once(lengths, batch_size, epochs, seed):
    plan = plan_batches(lengths, batch_size, epochs, None, seed)
    times = Counter(index for step in plan for index in step)
    assert times == Counter(dict.fromkeys(range(len(lengths)), epochs))
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


def test_records_that_are_padded_are_batched_with_others_of_about_their_length():
    mixed = [5, 60] * 100
    assert all(len({mixed[i] for i in step}) == 1 for step in plan_batches(mixed, 10, 1, None, 3, bucketed=True))
    assert not all(len({mixed[i] for i in step}) == 1 for step in plan_batches(mixed, 10, 1, None, 3))


@settings(deadline=None)
@given(lengths, st.integers(1, 20), st.integers(1, 40), st.booleans())
def test_any_step_can_be_found_by_its_number(lengths, batch_size, steps, bucketed):
    plan = plan_batches(lengths, batch_size, None, steps, 1, bucketed)
    assert [plan.step(number) for number in reversed(range(steps))] == list(plan)[::-1]


parts = st.lists(st.tuples(st.integers(1, 40), st.floats(0.01, 4)), min_size=1, max_size=5)


def mixture(parts, batch_size=7, epochs=None, max_steps=None, seed=3):
    count = sum(count for count, _ in parts)
    return plan_batches([index % 13 + 2 for index in range(count)], batch_size, epochs, max_steps, seed, weights=parts)


def seen(plan, steps):
    return Counter(index for number in range(steps) for index in plan.step(number))


@settings(deadline=None)
@given(parts, st.integers(1, 20), st.integers(1, 5))
def test_every_epoch_sees_of_each_part_its_share_and_no_example_is_preferred(parts, batch_size, epochs):
    plan = mixture(parts, batch_size, epochs)
    assert plan.total_steps == epochs * plan.steps_per_epoch
    first = 0
    for count, weight in parts:
        share = max(1, int(weight * count + 0.5))
        for epoch in range(1, epochs + 1):
            times = seen(plan, epoch * plan.steps_per_epoch)
            of_part = [times[index] for index in range(first, first + count)]
            assert sum(of_part) == epoch * share
            assert max(of_part) - min(of_part) <= 1
        first += count


@settings(deadline=None)
@given(parts, st.integers(1, 20), st.integers(1, 60), st.integers(0, 9))
def test_the_tokens_of_a_mixture_are_known_beforehand_and_any_of_its_steps(parts, batch_size, steps, seed):
    plan = mixture(parts, batch_size, None, steps, seed)
    planned = list(plan)
    assert plan.total_tokens == sum(plan.lengths[index] for step in planned for index in step)
    assert [plan.step(number) for number in reversed(range(steps))] == planned[::-1]
    assert list(mixture(parts, batch_size, None, steps, seed)) == planned


def test_weights_of_one_are_no_weights():
    lengths = [index % 13 + 2 for index in range(60)]
    one_set, mixed = (plan_batches(lengths, 7, 2, None, 5, weights=w) for w in (None, [(20, 1.0), (40, 1.0)]))
    assert list(one_set) == list(mixed)


def test_half_a_weight_sees_the_other_half_in_the_next_epoch_and_another_seed_draws_another_half():
    plan = mixture([(40, 0.5)], epochs=2)
    halves = [set(seen(plan, plan.steps_per_epoch))]
    halves.append(set(seen(plan, 2 * plan.steps_per_epoch)) - halves[0])
    assert [len(half) for half in halves] == [20, 20]
    assert set(seen(mixture([(40, 0.5)], epochs=1, seed=4), plan.steps_per_epoch)) not in halves


def longest_first(lengths):
    return sorted(range(len(lengths)), key=lambda index: -lengths[index])


@settings(deadline=None)
@given(lengths, st.booleans(), st.one_of(st.none(), st.integers(1, 8)), st.integers(8, 200))
def test_forward_passes_hold_all_of_a_step_within_their_bounds(lengths, packed, records, tokens):
    parts = Cut(packed, tokens, records).micro_batches(longest_first(lengths), lengths)
    assert sorted(index for part in parts for index in part) == list(range(len(lengths)))
    for part in parts:
        taken = sum(lengths[i] for i in part) if packed else len(part) * max(lengths[i] for i in part)
        assert len(part) <= records if records else taken <= tokens or len(part) == 1


@settings(deadline=None)
@given(lengths, st.integers(64, 300))
def test_packing_needs_hardly_more_passes_than_there_must_be(lengths, tokens):
    """First-fit decreasing: at most 11/9 of the optimum and 6/9 (Dósa 2007); the sum over the room is no more."""
    parts = Cut(True, tokens).micro_batches(longest_first(lengths), lengths)
    halves = sum(length > tokens / 2 for length in lengths)
    least = max(-(-sum(lengths) // tokens), halves)
    assert len(parts) <= 11 / 9 * least * 1.5 + 1
    assert all(sum(lengths[i] for i in one + other) > tokens for one, other in pairwise(parts))


def test_packing_leaves_no_padding_and_fewer_passes_than_padding_does():
    lengths = [60, 55, 40, 30, 20, 10, 5, 5, 4, 3] * 4
    step = longest_first(lengths)
    packed, padded = (Cut(p, 128).micro_batches(step, lengths) for p in (True, False))
    assert len(packed) == -(-sum(lengths) // 128) < len(padded)
