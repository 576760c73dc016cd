"""Text generation: each learned token is predicted from those before it."""

import math
import sys
from array import array
from collections.abc import Sequence
from typing import Any

import torch

from finetune_trainer.evaluation.evaluate import Totals
from finetune_trainer.models.head import LANGUAGE_MODEL
from finetune_trainer.preparation.encoding import Example
from finetune_trainer.recipes.likelihood import Batch, Likelihood, Segment, collate
from finetune_trainer.recipes.recipe import Recipe
from finetune_trainer.training.objective import Loss, Objective


class LanguageModeling(Likelihood):
    """Next-token prediction by a causal language model."""

    def collate(self, examples: Sequence[Example], packed: bool, device: torch.device) -> Batch:
        return collate([Segment(example.ids, example.learned) for example in examples], packed, device)

    def stand_in(self, tokens: int) -> Example:
        """Half of its tokens are learned."""
        learned = bytes(tokens - tokens // 2) + b"\1" * (tokens // 2)
        return Example(array("i", bytes(4 * tokens)), learned)

    def forward(self, batch: Batch) -> Loss:
        """The loss of ``batch``: the sum over its learned tokens. The token at position t is predicted from those
        before it."""
        losses, right = self.token_losses(batch)
        return Loss(losses.sum(), {"right": right.sum()})


def perplexity(loss: float) -> float:
    """exp(loss), as far as that can be told."""
    return math.exp(loss) if loss < math.log(sys.float_info.max) else sys.float_info.max


class LanguageModelingRecipe(Recipe):
    """``task: text-generation``, ``objective: sft``."""

    head = LANGUAGE_MODEL
    generates = True
    lower_is_better = ("eval_loss", "perplexity")

    def objective(self, model: Any) -> Objective:
        return LanguageModeling(model)

    def metrics(self, totals: Totals) -> dict[str, float]:
        """``eval_loss``: the mean over all learned tokens, nats; each counts the same, whatever record it is in.
        ``token_accuracy``: the share of them that are the model's likeliest."""
        loss = totals.mean(totals.loss)
        accuracy = totals.mean(totals.sums["right"])
        return {"eval_loss": loss, "perplexity": perplexity(loss), "token_accuracy": accuracy}
