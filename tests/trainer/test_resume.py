"""Whole runs that are stopped and gone on with, against runs that never were."""

import hashlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest

from finetune_api.run import ExitCode
from finetune_trainer.progress import Progress, StepDone
from finetune_trainer.report import Reporter
from finetune_trainer.stopping import StopRequest
from finetune_trainer.tuning import beginning
from tests import tiny

STEPS = {"maxSteps": 12, "learningRate": 1e-2, "maxLength": 64, "batchSize": 8, "microBatchSize": 3}
DROPOUT = {"lora": {"rank": 4, "dropout": 0.2}}


class SigtermAfter(Progress):
    """Progress during which SIGTERM arrives, once a step was taken."""

    def __init__(self, step: int | None = None) -> None:
        super().__init__(Reporter(None))
        self.moment = step
        self.steps: list[int] = []

    def trained(self, done: StepDone) -> None:
        super().trained(done)
        self.steps.append(done.step)
        if done.step == self.moment:
            os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def sigterm_asks() -> Iterator[StopRequest]:
    """SIGTERM means to this process what it means to a trainer."""
    handler = signal.getsignal(signal.SIGTERM)
    request = StopRequest()
    request.listen()
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, handler)


def result(s3, ended) -> dict[str, Any]:
    """What must be the same to the bit: weights, metrics, and the story of the training."""
    weights = {
        name: hashlib.sha256(s3.get(f"{ended.location}{name}")).hexdigest()
        for name in s3.names(ended.location)
        if name.endswith(".safetensors")
    }
    report = s3.report(ended.location)
    return {"weights": weights} | {name: report[name] for name in ("metrics", "steps", "samples", "hyperparameters")}


def whole(s3, trainer, **changes):
    """The result of a run that nobody stopped."""
    ended = trainer.run(**changes, outputPrefix=f"s3://team-a/whole/{trainer.directory.name}/")
    assert ended.code == 0, ended.result.error
    return result(s3, ended)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": DROPOUT, "training": STEPS},
        {"method": {"adapter": "none"}, "training": STEPS},
        {"method": {"adapter": "none"}, "training": STEPS | {"precision": "bf16"}},
        {"method": DROPOUT, "training": STEPS | {"precision": "bf16", "activationCheckpointing": "always"}},
    ],
)
def test_a_run_that_is_stopped_and_gone_on_with_ends_in_the_same_bits(s3, trainer, changes):
    changes |= {"evaluation": {"samples": 2, "maxNewTokens": 6}, "data": trainer.data(tiny.json_lines(*tiny.PAIRS))}
    expected = whole(s3, trainer, **changes)
    with sigterm_asks() as stop:
        stopped = trainer.run(SigtermAfter(5), stop, **changes)
    assert stopped.code == ExitCode.PREEMPTED, stopped.result.error
    assert "Step 5 is saved in s3://" in stopped.message
    progress = SigtermAfter()
    ended = trainer.run(progress, **changes)
    assert ended.code == 0, ended.result.error
    assert progress.steps == list(range(6, 13))
    assert result(s3, ended) == expected
    assert s3.report(ended.location)["resumedAt"] == [5]


def test_what_the_model_was_before_its_first_step_is_known_to_the_bit_after_a_resume(s3, trainer):
    """It could not be asked any more, since all its weights were trained."""
    pairs = [{"prompt": pair["prompt"], "chosen": pair["completion"], "rejected": " no"} for pair in tiny.PAIRS]
    changes = {
        "method": {"objective": "dpo", "adapter": "none"},
        "training": STEPS,
        "evaluation": {"samples": 2, "maxNewTokens": 6},
        "data": trainer.data(tiny.json_lines(*pairs)),
    }
    expected = whole(s3, trainer, **changes)
    with sigterm_asks() as stop:
        assert trainer.run(SigtermAfter(5), stop, **changes).code == ExitCode.PREEMPTED
    with mock.patch.object(beginning, "refer", side_effect=AssertionError("asked once more")):
        ended = trainer.run(SigtermAfter(), **changes)
    assert ended.code == 0, ended.result.error
    assert result(s3, ended) == expected


def test_where_the_newest_checkpoint_is_damaged_the_previous_one_leads_to_the_same_bits(s3, trainer, caplog):
    changes = {"method": DROPOUT, "training": STEPS, "data": trainer.data(tiny.json_lines(*tiny.PAIRS))}
    expected = whole(s3, trainer, **changes)
    for at in (3, 6):
        with sigterm_asks() as stop:
            assert trainer.run(SigtermAfter(at), stop, **changes).code == ExitCode.PREEMPTED
    prefix = f"{trainer.config(**changes).output_prefix}checkpoints/"
    newest = next(name for name in s3.names(prefix) if name.startswith("00000006") and "weights" in name)
    content = s3.get(f"{prefix}{newest}")
    s3.put(f"{prefix}{newest}".removeprefix("s3://team-a/"), content[:-8] + bytes(8))
    progress = SigtermAfter()
    ended = trainer.run(progress, **changes)
    assert (ended.code, progress.steps[0]) == (0, 4)
    assert f"{newest.partition('/')[0]}/ is passed over: it was damaged or tampered with" in caplog.text
    assert result(s3, ended) == expected


def test_where_the_data_changed_meanwhile_the_training_begins_anew(s3, trainer, caplog):
    changes = {"method": DROPOUT, "training": STEPS, "data": trainer.data(tiny.json_lines(*tiny.PAIRS))}
    with sigterm_asks() as stop:
        assert trainer.run(SigtermAfter(5), stop, **changes).code == ExitCode.PREEMPTED
    changes["data"] = trainer.data(tiny.json_lines(*tiny.PAIRS[:-1]))  # under the same name
    progress = SigtermAfter()
    ended = trainer.run(progress, **changes)
    assert (ended.code, progress.steps[0]) == (0, 1)
    assert "is passed over: it was made before the data changed" in caplog.text
    assert s3.report(ended.location)["resumedAt"] == []


def losses(s3, ended):
    return [step["loss"] for step in s3.report(ended.location)["steps"]]


@pytest.mark.parametrize("micro_batch_size", [8, None])
def test_with_half_as_much_at_a_time_a_training_learns_the_same(s3, trainer, caplog, micro_batch_size):
    """As after memory ran out: begun anew, and gone on with from the checkpoint of an attempt before."""
    training = {
        "maxSteps": 8,
        "learningRate": 1e-2,
        "maxLength": 64,
        "batchSize": 8,
        "microBatchSize": micro_batch_size,
    }
    changes = {"training": training, "data": trainer.data(tiny.json_lines(*tiny.PAIRS * 8))}
    whole, divided, halved = (
        f"s3://team-a/{trainer.directory.name}/{name}/" for name in ("whole", "divided", "halved")
    )
    before = trainer.run(**changes, outputPrefix=whole)
    smaller = trainer.run(**changes, outputPrefix=divided, attempt=1, microBatchDivisor=4)
    assert (before.code, smaller.code) == (0, 0)
    assert losses(s3, smaller) == pytest.approx(losses(s3, before), rel=1e-4)
    assert smaller.metric("eval_loss") == pytest.approx(before.metric("eval_loss"), rel=1e-4)
    with sigterm_asks() as stop:
        stopped = trainer.run(SigtermAfter(3), stop, **changes, outputPrefix=halved)
    assert stopped.code == ExitCode.PREEMPTED, stopped.result.error
    progress = SigtermAfter()
    resumed = trainer.run(progress, **changes, outputPrefix=halved, attempt=1, microBatchDivisor=2)
    assert (resumed.code, progress.steps[0]) == (0, 4)
    assert losses(s3, resumed) == pytest.approx(losses(s3, before), rel=1e-4)


def test_a_later_attempt_takes_over_what_an_earlier_one_has_published(s3, trainer):
    first = trainer.run()
    progress = SigtermAfter()
    again = trainer.run(progress, attempt=3, microBatchDivisor=2)
    assert (again.code, progress.steps) == (0, [])
    assert again.result == first.result
