"""Where a training's snapshots go: what the loop knows of it."""

from typing import Protocol

from finetune_trainer.scaling.ranks import Ranks
from finetune_trainer.training.loop import Loop
from finetune_trainer.training.snapshot import Snapshot, share


class Saver(Protocol):
    """Where snapshots go."""

    def before_training(self, training: Loop) -> None:
        """Before the first step of this process."""

    def after_step(self, training: Loop) -> None:
        """Between two steps: takes a snapshot if it is time for one."""

    def before_the_end(self, training: Loop) -> None:
        """The process is asked to stop: saves what there is, and returns once it is safe."""

    def newest(self) -> Snapshot | None:
        """The last snapshot that was taken; None: there is none, and no way back."""


class SharedSaver:
    """The first rank's saver, on all ranks: whenever it may take snapshots, the others assist it."""

    def __init__(self, saver: Saver | None, ranks: Ranks) -> None:
        """``saver``: the first rank has one."""
        self._saver = saver
        self._ranks = ranks

    def before_training(self, training: Loop) -> None:
        if self._saver:
            self._saver.before_training(training)
        training.assist()

    def after_step(self, training: Loop) -> None:
        if self._saver:
            self._saver.after_step(training)
        training.assist()

    def before_the_end(self, training: Loop) -> None:
        if self._saver:
            self._saver.before_the_end(training)
        training.assist()

    def newest(self) -> Snapshot | None:
        return share(self._saver.newest() if self._saver else None, self._ranks)
