"""Batches of tensors, and the loss on their learned tokens. Shapes: B records, T tokens (padded), V vocabulary."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from finetune_trainer.encoding import Example

IGNORED = -100
"""Label of a token that does not count, by cross_entropy's convention."""


@dataclass(frozen=True)
class Batch:
    """Records padded on the right to the longest of them."""

    ids: Tensor
    """[B, T] int64."""
    mask: Tensor
    """[B, T] int64, 1 where there is a token."""
    labels: Tensor
    """[B, T] int64, the token's id where it is learned, else IGNORED."""


@dataclass(frozen=True)
class TokenLoss:
    """What a model makes of a batch's learned tokens."""

    loss: Tensor
    """Sum of the negative log likelihoods, nats; a scalar in fp32 that carries gradients."""
    right: Tensor
    """How many of them are the likeliest by the model; a scalar."""


def collate(examples: Sequence[Example], device: torch.device) -> Batch:
    """Examples as one batch on ``device``."""
    longest = max(len(example.ids) for example in examples)
    ids = torch.zeros(len(examples), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORED)
    for row, example in enumerate(examples):
        length = len(example.ids)
        ids[row, :length] = torch.frombuffer(example.ids, dtype=torch.int32)
        mask[row, :length] = 1
        learned = torch.frombuffer(bytearray(example.learned), dtype=torch.bool)
        labels[row, :length][learned] = ids[row, :length][learned]
    return Batch(ids.to(device), mask.to(device), labels.to(device))


def token_loss(model: Any, batch: Batch) -> TokenLoss:
    """Runs the model. The token at position t is predicted from those before it, so labels are shifted by one."""
    logits = model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits  # [B, T, V]
    targets = batch.labels[:, 1:]  # [B, T-1]
    learned = targets != IGNORED
    chosen = logits[:, :-1][learned].float()  # [N, V], N learned tokens
    expected = targets[learned]  # [N]
    return TokenLoss(
        loss=functional.cross_entropy(chosen, expected, reduction="sum"),
        right=(chosen.argmax(-1) == expected).sum(),
    )
