"""Forward passes over examples without gradients: to measure a model, and to ask it what it makes of them."""

from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch

from finetune_trainer.preparation.encoding import Encoded
from finetune_trainer.preparation.sets import Sets
from finetune_trainer.scaling.ranks import ALONE, Ranks
from finetune_trainer.training.batches import Cut


def sets_of(examples: Encoded | Sets) -> dict[str, list[int]]:
    """The numbers of the examples of each set, longest first, as they are cut into passes."""
    sets = examples.by_name if isinstance(examples, Sets) else {"": list(range(len(examples)))}
    return {name: sorted(indices, key=lambda index: -examples.lengths[index]) for name, indices in sets.items()}


@torch.no_grad()
def passes(
    objective: Any,
    collate: Callable[..., Any],
    examples: Encoded | Sets,
    indices: Sequence[int],
    cut: Cut,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> Iterator[tuple[list[int], Any, int]]:
    """For each forward pass over the examples ``indices``, which come longest first: those of this rank, what
    ``objective`` makes of them, and the tokens of all ranks. A rank that has none passes over one that does not count.
    """
    for parts in ranks.rounds(indices, examples.lengths, cut, examples.targets):
        part = parts[ranks.rank]
        made = objective(collate([examples[index] for index in part or indices[-1:]], cut.packed, device))
        yield part, made, sum(examples.lengths[index] for index in chain(*parts))


def refer(
    objective: Any,
    examples: Encoded | Sets,
    cut: Cut,
    device: torch.device,
    on_batch: Callable[[int], None],
    ranks: Ranks = ALONE,
) -> "array[float]":
    """What the model, in evaluation mode, makes of each example (``Objective.references``): the same on all ranks.

    The passes are those of an evaluation, so that a model that is measured unchanged is equal to itself to the bit.

    Args:
        on_batch: is told the tokens of each batch.
    """
    objective.eval()
    own, made = array("q"), array("f")
    for indices in sets_of(examples).values():
        for part, found, tokens in passes(objective, objective.collate, examples, indices, cut, device, ranks):
            own.extend(part)
            for numbers in found.predictions[: len(part)]:
                made.extend(numbers)
            on_batch(tokens)
    each = objective.references
    references = array("f", bytes(4 * each * len(examples)))
    for numbered, numbers in ranks.gather((own, made)):
        for count, index in enumerate(numbered):
            references[index * each : (index + 1) * each] = numbers[count * each : (count + 1) * each]
    return references


def survey(
    objective: Any, examples: Encoded | Sets, indices: Sequence[int], cut: Cut, device: torch.device, ranks: Ranks
) -> None:
    """Lets ``objective`` look at all examples of a step together, if it has to; ``indices`` come longest first."""
    if not objective.surveys:
        return
    sums: dict[str, float] = {}
    for part, found, _ in passes(objective, objective.collate_survey, examples, indices, cut, device, ranks):
        for name, total in found.sums.items():
            sums[name] = sums.get(name, 0.0) + (float(total) if part else 0.0)
    together = dict(zip(sums, ranks.sum(*sums.values()), strict=True))
    objective.surveyed(together, sum(examples.units[index] for index in indices))
