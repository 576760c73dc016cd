"""What the tasks have in common that judge texts: batches of whole texts, one a row, and a head on a body.

``Example.extra`` begins with how many tokens are of each type (``Inputs.parts``); what follows is the task's own.

Shapes: B rows, T tokens of a row.
"""

import inspect
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from finetune_trainer.models.head import Head
from finetune_trainer.models.modelfiles import ModelFiles
from finetune_trainer.models.parts import without_adapter
from finetune_trainer.models.tasks import require_task
from finetune_trainer.preparation.encoding import Example
from finetune_trainer.preparation.inputs import Inputs
from finetune_trainer.recipes.recipe import Recipe
from finetune_trainer.training.objective import Objective


@dataclass(frozen=True)
class Rows:
    """The input of one forward pass, and what is to be learned of it."""

    arguments: dict[str, Any]
    """Of the model's forward pass: ``input_ids`` [B, T] …"""
    lengths: list[int]
    """[B] Tokens of each row that are no padding."""
    extra: list["array[int]"]
    """[B] The task's own numbers of each example."""
    learned: Tensor
    """[B, T]"""


class Judging(Objective):
    """A model with a head of its own, on padded rows."""

    def __init__(self, model: Any, padding: int) -> None:
        """``padding``: the token that fills a row."""
        super().__init__(model)
        self._padding = padding
        inner = without_adapter(model)
        self.end: int | None = end_of_text(inner.config)
        """The token by which the model's head finds the end of a text, where it goes by one."""
        if inner.config.get_text_config().pad_token_id is None:  # by it a decoder's head finds the last token
            inner.config.get_text_config().pad_token_id = padding
        self._fixed = {"use_cache": False} if "use_cache" in inspect.signature(inner.forward).parameters else {}

    def collate(self, examples: Sequence[Example], packed: bool, device: torch.device) -> Rows:
        """One a row, padded on the right; no mask where nothing is padded."""
        ids = [torch.frombuffer(example.ids, dtype=torch.int32).long() for example in examples]
        rows = nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=self._padding)
        real = torch.arange(rows.shape[1]) < torch.tensor([len(row) for row in ids])[:, None]
        learned = [torch.frombuffer(bytearray(example.learned), dtype=torch.bool) for example in examples]
        arguments: dict[str, Any] = {"input_ids": rows}
        if not real.all():
            arguments["attention_mask"] = real.long()
        types = [torch.repeat_interleave(torch.tensor(example.extra[1 : 1 + example.extra[0]])) for example in examples]
        if any(len(row) and row[-1] for row in types):
            arguments["token_type_ids"] = nn.utils.rnn.pad_sequence(types, batch_first=True)
        return Rows(
            {name: _move(tensor, device) for name, tensor in arguments.items()} | self._fixed,
            [len(row) for row in ids],
            [own_numbers(example) for example in examples],
            _move(nn.utils.rnn.pad_sequence(learned, batch_first=True), device),
        )

    def said(self, rows: Rows) -> Any:
        """The model's output."""
        return self.model(**rows.arguments)


def own_numbers(example: Example) -> "array[int]":
    """What the task itself keeps of an example."""
    return example.extra[1 + example.extra[0] :]


def end_of_text(config: Any) -> int | None:
    """The token by which the head of a text classifier finds the end of a text; None: not by a token.

    transformers' classes with encoder and decoder look for it, and take no texts together that have more or fewer.
    """
    return config.eos_token_id if config.is_encoder_decoder else None


def _move(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class JudgingRecipe(Recipe):
    """A recipe whose records are texts as they are, to be judged."""

    inputs: Inputs
    padding: int

    def meet(self, files: ModelFiles, tokenizer: PreTrainedTokenizerBase) -> None:
        require_task(files, self.head, self.config.task)
        self.head = self.settled(self.head, files)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.bos_token or tokenizer.convert_ids_to_tokens(0)
        self.padding = tokenizer.pad_token_id
        self.inputs = Inputs(tokenizer, self.config.training.max_length)

    def settled(self, head: Head, files: ModelFiles) -> Head:
        """The head for these data on this base."""
        raise NotImplementedError
