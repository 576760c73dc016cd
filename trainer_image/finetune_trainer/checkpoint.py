"""Checkpoints of a training."""

from finetune_trainer.snapshot import Snapshot
from finetune_trainer.train import Loop


class Nowhere:
    """Keeps no checkpoints."""

    def before_training(self, training: Loop) -> None:
        """Nothing."""

    def after_step(self, training: Loop) -> None:
        """Nothing."""

    def before_the_end(self, training: Loop) -> None:
        """Nothing."""

    def newest(self) -> Snapshot | None:
        """None."""
        return None
