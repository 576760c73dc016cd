"""Extractive question answering: the answer to a question is a part of a text, from one token to another.

A text that is too long is read in windows that overlap. Where the answer is not in a window, or nowhere, the first
token stands for it. Characters and tokens are counted from 0.

Shapes: B windows, T tokens of a row.
"""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from tokenizers import Encoding
from torch import Tensor

from finetune_api.run import ExitCode, RunConfig
from finetune_trainer.errors import TrainerError
from finetune_trainer.evaluation.answers import answer_measures
from finetune_trainer.evaluation.evaluate import Totals
from finetune_trainer.models.head import Head
from finetune_trainer.models.modelfiles import ModelFiles
from finetune_trainer.models.tasks import has_head
from finetune_trainer.preparation.data import Dataset, RecordSet
from finetune_trainer.preparation.encoder import Encoder
from finetune_trainer.preparation.encoding import Encoded, Example
from finetune_trainer.preparation.labelled import UNANSWERED, Question
from finetune_trainer.preparation.shown import Labels
from finetune_trainer.recipes.padded import Judging, JudgingRecipe, Rows, own_numbers
from finetune_trainer.training.objective import Loss

_LONGEST_ANSWER = 30
"""Tokens."""
_LEAST = 32
"""Tokens of a window."""
_RECORD, _START, _END, _FIRST, _OFFSETS = range(5)
"""In an example's own numbers: its record, first and last token of the answer, first token of the text, and from there
for each token of the text its first character and the one behind it."""


class Span(NamedTuple):
    """What was said of one window."""

    record: int
    score: float
    """Of the best span: the logits of its ends together; higher is likelier."""
    nothing: float
    """The same of the first token alone: the answer is not here."""
    start: int
    """First character."""
    end: int
    """Character behind the last."""


class QuestionAnswering(Judging):
    """The cross-entropy of the answer's first and of its last token, and the mean of the two."""

    def stand_in(self, tokens: int) -> Example:
        extra = array("i", [1, tokens, 0, 0, 0, 0, *[0] * (2 * tokens)])
        return Example(array("i", bytes(4 * tokens)), bytes(tokens), extra, 1.0)

    def forward(self, batch: Rows) -> Loss:
        said = self.said(batch)
        both = torch.stack([said.start_logits, said.end_logits], 1).float()  # [B, 2, T]
        rows = [row[:, :length] for row, length in zip(both, batch.lengths, strict=True)]  # padding is no answer
        targets = torch.tensor([numbers[_START : _END + 1] for numbers in batch.extra], device=both.device)  # [B, 2]
        losses = [self.cross_entropy(row, target) for row, target in zip(rows, targets, strict=True)]
        loss = torch.stack(losses).sum() / 2
        if both.requires_grad:
            return Loss(loss)
        return Loss(
            loss, predictions=[_span(row[0].cpu(), row[1].cpu(), of) for row, of in zip(rows, batch.extra, strict=True)]
        )


def _span(starts: Tensor, ends: Tensor, numbers: "array[int]") -> Span:
    """The best span of the text within one window: of those that do not end before they begin, nor are too long."""
    first, offsets = numbers[_FIRST], numbers[_OFFSETS:]
    length = len(offsets) // 2
    begin, behind = starts[first : first + length], ends[first : first + length]
    together = begin[:, None] + behind[None, :]  # [T, T]
    allowed = torch.ones_like(together, dtype=torch.bool).triu().tril(_LONGEST_ANSWER - 1)
    best = int(together.masked_fill(~allowed, -torch.inf).argmax())
    start, end = divmod(best, length)
    nothing = float(starts[0] + ends[0])
    return Span(numbers[_RECORD], float(together[start, end]), nothing, offsets[2 * start], offsets[2 * end + 1])


class QuestionAnsweringRecipe(JudgingRecipe):
    """``task: question-answering``."""

    head = Head("AutoModelForQuestionAnswering", None, "a model that answers questions out of a text", whole=True)

    def __init__(self, config: RunConfig, data: Dataset) -> None:
        super().__init__(config, data)
        self._validation = data.validation
        self._may_be_nothing = UNANSWERED in data.labels
        self._measured = 0
        """Records that measure, encoded so far."""
        if config.training.max_length < _LEAST:
            raise TrainerError(
                ExitCode.CONFIGURATION_INVALID,
                f"spec.training.maxLength is {config.training.max_length}, but question and text take at least "
                f"{_LEAST} tokens together. Raise it; 384 is usual.",
            )

    def settled(self, head: Head, files: ModelFiles) -> Head:
        return replace(head, new=not has_head(files, head))

    def encode(self, encoder: Encoder, records: RecordSet, what: str) -> Encoded:
        """A text of more than maxLength tokens, its question counted, is read in windows. Two of them have a quarter of
        that in common."""
        measured = what == "validation"
        encoded = Encoded(self._examples(records, self._measured if measured else 0))
        self._measured += len(records) if measured else 0
        return encoded

    def _examples(self, records: Iterable[Any], before: int) -> Iterator[Example]:
        record: Question
        windows = self.inputs.windows(records, self.inputs.max_length // 4)
        for number, (record, encodings) in enumerate(windows, before):
            for encoding in encodings:
                extra = self.inputs.parts(encoding)
                extra.extend(_numbers(number, record, encoding))
                yield Example(array("i", encoding.ids), bytes(len(encoding)), extra, 1.0)

    def labels_of(self, example: Example) -> Labels:
        """Which tokens are the answer, or that a window has none."""
        start, end = own_numbers(example)[_START : _END + 1]
        return Labels(of_tokens=[(range(start, end + 1), "answer")]) if start else Labels((UNANSWERED,))

    def objective(self, model: Any) -> QuestionAnswering:
        return QuestionAnswering(model, self.padding)

    def metrics(self, totals: Totals) -> dict[str, float]:
        """By SQuAD's rules: the share of answers that are one of the right ones word by word, and F1 over their words,
        the best of the right ones. That there is no answer is said only if there were such records to learn from."""
        best: dict[int, Span] = {}
        nothing: dict[int, float] = {}
        for span in totals.predictions.values():
            if span.record not in best or span.score > best[span.record].score:
                best[span.record] = span
            nothing[span.record] = min(span.nothing, nothing.get(span.record, span.nothing))
        given = []
        for number, record in enumerate(self._validation):
            if (found := best.get(number)) and isinstance(record, Question):
                silent = self._may_be_nothing and nothing[number] > found.score
                said = "" if silent else record.context[found.start : found.end]
                given.append(([text for text, _ in record.answers], said))
        return answer_measures(given) | {"eval_loss": totals.mean(totals.loss)}


def _numbers(number: int, record: Question, encoding: Encoding) -> "array[int]":
    """An example's own numbers."""
    places = [place for place, part in enumerate(encoding.sequence_ids) if part == 1]
    if not places:
        return array("i", [number, 0, 0, 0, 0, 0])
    offsets = [encoding.offsets[place] for place in places]
    start, end = _tokens_of(record, offsets)
    shift = places[0] if end >= 0 else 0
    flat = (character for offset in offsets for character in offset)
    return array("i", [number, max(0, start) + shift, max(0, end) + shift, places[0], *flat])


def _tokens_of(record: Question, offsets: list[tuple[int, int]]) -> tuple[int, int]:
    """First and last token of the answer within a window, by its tokens' characters; (-1, -1): it is not there."""
    if not record.answers:
        return -1, -1
    text, begin = record.answers[0]
    start, behind = begin + len(text) - len(text.lstrip()), begin + len(text.rstrip())
    if start < offsets[0][0] or behind > offsets[-1][1]:
        return -1, -1
    first = next(place for place, (_, end) in enumerate(offsets) if end > start)
    last = next(place for place in reversed(range(len(offsets))) if offsets[place][0] < behind)
    return (first, last) if first <= last else (-1, -1)
