"""How much a run has to do, so that its progress and the time that is left can be told. In evaluated tokens."""

from dataclasses import dataclass

from finetune_api.run import RunConfig
from finetune_trainer.evaluation import generation
from finetune_trainer.progress import TRAINING_COST
from finetune_trainer.training.batches import BatchPlan
from finetune_trainer.training.judging import Judge
from finetune_trainer.training.snapshot import TrainingState
from finetune_trainer.tuning.materials import Materials
from finetune_trainer.tuning.placement import Placed


@dataclass(frozen=True)
class Work:
    """Of a whole run, however many processes do it."""

    references: int
    """What is asked of the model before its first step."""
    baseline: int
    """Measuring the base."""
    steps: int
    """Tokens trained in all steps."""
    total_steps: int
    between: int
    """One measurement between two steps."""
    writes_between: bool
    """Whether answers are written then: only where something watches what is made of them."""
    tuned: int
    """Measuring the tuned model."""
    judge: Judge
    """Knows when one is due."""

    @classmethod
    def of(cls, config: RunConfig, materials: Materials, placed: Placed, plan: BatchPlan, judge: Judge) -> "Work":
        """As a run is planned."""
        held = materials.validation.tokens
        writing = generation.work(materials.prompts, config.evaluation.max_new_tokens)
        writes = judge.watches(materials.text_metrics)
        return cls(
            references=sum(sets.tokens for sets in materials.sets.values()) if placed.objective.references else 0,
            baseline=held + writing if config.evaluation.baseline else 0,
            steps=plan.total_tokens,
            total_steps=plan.total_steps,
            between=held + (writing if writes else 0),
            writes_between=writes,
            tuned=held + writing,
            judge=judge,
        )

    @property
    def total(self) -> int:
        """All of it."""
        return self.before_training + self._training(self.steps, self.total_steps) + self.tuned

    @property
    def before_training(self) -> int:
        """What is done when the first step is taken."""
        return self.references + self.baseline

    def done(self, state: TrainingState) -> int:
        """What a training that stands there has taken, with what came before it."""
        return self.before_training + self._trained(state)

    def spared(self, state: TrainingState) -> int:
        """What a training that ended there has left out."""
        return self._training(self.steps, self.total_steps) - self._trained(state)

    def _trained(self, state: TrainingState) -> int:
        return self._training(state.history.tokens, state.standing.measured_at)

    def _training(self, tokens: int, until: int) -> int:
        return TRAINING_COST * tokens + self.judge.measurements(until) * self.between
