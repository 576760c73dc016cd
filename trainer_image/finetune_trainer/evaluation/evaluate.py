"""Measures a model on the held-out examples. Base and tuned model go through the very same code and records."""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch

from finetune_trainer.preparation.encoding import Encoded
from finetune_trainer.scaling.ranks import ALONE, Ranks
from finetune_trainer.training.batches import Cut
from finetune_trainer.training.objective import collate


@dataclass(frozen=True)
class Measured:
    """The measures of one model."""

    eval_loss: float
    """Mean over all learned tokens, nats. Each token counts the same, whatever record it is in."""
    token_accuracy: float
    """Share of the learned tokens that are the model's likeliest."""

    @property
    def finite(self) -> bool:
        """Whether there is a loss at all."""
        return math.isfinite(self.eval_loss)

    @property
    def perplexity(self) -> float:
        """exp(eval_loss), as far as that can be told."""
        return math.exp(self.eval_loss) if self.eval_loss < math.log(sys.float_info.max) else sys.float_info.max

    def named(self) -> dict[str, float]:
        """By the names of ``status.metrics``."""
        return {
            "eval_loss": self.eval_loss,
            "perplexity": self.perplexity,
            "token_accuracy": self.token_accuracy,
        }


@torch.no_grad()
def evaluate(
    objective: Any,
    examples: Encoded,
    cut: Cut,
    device: torch.device,
    on_batch: Callable[[int], None],
    ranks: Ranks = ALONE,
) -> Measured:
    """Measures a model in evaluation mode by its ``objective``; ``on_batch`` is told the tokens of each batch.

    The examples are shared out among the ranks; all of them return the same.
    """
    objective.eval()
    order = sorted(range(len(examples)), key=lambda index: -examples.lengths[index])
    loss, right = 0.0, 0
    for parts in ranks.rounds(order, examples.lengths, cut):
        part = parts[ranks.rank]
        measured = objective(collate([examples[index] for index in part or order[-1:]], cut.packed, device))
        if part:
            loss += float(measured.loss)
            right += int(measured.right)
        on_batch(sum(examples.lengths[index] for index in chain(*parts)))
    loss, rights = ranks.sum(loss, right)
    labels = sum(examples.labels)
    return Measured(eval_loss=loss / labels, token_accuracy=rights / labels)
