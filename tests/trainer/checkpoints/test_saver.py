"""When a training is saved and where to; that it never waits for that; and what is left when it is stopped."""

import logging
import threading
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from finetune_api.run import ExitCode
from finetune_trainer.checkpoints import savedtraining
from finetune_trainer.checkpoints.checkpoint import Fingerprint, new_name, prefix_of
from finetune_trainer.checkpoints.savedtraining import SavedTraining
from finetune_trainer.checkpoints.saver import Saver
from finetune_trainer.checkpoints.stored import Checkpoint
from finetune_trainer.errors import Stopped, TrainerError
from finetune_trainer.evaluation.evaluate import Measured
from finetune_trainer.progress import Progress
from finetune_trainer.report import Reporter
from finetune_trainer.stopping import StopRequest
from finetune_trainer.storage.parallel import Group
from finetune_trainer.training.memory import Fit
from finetune_trainer.training.snapshot import Snapshot, TrainingState
from finetune_trainer.tuning.measuring import Measurement

HERE = Fingerprint(run="run", data=(), model="model", processes=1)
BASE = Measurement(Measured({"eval_loss": 1.5, "token_accuracy": 0.5}), [])
LATE = TrainerError(ExitCode.STORAGE_UNAVAILABLE, "S3 is away.")


class Training:
    """What a saver sees of a loop: a weight that is the step's number."""

    def __init__(self, total: int = 100) -> None:
        self.state = TrainingState(Fit(512, recompute=False))
        self.plan = SimpleNamespace(total_steps=total)

    @property
    def over(self) -> bool:
        return self.state.step == self.plan.total_steps

    def snapshot(self, lent: bool = False) -> Snapshot:
        number = torch.tensor([float(self.state.step)])
        return Snapshot(self.state.to_dict(), {"w": number}, {"w/exp_avg": number}, ({"cpu": torch.get_rng_state()},))


@dataclass
class FakeCheckpoints:
    """S3, as far as a saver is concerned: it may be slow, and it may fail."""

    prefix: str
    slow: threading.Semaphore | None = None
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    faults: list[TrainerError] = field(default_factory=list)
    added: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    removed: bool = False

    def uri_of(self, name: str) -> str:
        return f"{self.prefix}{name}/"

    def add(self, checkpoint: Checkpoint, fingerprint: Fingerprint, group: Group) -> None:
        assert fingerprint == HERE
        self.begun.release()
        while self.slow and not self.slow.acquire(timeout=0.01):
            group.require()
        if self.faults:
            raise self.faults.pop(0)
        saved = SavedTraining.read(checkpoint.directory)
        assert (saved.snapshot.weights["w"].item(), saved.base) == (checkpoint.step, BASE)
        self.added.append(checkpoint.step)

    def keep_newest(self, count: int) -> None:
        self.kept.append(count)

    def remove_all(self) -> None:
        self.removed = True


def full_disk(*_: Any) -> None:
    """What safetensors raises on one."""
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """A saver, and everything around it."""

    def __init__(self, trainer, **changes: Any) -> None:
        self.resumed: Checkpoint | None = changes.pop("resumed", None)
        self.config = trainer.config(**changes)
        self.directory = trainer.directory / "checkpoints"
        self.s3 = FakeCheckpoints(prefix_of(self.config))
        self.clock = Clock()
        self.stop = StopRequest(self.clock)
        self.progress = Progress(Reporter(None))
        self.training = Training()

    def saver(self) -> Saver:
        arguments = (self.config, self.s3, HERE, self.directory, BASE, self.resumed, self.stop, self.progress)
        return Saver(*arguments, clock=self.clock)

    def train(self, saver: Saver, steps: int) -> None:
        """So many steps of a second each."""
        for _ in range(steps):
            self.training.state.step += 1
            self.clock.now += 1
            saver.after_step(self.training)

    def local(self) -> list[int]:
        """The checkpoints whose files are on this machine."""
        return sorted(int(path.name[:8]) for path in self.directory.iterdir()) if self.directory.exists() else []

    def stopped(self, saver: Saver) -> str:
        """What SIGTERM comes to within the loop."""
        saver.before_the_end(self.training)
        with pytest.raises(Stopped) as caught, saver:
            raise Stopped
        return str(caught.value)


@pytest.fixture
def bench(trainer):
    return Bench(trainer, checkpoint={"everySteps": 10})


def settled(saver: Saver) -> bool:
    return saver._uploads.wait(10)


def test_every_so_many_steps_one_is_brought_to_s3_and_older_ones_are_removed(bench):
    saver = bench.saver()
    saver.before_training(bench.training)
    for _ in range(3):
        bench.train(saver, 10)
        assert settled(saver)
    assert bench.s3.added == [10, 20, 30]
    assert bench.s3.kept == [2, 2, 2]
    assert bench.progress.status().metric("checkpoint")[:8] == "00000030"


def test_without_a_number_of_steps_it_is_every_ten_minutes(trainer):
    bench = Bench(trainer)
    bench.training.plan.total_steps = 2000
    saver = bench.saver()
    bench.clock.now = 5000  # loading and the base's evaluation
    saver.before_training(bench.training)
    for _ in range(4):
        bench.train(saver, 400)
        assert settled(saver)
    assert bench.s3.added == [600, 1200]


def test_a_training_does_not_wait_for_an_upload_and_the_newest_wins(bench):
    bench.s3.slow = threading.Semaphore(0)
    saver = bench.saver()
    saver.before_training(bench.training)
    bench.train(saver, 10)
    bench.s3.begun.acquire()
    bench.train(saver, 35)  # would hang here
    assert bench.local() == [10, 40]
    bench.s3.slow.release(2)
    assert settled(saver)
    assert bench.s3.added == [10, 40]


def test_once_uploaded_nothing_is_left_on_this_machine(bench):
    saver = bench.saver()
    saver.before_training(bench.training)
    bench.train(saver, 10)
    assert settled(saver)
    assert bench.local() == []


def test_s3_that_is_away_ends_no_training_and_is_tried_again(bench, caplog):
    bench.s3.faults = [LATE, LATE]
    saver = bench.saver()
    saver.before_training(bench.training)
    for _ in range(3):
        bench.train(saver, 10)
        assert settled(saver)
    assert bench.s3.added == [30]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [
        f"step {step} could not be saved (training goes on, and the next checkpoint is tried): S3 is away."
        for step in (10, 20)
    ]


def test_a_disk_that_is_full_ends_no_training(bench, caplog, monkeypatch):
    monkeypatch.setattr(savedtraining, "save_file", full_disk)
    saver = bench.saver()
    saver.before_training(bench.training)
    bench.train(saver, 10)
    assert "The disk has no room for a checkpoint" in caplog.text
    assert bench.local() == []
    monkeypatch.undo()
    bench.train(saver, 10)
    assert settled(saver)
    assert bench.s3.added == [20]


def test_the_last_state_of_a_short_training_stays_on_this_machine(trainer):
    bench = Bench(trainer)
    bench.training.plan.total_steps = 20
    saver = bench.saver()
    saver.before_training(bench.training)
    with saver:
        bench.train(saver, 20)
        assert bench.local() == [20]
    assert bench.s3.added == []
    assert bench.s3.removed


def test_whoever_is_stopped_afterwards_brings_it_to_s3(trainer):
    bench = Bench(trainer)
    bench.training.plan.total_steps = 20
    saver = bench.saver()
    saver.before_training(bench.training)
    bench.train(saver, 20)
    assert bench.stopped(saver).startswith("Step 20 is saved in s3://team-a/out/")
    assert bench.s3.added == [20]
    assert not bench.s3.removed


def test_the_last_state_needs_no_moments(trainer):
    bench = Bench(trainer)
    bench.training.plan.total_steps = 20
    saver = bench.saver()
    saver.before_training(bench.training)
    bench.train(saver, 19)
    saver.before_the_end(bench.training)
    assert saver.newest().optimizer.keys() == {"w/exp_avg"}
    bench.train(saver, 1)
    assert saver.newest().optimizer == {}


def test_a_training_that_ends_well_leaves_no_checkpoints_and_waits_for_no_upload(bench):
    bench.s3.slow = threading.Semaphore(0)
    saver = bench.saver()
    saver.before_training(bench.training)
    with saver:
        bench.train(saver, 10)
        bench.s3.begun.acquire()
    assert (bench.s3.added, bench.s3.removed) == ([], True)


def test_a_training_that_fails_leaves_its_checkpoints(bench):
    saver = bench.saver()
    saver.before_training(bench.training)
    with pytest.raises(ZeroDivisionError), saver:
        raise ZeroDivisionError
    assert not bench.s3.removed


# Stopped --------------------------------------------------------------------------------------------------------------


def test_whoever_is_stopped_saves_the_step_it_is_at(bench):
    saver = bench.saver()
    saver.before_training(bench.training)
    bench.train(saver, 13)
    assert bench.stopped(saver).startswith(f"Step 13 is saved in {bench.s3.prefix}00000013-")
    assert bench.s3.added == [10, 13]


def test_what_is_saved_already_is_not_saved_once_more(bench):
    saver = bench.saver()
    saver.before_training(bench.training)
    bench.train(saver, 10)
    assert bench.stopped(saver).startswith("Step 10 is saved in s3://")
    assert bench.s3.added == [10]


def test_what_a_process_went_on_from_needs_no_saving(trainer):
    name = new_name(7)
    bench = Bench(trainer, resumed=Checkpoint(7, trainer.directory / name, f"s3://team-a/there/{name}/"))
    bench.training.state.step = 7
    saver = bench.saver()
    saver.before_training(bench.training)
    assert bench.stopped(saver) == f"Step 7 is saved in s3://team-a/there/{name}/; the next pod goes on from there."
    assert bench.s3.added == []


@pytest.mark.parametrize(
    ("before", "outlook"),
    [
        (0, "Step 13 could not be saved: S3 is away. The next pod starts from the beginning."),
        (1, "Step 13 could not be saved: S3 is away. The next pod goes on from step 10 (s3://"),
    ],
)
def test_where_s3_is_away_the_message_says_what_the_next_pod_begins_with(bench, before, outlook):
    saver = bench.saver()
    saver.before_training(bench.training)
    if not before:
        bench.s3.faults = [LATE]
    bench.train(saver, 13)
    assert settled(saver)
    bench.s3.faults = [LATE]
    assert bench.stopped(saver).startswith(outlook)


def test_where_the_disk_is_full_the_message_says_so(bench, monkeypatch):
    saver = bench.saver()
    saver.before_training(bench.training)
    bench.train(saver, 13)
    monkeypatch.setattr(savedtraining, "save_file", full_disk)
    outlook = bench.stopped(saver)
    assert "Step 13 could not be saved: The disk has no room for a checkpoint" in outlook
    assert "The next pod goes on from step 10 (s3://" in outlook


def test_an_upload_that_takes_longer_than_the_grace_period_is_not_waited_for(bench, monkeypatch):
    bench.s3.slow = threading.Semaphore(0)
    monkeypatch.setattr(bench.stop, "seconds_left", lambda: 0.05)
    saver = bench.saver()
    saver.before_training(bench.training)
    bench.train(saver, 3)
    assert bench.stopped(saver) == (
        "Step 3 could not be saved: the grace period was over before it was uploaded. "
        "The next pod starts from the beginning."
    )


# Back, after a divergence ---------------------------------------------------------------------------------------------


@pytest.fixture
def rewinding(trainer):
    return Bench(trainer, onDivergence="Rewind", checkpoint={"everySteps": 10})


def test_whoever_may_go_back_can_go_back_to_the_very_beginning(rewinding, bench):
    saver = rewinding.saver()
    saver.before_training(rewinding.training)
    rewinding.train(saver, 9)
    assert saver.newest().step == 0
    assert rewinding.s3.added == []
    other = bench.saver()
    other.before_training(bench.training)
    assert other.newest() is None


def test_one_goes_back_to_the_newest_though_it_is_in_s3_already(rewinding):
    saver = rewinding.saver()
    saver.before_training(rewinding.training)
    rewinding.train(saver, 25)
    assert settled(saver)
    assert (saver.newest().step, rewinding.local()) == (20, [20])


def test_one_goes_back_to_where_this_process_went_on_from(trainer):
    first = Bench(trainer, onDivergence="Rewind")
    saver = first.saver()
    first.training.state.step = 4
    saver.before_training(first.training)
    [directory] = first.directory.iterdir()
    second = Bench(trainer, onDivergence="Rewind", resumed=Checkpoint(4, directory, "s3://team-a/there/"))
    again = second.saver()
    again.before_training(first.training)
    assert again.newest().step == 4
