"""Text to text: an encoder reads the source, and a decoder learns to write the target, each token from those before it.

Shapes: B pairs, S tokens of the longest source, U tokens of the longest target, V vocabulary.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from finetune_trainer.models.head import SEQUENCE_TO_SEQUENCE
from finetune_trainer.models.parts import without_adapter
from finetune_trainer.preparation.encoding import Example
from finetune_trainer.preparation.sides import SidesEncoder
from finetune_trainer.recipes.language_modeling import LanguageModelingRecipe
from finetune_trainer.recipes.likelihood import move
from finetune_trainer.training.objective import IGNORED, Loss, Objective


@dataclass(frozen=True)
class Batch:
    """The input of one forward pass, padded on the right."""

    sources: Tensor
    """[B, S] int64."""
    mask: Tensor
    """[B, S] 1 where there is a token of a source."""
    targets: Tensor
    """[B, U] int64, then IGNORED."""


def collate(examples: Sequence[Example], device: torch.device) -> Batch:
    """Pairs as one batch on ``device``."""
    ids = [torch.frombuffer(example.ids, dtype=torch.int32).long() for example in examples]
    lengths = [example.learned.count(0) for example in examples]  # of the sources: all of a target is learned
    sources = pad_sequence([row[:length] for row, length in zip(ids, lengths, strict=True)], batch_first=True)
    targets = [row[length:] for row, length in zip(ids, lengths, strict=True)]
    mask = torch.arange(sources.shape[1]) < torch.tensor(lengths)[:, None]
    padded = pad_sequence(targets, batch_first=True, padding_value=IGNORED)
    return Batch(move(sources, device), move(mask.long(), device), move(padded, device))


class Text2Text(Objective):
    """Next-token prediction by the decoder of a model that has an encoder as well."""

    def collate(self, examples: Sequence[Example], packed: bool, device: torch.device) -> Batch:
        return collate(examples, device)

    def stand_in(self, tokens: int) -> Example:
        """Half of its tokens are the target."""
        target = max(1, tokens // 2)
        source = max(1, tokens - target)
        return Example(array("i", bytes(4 * (source + target))), bytes(source) + b"\1" * target)

    def forward(self, batch: Batch) -> Loss:
        """The loss of ``batch``. What the decoder is given instead of the token before the first is up to the model."""
        shift = getattr(without_adapter(self.model), "prepare_decoder_input_ids_from_labels", None)
        given = {"decoder_input_ids": shift(labels=batch.targets)} if shift else {"labels": batch.targets}
        out = self.model(input_ids=batch.sources, attention_mask=batch.mask, use_cache=False, **given)
        loss = self.cross_entropy(out.logits.flatten(0, 1), batch.targets.flatten())
        counted = not loss.requires_grad
        return Loss(loss, {"right": (out.logits.argmax(-1) == batch.targets).sum()} if counted else {})


class Text2TextRecipe(LanguageModelingRecipe):
    """``task: text2text-generation``: translation, summarisation. Its measures are those of text generation."""

    head = SEQUENCE_TO_SEQUENCE
    encoder = SidesEncoder
    text_metrics = ("bleu", "chrf", "rouge1", "rouge2", "rougeL")
    rates = {"adapter": 5e-4, "none": 1e-4}  # noqa: RUF012 - T5 is trained with higher rates than decoders are

    def objective(self, model: Any) -> Text2Text:
        return Text2Text(model)
