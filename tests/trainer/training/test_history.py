"""The record of a training's steps: bounded, and the same whether or not it was carried over a checkpoint."""

import json
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.progress import StepDone
from finetune_trainer.training.history import History


def done(number: int) -> StepDone:
    return StepDone(step=number, total=10_000, epoch=number / 100, loss=1 / number, learning_rate=1e-4, tokens=7)


def told(numbers) -> History:
    history = History()
    for number in numbers:
        history.add(done(number))
    return history


def test_a_short_training_is_kept_whole():
    assert [step.step for step in told(range(1, 31)).steps] == list(range(1, 31))


def test_a_long_training_is_kept_in_even_strides_and_to_its_last_step():
    history = told(range(1, 10_004))
    steps = [step.step for step in history.steps]
    assert 500 <= len(steps) <= 1001
    assert steps[-1] == 10_003
    assert {second - first for first, second in pairwise(steps[:-1])} == {history.stride}
    assert history.tokens == 7 * 10_003


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2_500), st.integers(0, 2_500))
def test_going_on_from_json_changes_nothing(before, after):
    carried = History.of_dict(json.loads(json.dumps(told(range(1, before + 1)).to_dict())))
    for number in range(before + 1, before + after + 1):
        carried.add(done(number))
    assert carried == told(range(1, before + after + 1))
