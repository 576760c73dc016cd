"""A model that is measured, trained, measured again and saved."""

import gc
import logging
from collections.abc import Callable
from pathlib import Path

import torch

from finetune_api.run import RunConfig
from finetune_trainer.errors import Stopped
from finetune_trainer.models.modelfiles import ModelFiles
from finetune_trainer.preparation.data import Dataset
from finetune_trainer.preparation.shown import show
from finetune_trainer.progress import Progress
from finetune_trainer.scaling.machine import thread_count
from finetune_trainer.scaling.ranks import ALONE, Ranks
from finetune_trainer.training.history import History
from finetune_trainer.training.judging import Judge, Standing, Values
from finetune_trainer.training.saving import Saver
from finetune_trainer.training.snapshot import Snapshot, share
from finetune_trainer.training.train import train
from finetune_trainer.tuning.beginning import begin, know_references, plan_of
from finetune_trainer.tuning.materials import prepare
from finetune_trainer.tuning.measuring import Measurement, Measuring
from finetune_trainer.tuning.placement import Subject, place
from finetune_trainer.tuning.saving import save
from finetune_trainer.tuning.telling import tell
from finetune_trainer.tuning.work import Work

logger = logging.getLogger(__name__)


class Tuning:
    """See the module. All ranks begin, measure, train and save together."""

    def __init__(
        self,
        config: RunConfig,
        files: ModelFiles,
        data: Dataset,
        progress: Progress,
        resumed: Snapshot | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """``resumed`` is asked for on the first rank only."""
        self._config, self._progress, self._ranks = config, progress, ranks
        torch.set_num_threads(thread_count(torch.get_num_threads()))
        self.materials = prepare(config, files, data, ranks)
        ranks.join()
        resumed = share(resumed, ranks)
        self.resumed = resumed is not None
        """Whether it goes on from a snapshot."""
        self.subject = Subject.of(config, files, self.materials.recipe.head)
        self._placed = place(config, self.subject, self.materials, ranks)
        self.plan = plan_of(config, self.materials, self._placed)
        recipe = self.materials.recipe
        self._judge = Judge(
            config.training, config.evaluation.every_steps, self.plan.total_steps, recipe.lower_is_better
        )
        gc.freeze()  # libraries and model stay as long as the process: nothing there to look for again and again
        self.loop = begin(config, self.materials, self._placed, self.plan, resumed, ranks)
        self._work = Work.of(config, self.materials, self._placed, self.plan, self._judge)
        state = self.loop.state
        progress.plan(self._work.total, self._work.done(state) if self.resumed else 0, state.history.last)
        self.shown = (
            show(self.materials.train, self.materials.tokenizer, recipe.encoder.parts, recipe.labels_of)
            if ranks.first
            else []
        )
        """Examples for people to see; the first rank's."""
        tell(self.materials, self._placed, self.loop, self.shown, ranks)
        know_references(self.loop, self.materials, self._placed, resumed, progress.evaluated, ranks)
        self._measuring = Measuring(
            self.materials, self._placed, self.loop.cut, config.evaluation.max_new_tokens, progress, ranks
        )
        gc.enable()

    def measure_base(self) -> Measurement | None:
        """Measures the untouched base; None where ``evaluation.baseline`` is off.

        Raises:
            TrainerError: MODEL_INVALID, if the base itself yields no finite loss; CONFIGURATION_INVALID, where a metric
                is watched that is not measured.
        """
        if not self._config.evaluation.baseline:
            return None
        measurement = self._measuring.base()
        self._judge.require(measurement.measured.metrics)
        return measurement

    def train(self, saver: Saver | None, asked_to_stop: Callable[[], bool]) -> History:
        """Takes the steps that are left, and leaves the model as it is published; ``saver`` is the first rank's."""
        self._progress.begin_training()
        rewinds = self._config.on_divergence == "Rewind"
        train(self.loop, saver, asked_to_stop, rewinds, self._progress.trained, self._judge, self._measure_between)
        self._progress.shortened(self._work.spared(self.loop.state))
        return self.loop.state.history

    def measure_tuned(self) -> Measurement:
        """Measures what is going to be published.

        Raises:
            TrainerError: DIVERGED, if there is no finite loss any more.
        """
        return self._measuring.tuned()

    def save(self, directory: Path | None) -> None:
        """Writes adapter or model, and tokenizer; the ranks but the first have no directory, and give their share."""
        save(self.materials, self._placed, self._config.merge_adapter, directory, self._ranks)

    @property
    def standing(self) -> Standing:
        """What its measurements between steps came to."""
        return self.loop.state.standing

    def gpu_seconds(self, seconds: float) -> int:
        """GPUs in use times ``seconds``; 0 on the CPU."""
        return round(seconds * self._ranks.count) if self._placed.device.type == "cuda" else 0

    def _measure_between(self, asked_to_stop: Callable[[], bool]) -> Values | None:
        """Between two steps; None: it was asked to stop."""

        def evaluated(tokens: int) -> None:
            if self._ranks.any(asked_to_stop()):
                raise Stopped
            self._progress.evaluated(tokens)

        with self._progress.beside_training():
            try:
                measured = self._measuring.now(evaluated, self._work.writes_between).measured
            except Stopped:
                return None
        logger.info("after step %d: %s", self.loop.state.step, measured)
        self._progress.measured(measured.metrics)
        return measured.metrics
