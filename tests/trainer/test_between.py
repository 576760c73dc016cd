"""Whole runs that are measured on the way, and what comes of it."""

import os
import random
import signal

import pytest

from finetune_api.run import ExitCode
from finetune_trainer.progress import Progress, StepDone
from finetune_trainer.report import Reporter
from tests import tiny
from tests.trainer.test_resume import STEPS, result, sigterm_asks, whole

EVERYTHING = {
    "training": STEPS
    | {
        "optimizer": "adamw8bit",
        "emaDecay": 0.8,
        "neftuneAlpha": 5,
        "l1": 1e-5,
        "labelSmoothing": 0.1,
        "schedule": "plateau",
        "plateau": {"metric": "token_accuracy", "patience": 1},
        "earlyStopping": {"patience": 4},
        "restoreBest": {},
    },
    "method": {"adapter": "none"},
    "evaluation": {"everySteps": 2, "samples": 1, "maxNewTokens": 4},
}
WORDS = ["red", "green", "blue", "one", "two"]
CHANCE = random.Random(0)
GUESSES = [{"prompt": f"say {n % 10}", "completion": f" {CHANCE.choice(WORDS)}"} for n in range(40)]
"""What there is to learn of them is a few words; then every further step makes a model surer of what is chance."""
GUESSING = {"maxSteps": 100, "learningRate": 0.02, "maxLength": 64, "schedule": "constant", "warmupFraction": 0}


class Watching(Progress):
    """Progress that counts evaluated batches, and during one of which SIGTERM arrives."""

    def __init__(self, moment: int | None = None) -> None:
        super().__init__(Reporter(None))
        self.moment = moment
        self.batches = 0
        self.percents: list[int] = []

    def evaluated(self, tokens: int) -> None:
        super().evaluated(tokens)
        self.batches += 1
        self.percents.append(self.percent)
        if self.batches == self.moment:
            os.kill(os.getpid(), signal.SIGTERM)

    def trained(self, done) -> None:
        super().trained(done)
        self.percents.append(self.percent)


@pytest.mark.parametrize(("moment", "step"), [(5, 2), (11, 6), (20, 12)])
def test_a_run_that_is_stopped_while_it_measures_ends_in_the_same_bits(s3, trainer, moment, step):
    """A measurement takes three batches, that of the base too."""
    changes = EVERYTHING | {"data": trainer.data(tiny.json_lines(*tiny.PAIRS))}
    expected = whole(s3, trainer, **changes)
    with sigterm_asks() as stop:
        stopped = trainer.run(Watching(moment), stop, **changes)
    assert stopped.code == ExitCode.PREEMPTED, stopped.result.error
    assert f"Step {step} is saved in s3://" in stopped.message
    ended = trainer.run(Watching(), **changes)
    assert ended.code == 0, ended.result.error
    assert result(s3, ended) == expected
    report = s3.report(ended.location)
    assert report["resumedAt"] == [step]
    assert [each["step"] for each in report["evaluations"]] == [2, 4, 6, 8, 10, 12]


def test_a_training_that_gets_worse_ends_early_and_the_best_is_published(s3, trainer):
    training = GUESSING | {"earlyStopping": {"patience": 3}, "restoreBest": {"metric": "eval_loss"}}
    progress = Watching()
    data = trainer.data(tiny.json_lines(*GUESSES), fraction=0.5)
    ended = trainer.run(progress, data=data, training=training, evaluation={"everySteps": 2})
    assert ended.code == 0, ended.result.error
    report = s3.report(ended.location)
    losses = {each["step"]: each["metrics"]["eval_loss"] for each in report["evaluations"]}
    best = min(losses, key=losses.__getitem__)
    assert (report["bestStep"], report["stoppedEarly"], max(losses)) == (best, True, best + 6)
    assert report["steps"][-1]["step"] == best + 6 < 100
    assert ended.metric("eval_loss")[0] == pytest.approx(losses[best], rel=1e-6)
    assert losses[best + 6] > losses[best]
    assert progress.percents == sorted(progress.percents)
    assert progress.percents[-1] == 98  # all but the publication


def test_what_was_measured_last_is_reported_and_takes_nothing_from_the_speed(trainer):
    now = [0.0]
    progress = Progress(Reporter(None), clock=lambda: now[0])
    progress.plan(1000)
    progress.begin_training()
    now[0] += 2
    with progress.beside_training():
        now[0] += 100
        progress.evaluated(10)
    progress.measured({"eval_loss": 1.25, "perplexity": 3.5})
    progress.trained(StepDone(1, 9, 0.1, 2.0, 1e-3, 50))
    assert progress.status().number("eval_loss") == 1.25
    assert progress.status().number("perplexity") is None
    assert progress.status().number("tokens_per_second") == 25


def test_all_that_is_measured_on_the_way_is_in_the_plan_of_the_work(trainer):
    progress = Watching()
    ended = trainer.run(progress, evaluation={"everySteps": 1, "baseline": False})
    assert ended.code == 0, ended.result.error
    assert (progress.batches, progress.percents[-1]) == (3, 98)  # after steps 1 and 2, and at the end


@pytest.mark.parametrize("baseline", [True, False])
def test_a_metric_that_the_task_does_not_measure_is_refused_as_soon_as_it_measures(trainer, baseline):
    training = {"maxSteps": 3, "earlyStopping": {"metric": "f1"}}
    progress = Watching()
    ended = trainer.run(progress, training=training, evaluation={"everySteps": 1, "baseline": baseline})
    assert ended.code == ExitCode.CONFIGURATION_INVALID
    assert ended.message == (
        "spec.training.earlyStopping.metric is 'f1', which this task does not measure. It measures eval_loss, "
        "perplexity, token_accuracy."
    )
    assert progress.batches == 1
