"""Pairs of a chosen and a rejected answer: as examples, and how well a model tells them apart.

An example is the chosen answer with its prompt, and behind it what is different in the rejected one. ``extra``: the
tokens that both begin with, and those of the chosen one.
"""

from array import array
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from finetune_trainer.evaluation.evaluate import Totals
from finetune_trainer.preparation.encoder import Encoder, collect
from finetune_trainer.preparation.encoding import Encoded, Example
from finetune_trainer.recipes.likelihood import Segment


class PairEncoder(Encoder):
    """Turns pairs into examples. Each answer is cut as it would be by itself, and a pair of which then one answer is
    gone, or both are the same, is left out."""

    @staticmethod
    def parts(example: Example) -> Mapping[str, int]:
        shared, chosen = example.extra
        return {"prompt": 0, "chosen": shared, "rejected": chosen}

    def encode(self, pairs: Iterable[Any]) -> Encoded:
        answers = self.examples(answer for pair in pairs for answer in (pair.chosen, pair.rejected))
        return collect(_joined([*chosen, *rejected]) for chosen, rejected in _by_two(answers))

    def prompt(self, pair: Any) -> tuple[list[int], str]:
        return super().prompt(pair.chosen)


def _by_two(answers: Iterator[list[Example]]) -> Iterator[tuple[list[Example], list[Example]]]:
    return zip(answers, answers, strict=True)


def _joined(answers: list[Example]) -> list[Example]:
    if len(answers) < 2 or answers[0].ids == answers[1].ids:
        return []
    chosen, rejected = answers
    shared = _common_beginning(chosen, rejected)
    return [
        Example(
            chosen.ids + rejected.ids[shared:],
            chosen.learned + rejected.learned[shared:],
            array("i", (shared, len(chosen.ids))),
            units=1.0,
            positions=max(len(chosen.ids), len(rejected.ids)),
            cut=chosen.cut or rejected.cut,
        )
    ]


def _common_beginning(one: Example, other: Example) -> int:
    """Tokens with which both begin, none of them learned: what is learned of each must be in its own part."""
    given = min(one.learned.index(1), other.learned.index(1))
    return next((at for at in range(given) if one.ids[at] != other.ids[at]), given)


def segments_of(pair: Example) -> tuple[Segment, Segment]:
    """The chosen answer with its prompt, and the rejected one, which goes on from the same prompt."""
    shared, chosen = pair.extra
    return (
        Segment(pair.ids[:chosen], pair.learned[:chosen]),
        Segment(pair.ids[chosen:], pair.learned[chosen:], shared),
    )


def pair_of(tokens: int) -> Example:
    """A pair of so many tokens, a quarter of them in each answer, with references."""
    answer = max(1, tokens // 4)
    shared = max(1, tokens - 2 * answer)
    learned = bytes(shared) + b"\1" * (2 * answer)
    return Example(
        array("i", bytes(4 * len(learned))),
        learned,
        array("i", (shared, shared + answer)),
        units=1.0,
        references=array("f", (0.0, 0.0)),
    )


def compared(chosen: Tensor, rejected: Tensor) -> dict[str, Tensor]:
    """Sums over pairs [P] of what answers are worth to a model; where both are worth the same it is half right, as one
    that tosses a coin."""
    margins = chosen - rejected
    right = (margins > 0).float() + 0.5 * (margins == 0).float()
    return {"right": right.sum(), "chosen": chosen.sum(), "rejected": rejected.sum()}


LOWER_IS_BETTER = ("eval_loss", "reward_rejected")
"""Of the metrics of pairs."""


def pair_metrics(totals: Totals) -> dict[str, float]:
    """``preference_accuracy``: the share of pairs whose chosen answer is worth more. ``reward_margin``: how much more,
    on average; ``reward_chosen`` and ``reward_rejected``: the two. ``eval_loss``: the mean loss of a pair."""
    chosen, rejected = totals.mean(totals.sums["chosen"]), totals.mean(totals.sums["rejected"])
    return {
        "preference_accuracy": totals.mean(totals.sums["right"]),
        "reward_margin": chosen - rejected,
        "reward_chosen": chosen,
        "reward_rejected": rejected,
        "eval_loss": totals.mean(totals.loss),
    }
