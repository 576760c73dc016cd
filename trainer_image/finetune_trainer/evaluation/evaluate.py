"""Measures a model on the held-out examples. Base and tuned model go through the very same code and records."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from finetune_trainer.preparation.encoding import Encoded
from finetune_trainer.preparation.sets import Sets
from finetune_trainer.scaling.ranks import ALONE, Ranks
from finetune_trainer.training.batches import Cut
from finetune_trainer.training.objective import Loss
from finetune_trainer.training.passes import passes, sets_of


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
    sets: "Mapping[str, Totals]" = field(default_factory=dict)
    """Of each set by itself, by its name, where there are several; numbers of examples are those of the whole."""

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


Metrics = Callable[[Totals], Mapping[str, float]]
"""A recipe's: totals → measures by their names, the one that matters most first."""


def measure(totals: Totals, metrics: Metrics) -> Measured:
    """The measures of the whole, and then those of each set as ``<set>/<name>``: the one that matters most of all sets,
    then the next one, because what a status has no room for is left out from the end."""
    whole = dict(metrics(totals))
    sets = {name: metrics(of_set) for name, of_set in totals.sets.items()}
    named = {f"{set_}/{name}": found[name] for name in whole for set_, found in sets.items() if name in found}
    return Measured(whole | named)


def evaluate(
    objective: Any,
    examples: Encoded | Sets,
    cut: Cut,
    device: torch.device,
    on_batch: Callable[[int], None],
    ranks: Ranks = ALONE,
) -> Totals:
    """Measures a model in evaluation mode by its ``objective``; ``on_batch`` is told the tokens of each batch.

    The examples are shared out among the ranks; all of them return the same. Where they are of several sets, each batch
    is of one, so that the totals of all sets come out of the same pass.
    """
    objective.eval()
    sets = sets_of(examples)
    found = {name: _Sums() for name in sets}
    for name, numbers in sets.items():
        for part, made, tokens in passes(objective, objective.collate, examples, numbers, cut, device, ranks):
            found[name].add(made, part)
            on_batch(tokens)
    of_sets = {
        name: found[name].totals(sum(examples.units[index] for index in numbers), ranks)
        for name, numbers in sets.items()
    }
    return _together(of_sets)


class _Sums:
    """What a rank has found so far of one set."""

    def __init__(self) -> None:
        self._totals: dict[str, float] = {}
        self._predictions: dict[int, Any] = {}

    def add(self, found: Loss, part: Sequence[int]) -> None:
        """What the objective made of the examples of ``part``; where there are none it counts for nothing."""
        for name, total in {_LOSS: found.loss, **found.sums}.items():
            self._totals[name] = self._totals.get(name, 0.0) + (float(total) if part else 0.0)
        self._predictions.update(zip(part, found.predictions, strict=bool(part and found.predictions)))

    def totals(self, units: float, ranks: Ranks) -> Totals:
        """Of all ranks."""
        sums = dict(zip(self._totals, ranks.sum(*self._totals.values()), strict=True))
        shares = [self._predictions] if ranks.alone else ranks.gather(self._predictions)
        predictions = {index: value for share in shares for index, value in share.items()}
        return Totals(units, sums.pop(_LOSS), sums, predictions)


def _together(sets: Mapping[str, Totals]) -> Totals:
    """The totals of all sets; those of a single one are the whole."""
    totals = tuple(sets.values())
    if len(totals) == 1:
        return totals[0]
    return Totals(
        units=sum(one.units for one in totals),
        loss=sum(one.loss for one in totals),
        sums={name: sum(one.sums[name] for one in totals) for name in totals[0].sums},
        predictions={index: value for one in totals for index, value in one.predictions.items()},
        sets=sets,
    )


_LOSS = "the loss itself"
"""No objective's name for a sum."""
