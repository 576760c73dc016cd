"""The work of a run in numbers: what is planned is what is done, and what an early end spares is what was left."""

from hypothesis import given
from hypothesis import strategies as st

from finetune_api.spec import Training
from finetune_trainer.progress import TRAINING_COST, StepDone
from finetune_trainer.training.judging import Judge
from finetune_trainer.training.memory import Fit
from finetune_trainer.training.snapshot import TrainingState
from finetune_trainer.tuning.work import Work

TOKENS = 100
"""Of a step."""


def work_of(every: int | None, steps: int, **given_: int) -> Work:
    parts = {"references": 0, "baseline": 0, "between": 7, "tuned": 11} | given_
    judge = Judge(Training(), every, steps, ())
    return Work(steps=TOKENS * steps, total_steps=steps, writes_between=False, judge=judge, **parts)


def after(step: int, every: int | None, steps: int) -> TrainingState:
    state = TrainingState(fit=Fit(64, recompute=False), step=step)
    for number in range(1, step + 1):
        state.history.add(StepDone(number, steps, number / steps, 1.0, 1e-3, TOKENS))
    state.standing.measured_at = step // every * every if every else 0
    return state


@given(
    steps=st.integers(1, 20),
    every=st.none() | st.integers(1, 25),
    at=st.integers(0, 20),
    references=st.integers(0, 50),
    baseline=st.integers(0, 50),
)
def test_what_is_done_and_what_is_spared_are_the_whole_but_for_measuring_the_result(
    steps, every, at, references, baseline
):
    work = work_of(every, steps, references=references, baseline=baseline)
    state = after(min(at, steps), every, steps)
    assert work.done(state) + work.spared(state) + work.tuned == work.total
    assert work.spared(after(steps, every, steps)) == 0


def test_a_step_costs_three_evaluations_and_each_measurement_between_steps_counts():
    work = work_of(every=2, steps=5, references=3, baseline=5)
    assert work.total == 3 + 5 + TRAINING_COST * 5 * TOKENS + 2 * 7 + 11
    assert work.done(after(3, 2, 5)) == 3 + 5 + TRAINING_COST * 3 * TOKENS + 7
