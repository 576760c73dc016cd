"""Text generation: each learned token is predicted from those before it.

Shapes: B rows, T tokens of a row, N learned tokens, H hidden size, V vocabulary.
"""

import math
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from finetune_trainer.evaluation.evaluate import Totals
from finetune_trainer.models.attention import boundaries
from finetune_trainer.models.head import LANGUAGE_MODEL
from finetune_trainer.models.parts import body_and_head, without_adapter
from finetune_trainer.preparation.encoding import Example
from finetune_trainer.recipes.recipe import Recipe
from finetune_trainer.training.layout import Layout, try_layout
from finetune_trainer.training.objective import Loss, Objective

_LOGITS_AT_ONCE, _LOGITS_AT_LEAST = 2**26, 2**19
"""Logits beyond which they are computed in chunks, and again for the backward pass: 256 MiB in fp32; or 2 MiB, where
memory counts more than time."""

_EVEN = 32
"""Tokens of a packed row, and learned tokens, are made a multiple of this: a processor likes even shapes, and every
other shape costs memory for a kernel of its own (measured: 30 MiB each with oneDNN)."""
IGNORED = -100
"""Target that does not count, by cross_entropy's convention."""


@dataclass(frozen=True)
class Batch:
    """The input of one forward pass."""

    ids: Tensor
    """[B, T] int64; one row if packed."""
    arguments: dict[str, Any]
    """How the records lie in it: a mask where they are padded, positions and boundaries where they are packed."""
    at: tuple[Tensor, Tensor]
    """Row and column of the tokens whose successor is learned: [N], then some that do not count."""
    targets: Tensor
    """Those successors: [N], then IGNORED."""


def collate(examples: Sequence[Example], packed: bool, device: torch.device) -> Batch:
    """Examples as one batch on ``device``: one after the other in a row, or one a row, padded on the right.

    On a GPU this runs ahead of it: the copies come from pinned memory, and nothing waits for the pass before.
    """
    ids = [torch.frombuffer(example.ids, dtype=torch.int32).long() for example in examples]
    learned = [torch.frombuffer(bytearray(example.learned), dtype=torch.bool) for example in examples]
    if packed and (surplus := sum(map(len, ids)) % _EVEN):
        ids.append(torch.zeros(_EVEN - surplus, dtype=torch.long))  # a record of which nothing is learned
        learned.append(torch.zeros(_EVEN - surplus, dtype=torch.bool))
    lengths = [len(row) for row in ids]
    arguments: dict[str, Any]
    if packed:
        rows, marks = torch.cat(ids)[None], torch.cat(learned)[None]
        positions = torch.cat([torch.arange(length) for length in lengths])[None]
        arguments = {"position_ids": _move(positions, device), **boundaries(lengths, device)}
    else:
        rows, marks = (nn.utils.rnn.pad_sequence(parts, batch_first=True) for parts in (ids, learned))
        mask = torch.arange(rows.shape[1]) < torch.tensor(lengths)[:, None]
        arguments = {"attention_mask": _move(mask.long(), device)}
    row, column = marks.nonzero(as_tuple=True)  # never column 0 of a record: nothing predicts it
    unused = -len(row) % _EVEN
    at = [_move(functional.pad(index, (0, unused)), device) for index in (row, column - 1)]
    targets = _move(functional.pad(rows[row, column], (0, unused), value=IGNORED), device)
    return Batch(_move(rows, device), arguments, (at[0], at[1]), targets)


def _move(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class LanguageModeling(Objective):
    """Next-token prediction by a causal language model."""

    def __init__(self, model: Any, headless: bool = False) -> None:
        super().__init__(model)
        self._at_once = _LOGITS_AT_ONCE
        self.headless = headless
        """The model's body and head may be called one by one, so that logits are computed for learned tokens only."""

    def choose_layout(self) -> Layout:
        return try_layout(without_adapter(self.model))

    def use(self, layout: Layout) -> None:
        self.headless = layout.headless

    def collate(self, examples: Sequence[Example], packed: bool, device: torch.device) -> Batch:
        return collate(examples, packed, device)

    def stand_in(self, tokens: int) -> Example:
        """Half of its tokens are learned."""
        learned = bytes(tokens - tokens // 2) + b"\1" * (tokens // 2)
        return Example(array("i", bytes(4 * tokens)), learned)

    def recompute(self) -> None:
        super().recompute()
        self._at_once = _LOGITS_AT_LEAST

    def forward(self, batch: Batch) -> Loss:
        """The loss of ``batch``. The token at position t is predicted from those before it."""
        if not self.headless:
            logits = self.model(input_ids=batch.ids, use_cache=False, **batch.arguments).logits  # [B, T, V]
            return _told(*self._of_logits(logits[batch.at], batch.targets))
        body, head = body_and_head(without_adapter(self.model))
        hidden = body(input_ids=batch.ids, use_cache=False, **batch.arguments).last_hidden_state[batch.at]  # [N, H]
        step = max(_EVEN, self._at_once // head.weight.shape[0])
        if len(hidden) <= step:
            return _told(*self._of_hidden(head, hidden, batch.targets))
        parts = [
            checkpoint(self._of_hidden, head, some, targets, use_reentrant=False)
            for some, targets in zip(torch.split(hidden, step), torch.split(batch.targets, step), strict=True)
        ]
        losses, rights = zip(*parts, strict=True)
        return _told(torch.stack(losses).sum(), torch.stack(rights).sum())

    def _of_hidden(self, head: nn.Module, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return self._of_logits(head(hidden), targets)

    def _of_logits(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Of logits [N, V] and targets [N]: the sum of the cross entropies, nats, and how many of the targets are the
        likeliest token; that is counted only where no gradients are asked for."""
        logits = logits.float()
        counted = not logits.requires_grad
        right = (logits.argmax(-1) == targets).sum() if counted else torch.zeros((), device=logits.device)
        return self.cross_entropy(logits, targets), right


def _told(loss: Tensor, right: Tensor) -> Loss:
    return Loss(loss, {"right": right})


def perplexity(loss: float) -> float:
    """exp(loss), as far as that can be told."""
    return math.exp(loss) if loss < math.log(sys.float_info.max) else sys.float_info.max


class LanguageModelingRecipe(Recipe):
    """``task: text-generation``, ``objective: sft``."""

    head = LANGUAGE_MODEL
    generates = True

    def objective(self, model: Any) -> LanguageModeling:
        return LanguageModeling(model)

    def metrics(self, totals: Totals) -> dict[str, float]:
        """``eval_loss``: the mean over all learned tokens, nats; each counts the same, whatever record it is in.
        ``token_accuracy``: the share of them that are the model's likeliest."""
        loss = totals.mean(totals.loss)
        accuracy = totals.mean(totals.sums["right"])
        return {"eval_loss": loss, "perplexity": perplexity(loss), "token_accuracy": accuracy}
