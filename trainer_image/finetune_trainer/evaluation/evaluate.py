"""Measures a model on the held-out examples. Base and tuned model go through the very same code and records."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch

from finetune_trainer.preparation.encoding import Encoded
from finetune_trainer.scaling.ranks import ALONE, Ranks
from finetune_trainer.training.batches import Cut


@dataclass(frozen=True)
class Totals:
    """What a model makes of all held-out examples together."""

    units: float
    """That count: learned tokens, or records, or pairs."""
    loss: float
    """Summed over them."""
    sums: Mapping[str, float]
    """Other sums over them, by the objective's names."""
    predictions: Mapping[int, Any]
    """By the number of the example; empty where the objective makes none."""

    def mean(self, total: float) -> float:
        """``total`` for each unit."""
        return total / self.units


@dataclass(frozen=True)
class Measured:
    """The measures of one model."""

    metrics: Mapping[str, float]
    """By the names of ``status.metrics``, in their order."""

    @property
    def finite(self) -> bool:
        """Whether all of them are numbers."""
        return all(map(math.isfinite, self.metrics.values()))

    def __str__(self) -> str:
        return "  ".join(f"{name} {value:.4f}" for name, value in self.metrics.items())


@torch.no_grad()
def evaluate(
    objective: Any,
    examples: Encoded,
    cut: Cut,
    device: torch.device,
    on_batch: Callable[[int], None],
    ranks: Ranks = ALONE,
) -> Totals:
    """Measures a model in evaluation mode by its ``objective``; ``on_batch`` is told the tokens of each batch.

    The examples are shared out among the ranks; all of them return the same.
    """
    objective.eval()
    order = sorted(range(len(examples)), key=lambda index: -examples.lengths[index])
    totals: dict[str, float] = {}
    predictions: dict[int, Any] = {}
    for parts in ranks.rounds(order, examples.lengths, cut):
        part = parts[ranks.rank]
        batch = objective.collate([examples[index] for index in part or order[-1:]], cut.packed, device)
        found = objective(batch)
        for name, total in {_LOSS: found.loss, **found.sums}.items():
            totals[name] = totals.get(name, 0.0) + (float(total) if part else 0.0)
        predictions.update(zip(part, found.predictions, strict=bool(part and found.predictions)))
        on_batch(sum(examples.lengths[index] for index in chain(*parts)))
    sums = dict(zip(totals, ranks.sum(*totals.values()), strict=True))
    if predictions and not ranks.alone:
        predictions = {index: value for share in ranks.gather(predictions) for index, value in share.items()}
    return Totals(sum(examples.units), sums.pop(_LOSS), sums, predictions)


_LOSS = "the loss itself"
"""No objective's name for a sum."""
