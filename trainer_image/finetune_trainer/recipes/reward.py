"""Reward modelling: a head that gives an answer with its prompt one number, the higher the better the answer is.

Bradley and Terry's model of comparisons: the chosen answer is better with the probability sigmoid of the difference of
the two rewards; -log of that is the loss of a pair.

Shapes: P pairs.
"""

from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch.nn.functional import logsigmoid

from finetune_trainer.evaluation.evaluate import Totals
from finetune_trainer.models.head import Head
from finetune_trainer.models.modelfiles import ModelFiles
from finetune_trainer.models.tasks import has_head
from finetune_trainer.preparation.encoding import Example
from finetune_trainer.recipes.padded import Judging, JudgingRecipe, Rows
from finetune_trainer.recipes.pairs import LOWER_IS_BETTER, PairEncoder, compared, pair_metrics, pair_of
from finetune_trainer.training.objective import Loss


class RewardModeling(Judging):
    """Each pair is two rows: the chosen answer, then the rejected one."""

    def collate(self, examples: Sequence[Example], packed: bool, device: torch.device) -> Rows:
        return super().collate([row for example in examples for row in _rows(example)], packed, device)

    def stand_in(self, tokens: int) -> Example:
        return pair_of(tokens)

    def forward(self, batch: Rows) -> Loss:
        """The sum of the losses of the pairs."""
        chosen, rejected = self.said(batch).logits.float().view(-1, 2).unbind(1)  # [P]
        loss = -logsigmoid(chosen - rejected).sum()
        return Loss(loss) if loss.requires_grad else Loss(loss, compared(chosen, rejected))


def _rows(pair: Example) -> list[Example]:
    shared, chosen = pair.extra
    texts = pair.ids[:chosen], pair.ids[:shared] + pair.ids[chosen:]
    return [Example(ids, bytes(len(ids)), array("i", [1, len(ids)])) for ids in texts]


class RewardRecipe(JudgingRecipe):
    """``task: text-generation``, ``objective: reward``."""

    head = Head(
        "AutoModelForSequenceClassification",
        "SEQ_CLS",
        "a reward model",
        settings={"id2label": {0: "reward"}, "label2id": {"reward": 0}},
        whole=True,
    )
    encoder = PairEncoder
    rates: ClassVar = {"adapter": 1e-4, "none": 1e-5}
    dropout = 0.0
    lower_is_better = LOWER_IS_BETTER

    def settled(self, head: Head, files: ModelFiles) -> Head:
        return replace(head, new=not has_head(files, head))

    def objective(self, model: Any) -> RewardModeling:
        return RewardModeling(model, self.padding)

    def metrics(self, totals: Totals) -> dict[str, float]:
        return pair_metrics(totals)
