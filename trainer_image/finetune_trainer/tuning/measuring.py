"""What the model of one moment is worth: base, tuned and all between go through the same code."""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from finetune_api.run import ExitCode
from finetune_trainer.errors import TrainerError
from finetune_trainer.evaluation import generation
from finetune_trainer.evaluation.evaluate import Measured, evaluate, measure
from finetune_trainer.models.attention import one_by_one
from finetune_trainer.progress import Progress
from finetune_trainer.scaling.machine import tidy_memory
from finetune_trainer.scaling.ranks import ALONE, Ranks
from finetune_trainer.training.batches import Cut
from finetune_trainer.training.memory import answer_tokens
from finetune_trainer.tuning.materials import Materials
from finetune_trainer.tuning.placement import Placed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measurement:
    """What the model of one moment is worth."""

    measured: Measured
    answers: list[str]
    """One for each prompt."""


@dataclass(frozen=True)
class Measuring:
    """Measures the model as it is now, on the held-out examples. All ranks do it together."""

    materials: Materials
    placed: Placed
    cut: Cut
    max_new_tokens: int
    """Of an answer."""
    progress: Progress
    ranks: Ranks

    def base(self) -> Measurement:
        """Of the untouched base.

        Raises:
            TrainerError: MODEL_INVALID, if the base itself yields no finite loss.
        """
        adapter = self.placed.subject.adapter
        with adapter.untouched(self.placed.objective) if adapter else nullcontext():
            measurement = self._told()
        if not measurement.measured.finite:
            raise TrainerError(
                ExitCode.MODEL_INVALID,
                f"The untouched model {self.placed.subject.files.name} has no finite loss on the validation records: "
                "its weights are broken, or overflow in this precision. Choose another model, or "
                "spec.training.precision fp32.",
            )
        return measurement

    def tuned(self) -> Measurement:
        """Of what is going to be published: a model trained in bf16 is rounded to it first.

        Raises:
            TrainerError: DIVERGED, if there is no finite loss any more.
        """
        if (dtype := self.placed.subject.rounded_to) and not self.placed.sharded:
            self.placed.objective.to(dtype)  # shards are rounded whenever they are gathered
        measurement = self._told()
        if not measurement.measured.finite:
            raise TrainerError(
                ExitCode.DIVERGED,
                "The tuned model has no finite loss on the validation records. Lower spec.training.learningRate.",
            )
        return measurement

    def now(self, on_batch: Callable[[int], None], written: bool = True) -> Measurement:
        """Of the model as it is, with its answers unless it is not to write any; ``on_batch`` is told the tokens of
        each batch."""
        materials, placed = self.materials, self.placed
        totals = evaluate(placed.objective, materials.validation, self.cut, placed.device, on_batch, self.ranks)
        found = measure(totals, materials.recipe.metrics).metrics
        said = placed.objective.lend(self._answers) if written and materials.prompts else []
        if written and (scored := materials.prompts[: materials.scored]):
            found = {**found, **generation.measure(materials.text_metrics, scored, said)}
        return Measurement(Measured(dict(sorted(found.items(), key=_of_a_set))), said)

    def _told(self) -> Measurement:
        measurement = self.now(self.progress.evaluated)
        logger.info("%s", measurement.measured)
        tidy_memory()
        return measurement

    def _answers(self, model: Any) -> list[str]:
        """Sharded weights need all ranks for each answer; where they are whole, each rank gives a share of them."""
        ranks = ALONE if self.placed.sharded else self.ranks
        prompts, device = self.materials.prompts, self.placed.device
        with one_by_one(model):
            said = generation.answers(
                model,
                prompts[ranks.rank :: ranks.count],
                self.max_new_tokens,
                self.materials.tokenizer,
                device,
                answer_tokens(self.cut.tokens, device),
                lambda tokens: self.progress.evaluated(tokens * ranks.count),
            )
        shares = ranks.gather(said)
        return [shares[number % ranks.count][number // ranks.count] for number in range(len(prompts))]


def _of_a_set(metric: tuple[str, Any]) -> bool:
    return "/" in metric[0]
