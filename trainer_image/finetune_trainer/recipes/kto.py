"""Tuning by feedback: answers that were thought good become likelier than they were, those thought bad less likely.

KTO (Ethayarajh et al. 2024). An answer's reward is beta times the log of its likelihood over that under the model
before its first step. It is held against how far the model has moved in general, the KL term: the mean of the same log
ratio, not below 0, over answers to other prompts. Each record has one such answer, that of the record which is half the
file away, so that it is known before the training what the model made of it. The KL term of a step is that of all its
records, whatever the micro-batches and processes; that of an evaluation is that of all records measured.
"""

import math
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar

import torch
from torch import Tensor

from finetune_api.spec import Kto
from finetune_trainer.evaluation.evaluate import Totals
from finetune_trainer.models.head import LANGUAGE_MODEL
from finetune_trainer.preparation.encoder import Encoder, collect
from finetune_trainer.preparation.encoding import Encoded, Example
from finetune_trainer.preparation.preferences import Feedback
from finetune_trainer.preparation.record import Record
from finetune_trainer.recipes import likelihood
from finetune_trainer.recipes.likelihood import Likelihood, Segment
from finetune_trainer.recipes.recipe import Recipe
from finetune_trainer.training.objective import Loss


class FeedbackEncoder(Encoder):
    """Turns feedback into examples: the answer with its prompt. ``extra``: the tokens of the prompt, 1 where the answer
    was thought good, the tokens of another record's answer, and which of these count."""

    @staticmethod
    def parts(example: Example) -> Mapping[str, int]:
        given, good = example.extra[:2]
        return {"prompt": 0, "desirable" if good else "undesirable": given}

    def encode(self, records: Iterable[Any]) -> Encoded:
        matched = collect(self._matched(records))
        return Encoded((self._beside(matched, index) for index in range(len(matched))), matched.dropped, matched.cut)

    def _matched(self, records: Iterable[Feedback]) -> Iterator[list[Example]]:
        verdicts = deque[bool]()

        def answers() -> Iterator[Record]:
            for record in records:
                verdicts.append(record.desirable)  # some records ahead of their examples
                yield record.answer

        for found in self.examples(answers()):
            good = verdicts.popleft()
            yield [
                Example(one.ids, one.learned, array("i", [one.learned.index(1), good]), cut=one.cut) for one in found
            ]

    def _beside(self, matched: Encoded, index: int) -> Example:
        example, other = matched[index], matched[(index - len(matched) // 2) % len(matched)]
        given, elsewhere = example.extra[0], other.extra[0]
        room = elsewhere + self._max_length - given
        marks = array("i", list(other.learned[elsewhere:room]))
        return Example(example.ids, example.learned, example.extra + other.ids[elsewhere:room] + marks, units=1.0)

    def prompt(self, record: Any) -> tuple[list[int], str]:
        return super().prompt(record.answer)


def _own(example: Example) -> Segment:
    return Segment(example.ids, example.learned)


def _mismatched(example: Example) -> Segment:
    """The other record's answer, which goes on from this one's prompt."""
    tokens = example.extra[2:]
    half = len(tokens) // 2
    return Segment(tokens[:half], bytes(tokens[half:].tolist()), shared=example.extra[0])


def _mismatched_alone(example: Example) -> Segment:
    """The same, with the prompt."""
    given, other = example.extra[0], _mismatched(example)
    return Segment(example.ids[:given] + other.ids, bytes(given) + other.learned)


@dataclass(frozen=True)
class Batch:
    """The input of one forward pass: of E examples the answers, the mismatched ones, or both in turn."""

    answers: likelihood.Batch
    references: Tensor
    """[E, 1 or 2] of the same; 0 where they are asked for."""
    good: Tensor
    """[E] bool."""
    surveyed: bool = False
    """Only the mismatched ones are here, for the KL term."""
    asked: bool = False
    """The references are asked for."""


class FeedbackTuning(Likelihood):
    """Its batches have the answers where it is trained, and the mismatched ones as well where it is measured."""

    shares = True
    references = 2
    surveys = True

    def __init__(self, model: Any, settings: Kto) -> None:
        super().__init__(model)
        self._settings = settings
        self._kl = 0.0

    def collate(self, examples: Sequence[Example], packed: bool, device: torch.device) -> Batch:
        segments = [_own(example) for example in examples]
        if not self.training:
            segments = [one for example in examples for one in (_own(example), _mismatched(example))]
        known = torch.tensor([example.references.tolist() or [0.0, 0.0] for example in examples], device=device)
        return Batch(
            likelihood.collate(segments, packed, device),
            known[:, :1] if self.training else known,
            torch.tensor([bool(example.extra[1]) for example in examples], device=device),
            asked=not self.training and not examples[0].references,
        )

    def collate_survey(self, examples: Sequence[Example], packed: bool, device: torch.device) -> Batch:
        segments = [_mismatched_alone(example) for example in examples]
        known = torch.tensor([example.references[1:].tolist() for example in examples], device=device)
        return Batch(likelihood.collate(segments, packed, device), known, known[:, 0] > 0, surveyed=True)

    def surveyed(self, sums: Mapping[str, float], units: float) -> None:
        self._kl = max(0.0, sums["kl"] / units)

    def stand_in(self, tokens: int) -> Example:
        """Half of its tokens are an answer."""
        learned = bytes(tokens - tokens // 2) + b"\1" * (tokens // 2)
        extra = array("i", [tokens - tokens // 2, 1])
        return Example(array("i", bytes(4 * tokens)), learned, extra, 1.0, references=array("f", (0.0, 0.0)))

    def forward(self, batch: Batch) -> Loss:
        """Of answers: the sum of their losses. Of answers and mismatched ones: the log ratios of both and the verdict,
        or their references. Of mismatched ones: the sum of the log ratios."""
        ratios = self.log_likelihoods(batch.answers).view(batch.references.shape) - batch.references
        if batch.asked:
            return Loss(ratios.sum(), predictions=ratios.tolist())
        if batch.surveyed:
            return Loss(ratios.sum(), {"kl": ratios.sum()})
        if ratios.shape[1] == 2:
            predictions = [(*both, good) for both, good in zip(ratios.tolist(), batch.good.tolist(), strict=True)]
            return Loss(ratios.sum(), predictions=predictions)
        return Loss(self._losses(ratios[:, 0], batch.good).sum())

    def _losses(self, ratios: Tensor, good: Tensor) -> Tensor:
        """[E] equation 8 of the paper: of a good answer 1 - sigmoid(beta (ratio - KL)), of a bad one the other way."""
        margins = torch.where(good, 1.0, -1.0) * self._settings.beta * (ratios - self._kl)
        weights = torch.where(good, self._settings.desirable_weight, self._settings.undesirable_weight)
        return weights * torch.sigmoid(-margins)


class KtoRecipe(Recipe):
    """``task: text-generation``, ``objective: kto``."""

    head = LANGUAGE_MODEL
    generates = True
    encoder = FeedbackEncoder
    rates: ClassVar = {"adapter": 1e-5, "none": 1e-6}
    dropout = 0.0
    lower_is_better = ("eval_loss", "kl", "reward_undesirable")

    @property
    def _settings(self) -> Kto:
        return self.config.method.kto or Kto()

    def objective(self, model: Any) -> FeedbackTuning:
        return FeedbackTuning(model, self._settings)

    def metrics(self, totals: Totals) -> dict[str, float]:
        """``feedback_accuracy``: the share of answers that became likelier and were thought good, or less likely and
        thought bad; half, where nothing changed. ``reward_margin``: what good answers are worth more than bad ones, on
        average; ``reward_desirable``, ``reward_undesirable``: the two, each where there are such answers. ``kl``: the
        KL term, nats. ``eval_loss``: the mean loss of a record."""
        beta = self._settings.beta
        found = [(beta * ratio, other, good) for ratio, other, good in totals.predictions.values()]
        kl = max(0.0, fmean(other for _, other, _ in found))
        good, bad = ([reward for reward, _, verdict in found if verdict is kind] for kind in (True, False))
        losses = [self._settings.desirable_weight * _sigmoid(beta * kl - reward) for reward in good]
        losses += [self._settings.undesirable_weight * _sigmoid(reward - beta * kl) for reward in bad]
        named = {"feedback_accuracy": fmean(_right(value) for value in (*good, *(-reward for reward in bad)))}
        if good and bad:
            named["reward_margin"] = fmean(good) - fmean(bad)
        named |= {f"reward_{kind}": fmean(of) for kind, of in (("desirable", good), ("undesirable", bad)) if of}
        return named | {"kl": kl, "eval_loss": fmean(losses)}


def _sigmoid(x: float) -> float:
    return 0.5 + 0.5 * math.tanh(x / 2)


def _right(value: float) -> float:
    """1 above 0, else 0; where nothing changed half right, as one that tosses a coin."""
    return 0.5 if value == 0 else float(value > 0)
