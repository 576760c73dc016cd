"""Text classification: a text, or two, and which of some labels it has: one of them, or each that applies.

Shapes: B records, C labels.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from finetune_api.run import ExitCode, RunConfig
from finetune_trainer.errors import TrainerError
from finetune_trainer.evaluation.classified import several_labels, single_label
from finetune_trainer.evaluation.evaluate import Totals
from finetune_trainer.models.head import Head
from finetune_trainer.models.model import read_config
from finetune_trainer.models.modelfiles import ModelFiles
from finetune_trainer.models.tasks import with_labels
from finetune_trainer.preparation.data import Dataset, RecordSet
from finetune_trainer.preparation.encoder import Encoder
from finetune_trainer.preparation.encoding import Encoded, Example
from finetune_trainer.preparation.labelled import LabelledText
from finetune_trainer.preparation.lines import invalid
from finetune_trainer.preparation.shown import Labels
from finetune_trainer.recipes.padded import Judging, JudgingRecipe, Rows, end_of_text, own_numbers
from finetune_trainer.training.objective import Loss


class TextClassification(Judging):
    """One label of C: cross-entropy. Several: the binary cross-entropy of each, and its mean over them."""

    def __init__(self, model: Any, padding: int, several: bool) -> None:
        super().__init__(model, padding)
        self._several = several

    def stand_in(self, tokens: int) -> Example:
        ids = array("i", bytes(4 * (tokens - 1))) + array("i", [self.end or 0])
        return Example(ids, bytes(tokens), array("i", [1, tokens, 0]), 1.0)

    def forward(self, batch: Rows) -> Loss:
        logits = self.said(batch).logits.float()  # [B, C]
        loss = self._of_several(logits, batch.extra) if self._several else self._of_one(logits, batch.extra)
        if logits.requires_grad:
            return Loss(loss)
        if self._several:
            found = [tuple(row.nonzero().flatten().tolist()) for row in (logits > 0).cpu()]
            return Loss(
                loss, predictions=[(tuple(known), said) for known, said in zip(batch.extra, found, strict=True)]
            )
        said = logits.argmax(-1).tolist()
        return Loss(loss, predictions=[(known[0], number) for known, number in zip(batch.extra, said, strict=True)])

    def _of_one(self, logits: Tensor, extra: Sequence["array[int]"]) -> Tensor:
        targets = torch.tensor([labels[0] for labels in extra], device=logits.device)
        return self.cross_entropy(logits, targets)

    def _of_several(self, logits: Tensor, extra: Sequence["array[int]"]) -> Tensor:
        targets = torch.zeros(logits.shape)
        for row, labels in zip(targets, extra, strict=True):
            row[list(labels)] = 1
        smoothing = self.smoothing if self.training else 0.0  # of two classes each: the label applies, or not
        targets = targets * (1 - smoothing) + smoothing / 2
        losses = functional.binary_cross_entropy_with_logits(logits, targets.to(logits.device), reduction="none")
        return losses.mean(-1).sum()


class TextClassificationRecipe(JudgingRecipe):
    """``task: text-classification``."""

    head = Head("AutoModelForSequenceClassification", "SEQ_CLS", "a text classifier", whole=True)

    def __init__(self, config: RunConfig, data: Dataset) -> None:
        super().__init__(config, data)
        self._labels: Sequence[str] = data.labels
        self._several = "text-labels" in data.formats
        if len(data.formats) > 1:
            _refuse("spec.data has records with one label and records with several. Write all of them as labels: […]")
        if not data.labels or (len(data.labels) == 1 and not self._several):
            what = f"All records have the label {data.labels[0]!r}" if data.labels else "No record has a label"
            _refuse(f"{what}, so there is nothing to tell apart. Add records with others to spec.data.train")

    def meet(self, files: ModelFiles, tokenizer: PreTrainedTokenizerBase) -> None:
        super().meet(files, tokenizer)
        self._end, self._ends = end_of_text(read_config(files)), 0

    def settled(self, head: Head, files: ModelFiles) -> Head:
        problem = "multi_label_classification" if self._several else "single_label_classification"
        settled, self._labels = with_labels(head, self._labels, problem, files)
        return settled

    def encode(self, encoder: Encoder, records: RecordSet, what: str) -> Encoded:
        """A text of more than maxLength tokens is cut there."""
        return Encoded(self._examples(records))

    def _examples(self, records: Iterable[Any]) -> Iterator[Example]:
        numbers = {name: number for number, name in enumerate(self._labels)}
        record: LabelledText
        for record, encoding, cut in self.inputs.texts(records):
            if self._end is not None:
                self._require_ends(record, encoding.ids.count(self._end))
            extra = self.inputs.parts(encoding)
            extra.extend(sorted(numbers[name] for name in record.labels))
            yield Example(array("i", encoding.ids), bytes(len(encoding)), extra, 1.0, cut=cut)

    def _require_ends(self, record: LabelledText, ends: int) -> None:
        """Refuses what the head takes no texts together with."""
        self._ends = self._ends or ends
        if not ends:
            raise TrainerError(
                ExitCode.MODEL_INVALID,
                "The model's tokenizer puts no end-of-text token (eos_token_id in config.json) behind a text, by which "
                "its classifier finds the end. Choose another model, or correct the tokenizer.",
            )
        if ends != self._ends:
            raise invalid(
                f"{record.source}: it has {ends} end-of-text token(s), and the first record {self._ends}, but all must "
                "have as many, because by them this model finds the end of a text. Give text_pair in all records or in "
                "none, and leave that token out of the texts"
            )

    def labels_of(self, example: Example) -> Labels:
        return Labels(tuple(self._labels[number] for number in own_numbers(example)))

    def objective(self, model: Any) -> TextClassification:
        return TextClassification(model, self.padding, self._several)

    def metrics(self, totals: Totals) -> dict[str, float]:
        """Of one label: F1, precision and recall are means over the labels that occur (macro), each counting the same.
        Of several, F1 over all decisions as well (micro), and accuracy is the share of records with all of them right.
        """
        measures = several_labels if self._several else single_label
        return measures(list(totals.predictions.values())) | {"eval_loss": totals.mean(totals.loss)}


def _refuse(what: str) -> None:
    raise TrainerError(ExitCode.DATA_INVALID, f"{what}.")
