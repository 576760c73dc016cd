"""How long troubles are waited out, and that it is never longer."""

import random

from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.storage.patience import Patience


def longest(patience: Patience, reached: bool) -> float:
    """Seconds that a request may take until it is given up, at most."""
    calm = Patience(chance=Longest())
    pauses = [calm.pause(tries, reached) for tries in range(1, 100)]
    taken = [pause for pause in pauses if pause is not None]
    return sum(taken) + (len(taken) + 1) * max(patience.silence_seconds, patience.connect_seconds)


class Longest(random.Random):
    """Draws the longest pause every time."""

    def uniform(self, low: float, high: float) -> float:
        return high


def test_the_bounds_are_those_that_are_promised():
    assert longest(Patience(), reached=False) < 30
    assert longest(Patience(), reached=True) < 180


@given(st.integers(1, 7), st.integers())
def test_pauses_double_within_their_chance(tries, seed):
    pause = Patience(chance=random.Random(seed)).pause(tries, reached=True)
    whole = min(30, 2 ** (tries - 1))
    assert whole / 2 <= pause <= whole


def test_a_run_s_own_random_numbers_are_not_touched():
    random.seed(7)
    expected = random.random()
    random.seed(7)
    Patience().pause(1, reached=True)
    assert random.random() == expected
