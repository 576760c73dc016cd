"""Loss and gradient in one go, against torch's own."""

import pytest
import torch

from finetune_trainer.recipes.headloss import HeadLoss
from finetune_trainer.training.objective import IGNORED


@pytest.mark.parametrize("step", [2, 3, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_head_that_is_not_trained_gives_losses_and_gradients_in_one_go(dtype, step):
    torch.manual_seed(0)
    hidden, weight = torch.randn(7, 16).to(dtype).requires_grad_(), torch.randn(50, 16).to(dtype)
    targets = torch.tensor([3, 49, 0, 7, 7, IGNORED, IGNORED])
    shares = torch.tensor([1.0, 0.5, -2.0, 0.0, 3.0, 1.0, 1.0])  # what a later loss makes of each token's
    logits = torch.nn.functional.linear(hidden.float(), weight.float())
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    found = HeadLoss.apply(hidden, weight, targets, step)
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    [right] = torch.autograd.grad(expected @ shares, hidden)
    [gradient] = torch.autograd.grad(found @ shares, hidden)
    assert gradient.dtype is dtype
    assert (gradient - right).norm() <= tolerance * right.norm()
    assert not gradient[5:].any()
