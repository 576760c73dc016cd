"""The losses of tokens by a head that is not trained: loss and gradient in one go.

Shapes: N learned tokens, H hidden size, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from finetune_trainer.models.linear import product
from finetune_trainer.training.objective import IGNORED


def never_trained(head: nn.Module, hidden: Tensor) -> bool:
    """Whether ``head`` is nothing but a matrix that is not trained."""
    if type(head) is not nn.Linear or head.bias is not None:
        return False
    return not head.weight.requires_grad and head.weight.dtype is hidden.dtype


class HeadLoss(torch.autograd.Function):
    """[N] the negative log likelihood, nats, of targets [N] given hidden states [N, H] and a head [V, H], by chunks of
    ``step`` tokens; 0 where a target is IGNORED.

    A token's loss depends on its own hidden state alone, so the gradient can be made beside the loss, while a chunk's
    logits are there: they are neither kept nor computed again.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, step: int) -> Tensor:
        losses, gradient = [], torch.empty_like(hidden)
        for some, wanted, into in zip(*(torch.split(each, step) for each in (hidden, targets, gradient)), strict=True):
            found = torch.log_softmax(product(some, weight).float(), -1)  # [step, V]
            losses.append(functional.nll_loss(found, wanted, ignore_index=IGNORED, reduction="none"))
            counted = (wanted != IGNORED)[:, None]
            share = found.exp_().scatter_add_(1, wanted.clamp(min=0)[:, None], -torch.ones_like(found[:, :1]))
            into.copy_(product(share.mul_(counted).to(weight.dtype), weight.t()))
        ctx.save_for_backward(gradient)
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, of_losses: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * of_losses[:, None].to(gradient.dtype), None, None, None
