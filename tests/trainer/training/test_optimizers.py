"""The optimizers: against closed forms and other libraries' own, with a decay that is decoupled in all of them."""

import math
import sys

import pytest
import torch
from torch import nn

from finetune_api.spec import RestoreBest, Training
from finetune_trainer.training.memory import training_bytes
from finetune_trainer.training.optimizers import make_optimizer, state_bytes, works_on_shares

EVERY = ["adamw", "sgd", "rmsprop", "adafactor", "adamw8bit"]


def settings(optimizer: str, **more) -> Training:
    return Training(optimizer=optimizer, learning_rate=0.1, **more)


def steps(optimizer, parameter, gradients, rate=0.1):
    """The parameter after each step."""
    seen = []
    for gradient in gradients:
        parameter.grad = torch.as_tensor(gradient, dtype=torch.float32).expand_as(parameter).clone()
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        seen.append(parameter.detach().clone())
    return seen


def test_sgd_is_heavy_ball():
    parameter = nn.Parameter(torch.tensor([1.0]))
    found = steps(make_optimizer([parameter], settings("sgd", momentum=0.5)), parameter, [1.0, 2.0, -4.0])
    speed = [1.0, 0.5 * 1 + 2, 0.5 * 2.5 - 4]
    assert [float(value) for value in found] == pytest.approx([1 - 0.1 * sum(speed[: n + 1]) for n in range(3)])


def test_sgds_momentum_is_nine_tenths_unless_it_is_given_and_rmsprop_has_none():
    parameter = nn.Parameter(torch.zeros(1))
    momenta = [
        make_optimizer([parameter], made).param_groups[0]["momentum"]
        for made in (settings("sgd"), settings("sgd", momentum=0.0), settings("rmsprop"))
    ]
    assert momenta == [0.9, 0.0, 0.0]


def test_rmsprop_divides_by_the_root_of_the_mean_square():
    parameter = nn.Parameter(torch.tensor([1.0]))
    found = steps(make_optimizer([parameter], settings("rmsprop")), parameter, [3.0, -2.0])
    first = 0.01 * 9
    second = 0.99 * first + 0.01 * 4
    expected = [1 - 0.1 * 3 / math.sqrt(first), 1 - 0.1 * 3 / math.sqrt(first) + 0.1 * 2 / math.sqrt(second)]
    assert [float(value) for value in found] == pytest.approx(expected, rel=1e-5)


def test_adafactors_first_step_is_that_of_torch_where_the_weights_have_size_one():
    """torch scales steps by the weights' root mean square, which a LoRA that begins with zeros would never survive."""
    torch.manual_seed(0)
    start = torch.randn(6, 8)
    start /= start.square().mean().sqrt()
    gradient = torch.randn(6, 8)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    (found,) = steps(make_optimizer([ours], settings("adafactor")), ours, [gradient])
    (expected,) = steps(torch.optim.Adafactor([theirs], lr=0.1), theirs, [gradient])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    zeros = nn.Parameter(torch.zeros(6, 8))
    (grown,) = steps(make_optimizer([zeros], settings("adafactor")), zeros, [gradient])
    assert grown.abs().mean() > 0.05


def test_eight_bits_are_nearly_those_of_adamw():
    torch.manual_seed(0)
    start, target = torch.randn(64, 128), torch.randn(64, 128)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizers = make_optimizer([ours], settings("adamw8bit")), torch.optim.AdamW([theirs], weight_decay=0)
    for _ in range(30):
        for optimizer, parameter in zip(optimizers, (ours, theirs), strict=True):
            steps(optimizer, parameter, [parameter.detach() - target], rate=0.02)
    assert optimizers[0].state[ours]["state1"].dtype is torch.uint8
    moved = (theirs - start).abs().mean()
    assert (ours - theirs).abs().mean() < 0.06 * moved


@pytest.mark.parametrize("name", EVERY)
def test_decay_shrinks_matrices_by_rate_times_decay_and_nothing_else(name):
    torch.manual_seed(0)
    matrix, vector = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4))
    before = [matrix.detach().clone(), vector.detach().clone()]
    optimizer = make_optimizer([matrix, vector], settings(name, weight_decay=0.5))
    matrix.grad, vector.grad = torch.zeros(4, 4), torch.zeros(4)
    steps(optimizer, matrix, [0.0])
    torch.testing.assert_close(matrix.detach(), before[0] * 0.95)
    assert torch.equal(vector, before[1])


def test_bitsandbytes_is_imported_only_where_it_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as where PEFT was kept from importing it
    for name in EVERY[:-1]:
        make_optimizer([nn.Parameter(torch.zeros(2, 2))], settings(name))
        assert sys.modules["bitsandbytes"] is None


@pytest.mark.parametrize("name", EVERY)
def test_memory_is_counted_as_it_is_taken(name):
    parameter = nn.Parameter(torch.randn(256, 256))
    optimizer = make_optimizer([parameter], settings(name))
    steps(optimizer, parameter, [torch.randn(256, 256)])
    taken = sum(value.nbytes for value in optimizer.state[parameter].values() if isinstance(value, torch.Tensor))
    assert -16 <= state_bytes(settings(name)) * parameter.numel() - taken <= parameter.numel()


def test_what_is_trained_takes_its_gradient_and_its_average_too():
    assert training_bytes(settings("adamw"), on_cpu=True) == 12
    assert training_bytes(settings("sgd", momentum=0, ema_decay=0.9), on_cpu=True) == 8
    assert [training_bytes(settings("adamw", restore_best=RestoreBest()), on_cpu) for on_cpu in (True, False)] == [
        16,
        12,
    ]


def test_what_looks_at_rows_or_blocks_of_a_weight_needs_all_of_it():
    assert [name for name in EVERY if not works_on_shares(settings(name))] == ["adafactor", "adamw8bit"]
