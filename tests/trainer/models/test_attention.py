"""Attention by record on a CPU: the same numbers and gradients as PyTorch's own, for each record by itself."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from finetune_trainer.models.attention import attend, boundaries

LENGTHS = [40, 7, 1, 13]


def states(key_heads=4, dtype=torch.float32):
    """query, key and value [1, heads, T, 8], laid out as a model makes them; they want gradients."""
    torch.manual_seed(0)
    made = (torch.randn(1, sum(LENGTHS), heads, 8).to(dtype) for heads in (4, key_heads, key_heads))
    return [each.transpose(1, 2).detach().requires_grad_() for each in made]


def by_pytorch(*of, scale=None):
    """Each record by itself → [1, T, heads, D]."""
    parts = zip(*(torch.split(each, LENGTHS, 2) for each in of), strict=True)
    attended = [scaled_dot_product_attention(*part, is_causal=True, scale=scale, enable_gqa=True) for part in parts]
    return torch.cat(attended, 2).transpose(1, 2)


def by_record(*of, scaling=None, window=None):
    row = boundaries(LENGTHS, torch.device("cpu"))
    return attend(torch.nn.Module(), *of, None, scaling=scaling, sliding_window=window, **row)[0]


def gradients(out, of):
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    return torch.autograd.grad((out * weights).sum(), of)


@pytest.mark.parametrize("scale", [None, 0.2])
@pytest.mark.parametrize("key_heads", [4, 2, 1])
def test_outputs_and_gradients_are_those_of_pytorch(key_heads, scale):
    of = states(key_heads)
    expected, out = by_pytorch(*of, scale=scale), by_record(*of, scaling=scale)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(gradients(out, of), gradients(expected, of))


def test_in_bf16_only_what_comes_out_is_rounded():
    of = states(2, torch.bfloat16)
    exact = [each.detach().float().requires_grad_() for each in of]
    expected, out = by_pytorch(*exact), by_record(*of)
    assert out.dtype is torch.bfloat16
    torch.testing.assert_close(out, expected.bfloat16(), rtol=2**-7, atol=1e-6)
    for found, right in zip(gradients(out, of), gradients(expected, exact), strict=True):
        assert found.dtype is torch.bfloat16
        assert (found.float() - right).norm() < 0.01 * right.norm()


def test_nothing_is_kept_for_the_backward_pass_in_another_type_than_the_models():
    kept = []
    of = states(2, torch.bfloat16)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        by_record(*of)
    sizes = sum(each.untyped_storage().nbytes() for each in kept if each.dtype is torch.bfloat16)
    assert sizes == 2 * sum(LENGTHS) * 8 * (4 + 2 + 2 + 4)  # query, key, value and what came out
    assert all(each.numel() <= 4 * max(LENGTHS) for each in kept if each.dtype is torch.float32)


def test_a_window_that_is_shorter_than_a_record_is_kept_to():
    of = states()
    assert torch.equal(by_record(*of, window=max(LENGTHS)), by_record(*of))
    near = by_record(*of, window=5)
    assert torch.allclose(near[:, :5], by_record(*of)[:, :5], atol=1e-6)
    assert not torch.allclose(near[:, 5:], by_record(*of)[:, 5:], atol=1e-3)
