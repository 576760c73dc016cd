"""What follows from measurements on the way: against torch's scheduler, and by tables."""

import json
import random

import pytest
import torch

from finetune_api.run import ExitCode
from finetune_api.spec import Training
from finetune_trainer.errors import TrainerError
from finetune_trainer.training.judging import Judge, Standing


def judge(every: int | None = 1, total: int = 100, **settings) -> Judge:
    return Judge(Training.model_validate(settings), every, total, ("eval_loss",))


def judged(judge: Judge, *values: float, metric: str = "eval_loss") -> list[Standing]:
    """The standing after each measurement; from each to the next it goes through JSON, as in a checkpoint."""
    standing, seen = Standing(), []
    for step, value in enumerate(values, 1):
        judge.judge({metric: value}, step, standing)
        seen.append(standing)
        standing = Standing.of_dict(json.loads(json.dumps(standing.to_dict())))
    return seen


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("metric", "mode"), [("eval_loss", "min"), ("f1", "max")])
def test_the_rate_is_lowered_when_torch_lowers_it(seed, metric, mode):
    chance = random.Random(seed)
    values = [chance.random() for _ in range(60)]
    settings = {"metric": metric, "patience": 3, "factor": 0.5, "minDelta": 0.01}
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode, factor=0.5, patience=2, threshold=0.01, threshold_mode="abs", eps=0
    )  # its patience is how many bad ones it bears, ours at how many it acts
    expected = []
    for value in values:
        theirs.step(value)
        expected.append(optimizer.param_groups[0]["lr"])
    found = judged(judge(schedule="plateau", plateau=settings), *values, metric=metric)
    assert [standing.rate_factor for standing in found] == expected
    assert expected[-1] < 0.1


@pytest.mark.parametrize(
    ("settings", "values", "stopped_at"),
    [
        ({"patience": 2}, [5, 4, 4, 3, 3.5, 3], 6),  # equal is no improvement
        ({"patience": 2}, [5, 4, 3, 2, 1, 0], None),
        ({"patience": 1}, [5, 6], 2),
        ({"patience": 2, "minDelta": 0.5}, [5, 4.9, 4.8], 3),
        ({"patience": 2, "minDelta": 0.5}, [5, 4.8, 4.4, 4.3, 3.8], None),  # small gains add up
        ({"patience": 2, "metric": "f1"}, [0.1, 0.2, 0.3, 0.2, 0.3], 5),
    ],
)
def test_patience_ends_after_so_many_measurements_without_a_better_one(settings, values, stopped_at):
    metric = settings.get("metric", "eval_loss")
    found = judged(judge(earlyStopping=settings), *values, metric=metric)
    assert [standing.stopped for standing in found] == [stopped_at == step for step in range(1, len(values) + 1)]


def test_there_is_nothing_to_stop_after_the_last_step():
    assert not judged(judge(total=2, earlyStopping={"patience": 1}, restoreBest={}), 1, 2)[-1].stopped


@pytest.mark.parametrize(
    ("metric", "best"),
    [
        ("eval_loss", [True, True, False, False, True]),
        ("general/eval_loss", [True, True, False, False, True]),
        ("f1", [True] + [False] * 4),
    ],
)
def test_the_best_is_the_first_of_the_best(metric, best):
    values, standing = [3.0, 2.0, 2.0, 2.5, 1.0], Standing()
    decides = judge(restoreBest={"metric": metric})
    assert [decides.judge({metric: value}, step, standing) for step, value in enumerate(values, 1)] == best


@pytest.mark.parametrize(("every", "total"), [(None, 10), (1, 10), (3, 10), (5, 10), (20, 10)])
@pytest.mark.parametrize("settings", [{}, {"restoreBest": {}}])
def test_measurements_are_counted_as_they_come_and_the_last_step_is_one_only_where_it_decides(every, total, settings):
    decides = judge(every, total, **settings if every else {})
    steps = [step for step in range(total + 1) if decides.measures_at(step)]
    expected = [step for step in range(1, total) if every and step % every == 0]
    assert steps == expected + ([total] if every and settings else [])
    assert [decides.measurements(step) for step in range(total + 1)] == [
        len([at for at in steps if at <= step]) for step in range(total + 1)
    ]


def test_it_is_measured_once_after_a_step():
    decides, standing = judge(2), Standing()
    assert [decides.due(step, standing) for step in (0, 1, 2)] == [False, False, True]
    decides.judge({}, 2, standing)
    assert not decides.due(2, standing)


@pytest.mark.parametrize("name", ["plateau", "earlyStopping", "restoreBest"])
def test_a_metric_that_is_not_measured_is_a_fault_of_the_configuration(name):
    settings = {name: {"metric": "bleu"}} | ({"schedule": "plateau"} if name == "plateau" else {})
    with pytest.raises(TrainerError, match=rf"spec.training.{name}.metric is 'bleu', .* eval_loss, perplexity") as told:
        judge(**settings).require({"eval_loss": 1.0, "perplexity": 2.0})
    assert told.value.code is ExitCode.CONFIGURATION_INVALID
    judge(**settings).require({"bleu": 1.0})
