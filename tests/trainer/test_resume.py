"""Whole runs that are stopped and gone on with, against runs that never were."""

import hashlib
import os
import signal
from typing import Any

import pytest

from finetune_api.run import ExitCode
from finetune_trainer.progress import Progress, StepDone
from finetune_trainer.report import Reporter
from finetune_trainer.stopping import StopRequest
from tests import tiny

STEPS = {"maxSteps": 12, "learningRate": 1e-2, "maxLength": 64, "batchSize": 8, "microBatchSize": 3}
DROPOUT = {"lora": {"rank": 4, "dropout": 0.2}}


class SigtermAfter(Progress):
    """Progress during which SIGTERM arrives, once a step was taken or a phase was entered."""

    def __init__(self, *moments: int | str) -> None:
        super().__init__(Reporter(None))
        self.moments = moments
        self.steps: list[int] = []

    def trained(self, done: StepDone) -> None:
        super().trained(done)
        self.steps.append(done.step)
        if done.step in self.moments:
            os.kill(os.getpid(), signal.SIGTERM)

    def enter(self, phase: str) -> None:
        super().enter(phase)
        if phase in self.moments:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def stop():
    handler = signal.getsignal(signal.SIGTERM)
    request = StopRequest()
    request.listen()
    yield request
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
def test_a_run_that_is_stopped_and_gone_on_with_ends_in_the_same_bits(s3, trainer, stop, changes):
    changes |= {"evaluation": {"samples": 2, "maxNewTokens": 6}, "data": trainer.data(tiny.json_lines(*tiny.PAIRS))}
    expected = whole(s3, trainer, **changes)
    stopped = trainer.run(SigtermAfter(5), stop, **changes)
    assert stopped.code == ExitCode.PREEMPTED, stopped.result.error
    assert "Step 5 is saved in s3://" in stopped.message
    progress = SigtermAfter()
    ended = trainer.run(progress, **changes)
    assert ended.code == 0, ended.result.error
    assert progress.steps == list(range(6, 13))
    assert result(s3, ended) == expected
    assert s3.report(ended.location)["resumedAt"] == [5]
