"""Saves a training: at once into files on this machine, and from there to S3 in the background."""

import logging
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from safetensors import SafetensorError

from finetune_api.run import RunConfig
from finetune_trainer.checkpoints.checkpoint import Fingerprint, new_name
from finetune_trainer.checkpoints.pace import Pace
from finetune_trainer.checkpoints.savedtraining import SavedTraining
from finetune_trainer.checkpoints.stored import Checkpoint, Checkpoints
from finetune_trainer.checkpoints.uploads import Uploads
from finetune_trainer.errors import Stopped, TrainerError, disk_full, is_disk_full, is_peer_lost, one_line
from finetune_trainer.progress import Progress
from finetune_trainer.publishing.versions import made_with
from finetune_trainer.stopping import StopRequest
from finetune_trainer.storage.parallel import Abandoned, Group
from finetune_trainer.training.loop import Loop
from finetune_trainer.training.snapshot import Snapshot
from finetune_trainer.tuning.measuring import Measurement

logger = logging.getLogger(__name__)


class Saver:
    """Saves one training. It is a context: where what happens in it ends well, checkpoints are of no use any more and
    are removed; where it is stopped, what is not in S3 yet is brought there first.

    Nothing that goes wrong with a checkpoint ends a training. As long as the process lives it has the state, and
    nobody else does.

    Args:
        config: the run.
        checkpoints: where to.
        fingerprint: of this training.
        directory: for files on this machine.
        base: what was measured before the training.
        resumed: what the training went on from.
        stop: whether the process is to end, and when.
        progress: is told what is saved.
        clock: seconds.
    """

    def __init__(
        self,
        config: RunConfig,
        checkpoints: Checkpoints,
        fingerprint: Fingerprint,
        directory: Path,
        base: Measurement | None,
        resumed: Checkpoint | None,
        stop: StopRequest,
        progress: Progress,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = config.checkpoint
        self._rewinds = config.on_divergence == "Rewind"
        self._checkpoints = checkpoints
        self._fingerprint = fingerprint
        self._directory = directory
        self._base = base
        self._stop = stop
        self._progress = progress
        self._clock = clock
        self._pace = Pace(self._settings.every_steps, clock)
        self._made_with = made_with()
        self._uploads = Uploads(self._upload)
        self._lock = threading.Lock()
        self._folders = {resumed.directory} if resumed else set()
        self._reached = resumed.step if resumed else 0
        """The step that was to be saved last."""
        self._local = resumed
        """The newest one that was written to this machine."""
        self._stored = resumed
        """The newest one in S3 that this process knows of."""
        self._trouble = ""
        """Why the newest one is not in S3."""
        if resumed:
            progress.saved(resumed.directory.name)

    def before_training(self, training: Loop) -> None:
        """From here on time counts. Whoever may go back needs something to go back to."""
        self._pace = Pace(self._settings.every_steps, self._clock)
        if self._rewinds and self._local is None:
            self._save(training)
        self._tidy_up()

    def after_step(self, training: Loop) -> None:
        """Saves what is due, and the state after the last step, for whoever is stopped while the model is measured."""
        step = training.state.step
        if not training.over:
            if self._pace.due(step):
                self._bring(self._save(training))
        else:
            worth = self._pace.worth_an_upload()
            last = self._save(training)
            if worth:
                self._bring(last)

    def before_the_end(self, training: Loop) -> None:
        """Saves what is not saved yet. It is brought to S3 as this context ends."""
        if self._local is None or self._local.step != training.state.step:
            self._save(training)

    def newest(self) -> Snapshot | None:
        """The one on this machine. There is one, where the training may go back and the disk had room for it."""
        return SavedTraining.read(self._local.directory).snapshot if self._local else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None:
            if self._uploads.abandon():
                self._checkpoints.remove_all()
            else:
                logger.warning("checkpoints are left behind: the last upload could not be ended in time")
        elif isinstance(error, Stopped) or (self._stop.asked() and is_peer_lost(error)):
            if self._local is not self._stored and self._local not in self._uploads.pending():
                self._bring(self._local)
            self._uploads.hurry()
            in_time = self._uploads.wait(self._stop.seconds_left())
            raise Stopped(self._outlook(in_time)) from error

    def _outlook(self, in_time: bool) -> str:
        """What the next pod begins with."""
        stored = self._stored
        if stored and stored.step >= self._reached:
            return f"Step {stored.step} is saved in {stored.uri}; the next pod goes on from there."
        trouble = self._trouble if in_time else "the grace period was over before it was uploaded."
        begin = f"goes on from step {stored.step} ({stored.uri})" if stored else "starts from the beginning"
        return f"Step {self._reached} could not be saved: {trouble} The next pod {begin}."

    def _save(self, training: Loop) -> Checkpoint | None:
        """Writes the files on this machine; None: that was not possible."""
        step = self._reached = training.state.step
        name = new_name(step)
        directory = self._directory / name
        with self._pace.saving():
            try:
                SavedTraining(_needed(training), self._base, self._made_with).write(directory)
            except (OSError, SafetensorError) as error:
                shutil.rmtree(SavedTraining.unfinished(directory), ignore_errors=True)
                self._complain(step, _explained(error, self._directory))
                return None
        saved = Checkpoint(step, directory, self._checkpoints.uri_of(name))
        with self._lock:
            self._folders.add(directory)
            self._local = saved
        return saved

    def _bring(self, saved: Checkpoint | None) -> None:
        """To S3, as soon as the one before is there."""
        if saved:
            self._uploads.put(saved)
        self._tidy_up()

    def _upload(self, checkpoint: Checkpoint, group: Group) -> None:
        """In the thread of the uploads."""
        try:
            self._checkpoints.add(checkpoint, self._fingerprint, group)
        except Abandoned:
            raise
        except Exception as error:
            self._complain(checkpoint.step, error.message if isinstance(error, TrainerError) else one_line(error))
            return
        self._stored = checkpoint
        logger.info("step %d is saved in %s", checkpoint.step, checkpoint.uri)
        self._progress.saved(checkpoint.directory.name)
        self._checkpoints.keep_newest(self._settings.keep)
        self._tidy_up()

    def _complain(self, step: int, trouble: str) -> None:
        self._trouble = trouble
        logger.warning(
            "step %d could not be saved (training goes on, and the next checkpoint is tried): %s", step, trouble
        )

    def _tidy_up(self) -> None:
        """Removes the files that nobody needs any more: neither for an upload, nor to go back to."""
        with self._lock:
            needed = {waiting.directory for waiting in self._uploads.pending() if waiting is not self._stored}
            if self._local and (self._rewinds or self._local is not self._stored):
                needed.add(self._local.directory)
            done, self._folders = self._folders - needed, self._folders & needed
        for directory in done:
            shutil.rmtree(directory, ignore_errors=True)


def _needed(training: Loop) -> Snapshot:
    """For the steps to come. Where there are none, the moments, two thirds of it, are of no use any more."""
    snapshot = training.snapshot(lent=True)
    return replace(snapshot, optimizer={}) if training.over else snapshot


def _explained(error: Exception, directory: Path) -> str:
    return disk_full("a checkpoint", directory).message if is_disk_full(error) else f"{one_line(error)}."
