"""Groups of examples that pad little."""

from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.training.alike import alike

sides = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=120)


@given(sides, st.integers(1, 9), st.booleans())
def test_every_example_is_in_one_group_of_the_size_asked_for(sides, size, two):
    lengths, targets = [source + target for source, target in sides], [target for _, target in sides]
    groups = alike(range(len(sides)), size, lengths, targets if two else None)
    assert sorted(index for group in groups for index in group) == list(range(len(sides)))
    assert [len(group) for group in groups] == [size] * (len(sides) // size) + [len(sides) % size][: len(sides) % size]
    assert all(group == sorted(group, key=lambda index: -lengths[index]) for group in groups)


def test_examples_of_equal_length_but_unequal_sides_are_kept_apart():
    """Long sources with short targets, and the other way round: put together they would pad both."""
    sides = [(50, 10), (10, 50)] * 20
    groups = alike(range(40), 4, [60] * 40, [target for _, target in sides])
    assert all(len({sides[index] for index in group}) == 1 for group in groups)


@given(sides)
def test_with_one_length_groups_are_those_of_the_sorted_examples(sides):
    lengths = [source for source, _ in sides]
    ranked = [lengths[index] for group in alike(range(len(sides)), 4, lengths, None) for index in group]
    assert ranked == sorted(lengths, reverse=True)
