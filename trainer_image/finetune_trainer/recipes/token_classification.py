"""Token classification: each word of a text has a tag, of an entity (NER) or of its kind (POS). A word's tag is learned
and read at its first token.

Shapes: B records, T tokens of a row, N words, C tags.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerBase

from finetune_api.run import RunConfig
from finetune_trainer.evaluation.classified import are_entities, entities, single_label
from finetune_trainer.evaluation.evaluate import Totals
from finetune_trainer.models.head import Head
from finetune_trainer.models.modelfiles import ModelFiles
from finetune_trainer.models.tasks import with_labels
from finetune_trainer.preparation.data import Dataset, RecordSet
from finetune_trainer.preparation.encoder import Encoder
from finetune_trainer.preparation.encoding import Encoded, Example
from finetune_trainer.preparation.labelled import TaggedWords
from finetune_trainer.preparation.shown import Labels
from finetune_trainer.recipes.padded import Judging, JudgingRecipe, Rows, own_numbers
from finetune_trainer.training.objective import Loss


class TokenClassification(Judging):
    """The cross-entropy of each word's tag."""

    def stand_in(self, tokens: int) -> Example:
        extra = array("i", [1, tokens, *[0] * tokens])
        return Example(array("i", bytes(4 * tokens)), b"\1" * tokens, extra)

    def forward(self, batch: Rows) -> Loss:
        logits = self.said(batch).logits[batch.learned].float()  # [N, C]
        targets = torch.tensor([tag for tags in batch.extra for tag in tags], device=logits.device)
        loss = self.cross_entropy(logits, targets)
        if logits.requires_grad:
            return Loss(loss)
        said = torch.split(logits.argmax(-1).cpu(), [len(tags) for tags in batch.extra])
        return Loss(
            loss, predictions=[(tags, array("i", row.tolist())) for tags, row in zip(batch.extra, said, strict=True)]
        )


class TokenClassificationRecipe(JudgingRecipe):
    """``task: token-classification``."""

    head = Head("AutoModelForTokenClassification", "TOKEN_CLS", "a token classifier", whole=True)

    def __init__(self, config: RunConfig, data: Dataset) -> None:
        super().__init__(config, data)
        self._labels: Sequence[str] = data.labels

    def meet(self, files: ModelFiles, tokenizer: PreTrainedTokenizerBase) -> None:
        super().meet(files, tokenizer)
        splitting: Any = tokenizer.backend_tokenizer.pre_tokenizer
        if isinstance(splitting, ByteLevel):  # words come one by one: each shall have the space that it has in a text
            splitting.add_prefix_space = True

    def settled(self, head: Head, files: ModelFiles) -> Head:
        settled, self._labels = with_labels(head, self._labels, None, files)
        return settled

    def encode(self, encoder: Encoder, records: RecordSet, what: str) -> Encoded:
        """Words beyond maxLength tokens are cut off, and count nowhere."""
        return Encoded(self._examples(records))

    def _examples(self, records: Iterable[Any]) -> Iterator[Example]:
        numbers = {name: number for number, name in enumerate(self._labels)}
        record: TaggedWords
        for record, encoding, cut in self.inputs.words(records):
            words = encoding.word_ids
            first = [(at, word) for at, word in enumerate(words) if word is not None and word not in words[at - 1 : at]]
            learned = bytearray(len(words))
            for at, _ in first:
                learned[at] = 1
            extra = self.inputs.parts(encoding)
            extra.extend(numbers[record.tags[word]] for _, word in first)
            yield Example(array("i", encoding.ids), bytes(learned), extra, cut=cut)

    def labels_of(self, example: Example) -> Labels:
        places = (at for at, learned in enumerate(example.learned) if learned)
        tags = self._named(own_numbers(example))
        return Labels(of_tokens=[(range(at, at + 1), tag) for at, tag in zip(places, tags, strict=True)])

    def objective(self, model: Any) -> TokenClassification:
        return TokenClassification(model, self.padding)

    def metrics(self, totals: Totals) -> dict[str, float]:
        """Of entities where the tags are those of a scheme for them; else the accuracy of the words' tags, and means
        over the tags that occur."""
        loss = {"eval_loss": totals.mean(totals.loss)}
        pairs = list(totals.predictions.values())
        if are_entities(self._labels):
            return entities([(self._named(right), self._named(said)) for right, said in pairs]) | loss
        found = single_label([pair for right, said in pairs for pair in zip(right, said, strict=True)])
        return {"accuracy": found.pop("accuracy")} | found | loss

    def _named(self, numbers: Sequence[int]) -> list[str]:
        return [self._labels[number] for number in numbers]
