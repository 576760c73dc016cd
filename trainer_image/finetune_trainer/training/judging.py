"""What is measured between two steps, and what follows from it: a lower learning rate, an early end, the best weights.

Each of the three watches a metric of its own. What they remember is part of the training's state, so that a resumed
run comes to the same verdicts.
"""

import logging
import math
from collections.abc import Callable, Container, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from finetune_api.run import ExitCode
from finetune_api.spec import EarlyStopping, Plateau, RestoreBest, Training
from finetune_trainer.errors import TrainerError

logger = logging.getLogger(__name__)

Values = Mapping[str, float]
"""Of metrics, by their names."""


@dataclass
class Course:
    """One metric over the measurements of a training."""

    best: float | None = None
    step: int = 0
    """At which it was best."""
    waited: int = 0
    """Measurements since then, or since it was waited for in vain."""

    def add(self, value: float, step: int, lower: bool, least: float = 0.0) -> bool:
        """Whether ``value`` is better than the best so far by more than ``least``. It is remembered."""
        gain = math.inf if self.best is None else (self.best - value if lower else value - self.best)
        if gain > least:
            self.best, self.step, self.waited = value, step, 0
            return True
        self.waited += 1
        return False


@dataclass
class Standing:
    """What a training remembers of its measurements."""

    measured_at: int = 0
    """The step of the last one; 0: there was none."""
    rate_factor: float = 1.0
    """Of the learning rate, as the plateaus have left it."""
    stopped: bool = False
    """It ends here, before its last step."""
    plateau: Course = field(default_factory=Course)
    early: Course = field(default_factory=Course)
    best: Course = field(default_factory=Course)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def of_dict(cls, content: dict[str, Any]) -> "Standing":
        """From ``to_dict``'s JSON."""
        courses = {name: Course(**content[name]) for name in ("plateau", "early", "best")}
        return cls(**content | courses)


class Judge:
    """Says when to measure, and what a measurement means."""

    def __init__(
        self, settings: Training, every_steps: int | None, total_steps: int, lower_is_better: Container[str]
    ) -> None:
        """
        Args:
            every_steps: ``evaluation.everySteps``.
            lower_is_better: the metrics of which less is better, of the whole or of a set; of all others more is.
        """
        self._plateau = (settings.plateau or Plateau()) if settings.schedule == "plateau" else None
        self._early = settings.early_stopping
        self._best = settings.restore_best
        self._every = every_steps
        self._total = total_steps
        self._lower = lower_is_better

    def measures_at(self, step: int) -> bool:
        """Whether there is a measurement after ``step`` steps. After the last one the result is measured anyhow; only
        where it may turn out not to be the best, it is measured before that as well."""
        if not self._every or step == 0:
            return False
        return self._best is not None if step == self._total else step % self._every == 0

    def due(self, step: int, standing: Standing) -> bool:
        """Whether to measure now."""
        return standing.measured_at != step and self.measures_at(step)

    def measurements(self, until: int) -> int:
        """How many there are up to and with step ``until``."""
        at_the_end = until == self._total
        regular = (until - at_the_end) // self._every if self._every else 0
        return regular + (at_the_end and self.measures_at(until))

    @property
    def _watching(self) -> dict[str, Plateau | EarlyStopping | RestoreBest]:
        watching = {"plateau": self._plateau, "earlyStopping": self._early, "restoreBest": self._best}
        return {name: watcher for name, watcher in watching.items() if watcher}

    def watches(self, metrics: Container[str]) -> bool:
        """Whether one of these ``metrics`` is watched, of the whole or of a set."""
        return any(_of_whole(watcher.metric) in metrics for watcher in self._watching.values())

    def require(self, metrics: Values) -> None:
        """Looks whether all that is watched is measured.

        Raises:
            TrainerError: CONFIGURATION_INVALID.
        """
        for name, watcher in self._watching.items():
            if watcher.metric not in metrics:
                raise TrainerError(
                    ExitCode.CONFIGURATION_INVALID,
                    f"spec.training.{name}.metric is {watcher.metric!r}, which this task does not measure. It measures "
                    f"{', '.join(metrics)}.",
                )

    def judge(self, metrics: Values, step: int, standing: Standing) -> bool:
        """What the metrics of after ``step`` steps mean; written into ``standing``. Returns whether they are the best
        so far, and the weights are to be kept."""
        standing.measured_at = step
        if self._plateau and self._stands_still(standing.plateau, self._plateau, metrics, step):
            standing.plateau.waited = 0
            standing.rate_factor *= self._plateau.factor
            logger.info("no better %s: the learning rate is lowered", self._plateau.metric)
        if self._early and self._stands_still(standing.early, self._early, metrics, step):
            standing.stopped = step < self._total
            logger.info("no better %s since step %d: the training ends", self._early.metric, standing.early.step)
        return bool(self._best) and self._better(standing.best, self._best.metric, metrics, step)  # type: ignore[union-attr]

    def _stands_still(self, course: Course, watched: Plateau | EarlyStopping, metrics: Values, step: int) -> bool:
        """Whether patience with a metric is over."""
        better = self._better(course, watched.metric, metrics, step, watched.min_delta)
        return not better and course.waited >= watched.patience

    def _better(self, course: Course, metric: str, metrics: Values, step: int, least: float = 0.0) -> bool:
        return course.add(metrics[metric], step, _of_whole(metric) in self._lower, least)


def _of_whole(metric: str) -> str:
    """The name that a set's metric has for the whole."""
    return metric.rpartition("/")[2]


Measure = Callable[[Callable[[], bool]], Values | None]
"""Measures the model as it is; gives up and returns None when it is asked to stop."""
