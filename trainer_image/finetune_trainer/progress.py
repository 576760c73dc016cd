"""How far the whole run is: one number that never goes back, a time that is left, log lines and reports."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

from finetune_api.conditions import Phase
from finetune_api.run import ReportedMetric, ReportMetric, TrainerStatus
from finetune_trainer.report import Reporter

logger = logging.getLogger(__name__)

TRAINING_COST = 3
"""What a trained token costs, in evaluated tokens: a backward pass is about two forward passes."""
_PUBLISHING_SHARE = 0.02
_LOG_SECONDS = 5.0


@dataclass(frozen=True)
class StepDone:
    """One optimizer step."""

    step: int
    """Number, from 1."""
    total: int
    epoch: float
    """Passes over the data so far."""
    loss: float
    """Mean over all that counts in the step, such as its learned tokens, nats; with labels smoothed where that is asked
    for, and without the penalty."""
    learning_rate: float
    tokens: int
    """Trained in this step, padding not counted."""
    penalty: float = 0.0
    """The L1 term that was added to the loss."""


class Progress:
    """Counts work in evaluated tokens. The share is of loading aside, which cannot be foreseen."""

    def __init__(self, reporter: Reporter, clock: Callable[[], float] = time.monotonic) -> None:
        self._reporter = reporter
        self._clock = clock
        self._phase = Phase.RUNNING
        self._total = self._done = self._before = 0
        self._started = self._logged = clock()
        self._tokens_since = 0
        self._speed: float | None = None
        self._step: StepDone | None = None
        self._newest: dict[str, float] = {}
        self._checkpoint: str | None = None
        self._resumed_at: int | None = None
        self._finished = False

    def plan(self, total: int, done: int = 0, last: StepDone | None = None) -> None:
        """The work of the run, and the moment from which its speed is measured.

        Args:
            total: all of it.
            done: what earlier processes have done of it.
            last: the step that they ended with.
        """
        self._total = total
        self._done = self._before = done
        self._step = last
        self._resumed_at = last.step if last else None
        self._started = self._logged = self._clock()
        self._publish()

    @property
    def percent(self) -> int:
        """Share of the run done; 100 only once everything is published."""
        if self._finished:
            return 100
        share = self._done / self._total if self._total else 0.0
        return min(99, int(100 * (1 - _PUBLISHING_SHARE) * min(1.0, share)))

    @property
    def eta_seconds(self) -> int | None:
        """Seconds left at the speed so far; None until there is one."""
        if self._finished:
            return 0
        if self._done == self._before:
            return None
        elapsed = self._clock() - self._started
        return round(elapsed * max(0, self._total - self._done) / (self._done - self._before))

    def enter(self, phase: Phase) -> None:
        """A new phase, which is reported at once."""
        self._phase = phase
        self._publish(at_once=True)

    def evaluated(self, tokens: int) -> None:
        """A batch was evaluated."""
        self._done += tokens
        self._publish()

    def measured(self, metrics: Mapping[str, float]) -> None:
        """Something was measured between two steps: what matters most comes first, and is reported."""
        self._newest = dict(islice(metrics.items(), 1))
        self._publish()

    def trained(self, done: StepDone) -> None:
        """An optimizer step was taken."""
        self._done += TRAINING_COST * done.tokens
        self._tokens_since += done.tokens
        self._step = done
        now = self._clock()
        if done.step in (1, done.total) or now - self._logged >= _LOG_SECONDS:
            self._speed = self._tokens_since / max(1e-6, now - self._logged)
            self._logged, self._tokens_since = now, 0
            logger.info(
                "step %d/%d  loss %.4f  lr %.2e  %.0f tokens/s  %s s left",
                *(done.step, done.total, done.loss, done.learning_rate, self._speed, self.eta_seconds),
            )
        self._publish()

    def saved(self, checkpoint: str) -> None:
        """A checkpoint of this name can be gone on with."""
        self._checkpoint = checkpoint
        self._publish()

    @contextmanager
    def beside_training(self) -> Iterator[None]:
        """Within is no training: its speed is measured as if this took no time."""
        before = self._clock()
        try:
            yield
        finally:
            self._logged += self._clock() - before

    def shortened(self, work: int) -> None:
        """So many evaluated tokens of the plan are not going to be done."""
        self._total -= work
        self._publish()

    def begin_training(self) -> None:
        """The moment from which training speed is measured."""
        self._logged, self._tokens_since = self._clock(), 0

    def finish(self) -> None:
        """Everything is published."""
        self._finished = True
        self._publish(at_once=True)

    def status(self) -> TrainerStatus:
        """What a report says."""
        return TrainerStatus(
            last_updated_time=datetime.now(UTC).isoformat(),
            progress_percentage=self.percent,
            estimated_remaining_seconds=self.eta_seconds,
            metrics=tuple(ReportMetric(name=name, value=value) for name, value in self._metrics().items()),
        )

    def _metrics(self) -> dict[str, str]:
        metrics = {ReportedMetric.PHASE: self._phase.value}
        if self._step:
            metrics |= {
                ReportedMetric.LOSS: f"{self._step.loss:.6g}",
                ReportedMetric.LEARNING_RATE: f"{self._step.learning_rate:.6g}",
                ReportedMetric.CURRENT_STEP: str(self._step.step),
                ReportedMetric.TOTAL_STEPS: str(self._step.total),
                ReportedMetric.CURRENT_EPOCH: f"{self._step.epoch:.4g}",
            }
        metrics |= {name: f"{value:.6g}" for name, value in self._newest.items()}
        if self._speed is not None:
            metrics[ReportedMetric.TOKENS_PER_SECOND] = f"{self._speed:.6g}"
        if self._checkpoint:
            metrics[ReportedMetric.CHECKPOINT] = self._checkpoint
        if self._resumed_at is not None:
            metrics[ReportedMetric.RESUMED_AT] = str(self._resumed_at)
        return metrics

    def _publish(self, at_once: bool = False) -> None:
        self._reporter.update(self.status(), at_once)
