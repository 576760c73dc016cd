"""How much goes through the model at a time: by counting, by arithmetic, and on a GPU by trying."""

import gc
import weakref

import pytest
import torch
from torch import nn

from finetune_trainer.training.memory import Fit, _free_on_cpu, bytes_left_behind, choose_fit, try_out

GIB = 2**30


@pytest.mark.parametrize(
    ("case", "fit"),
    [
        ({}, Fit(1024, recompute=False)),  # plenty
        ({"free": GIB // 4}, Fit(173, recompute=False)),  # 0.7 × 256 MiB / 1.03 MiB
        ({"free": GIB // 4, "longest": 180}, Fit(1024, recompute=True)),  # the longest record would not fit
        ({"free": GIB // 4, "longest": 180, "setting": "never"}, Fit(180, recompute=False)),
        ({"setting": "always"}, Fit(1024, recompute=True)),
        ({"free": 0, "longest": 300}, Fit(300, recompute=True)),  # it may work all the same; nothing else is left
        ({"longest": 5000, "free": 64 * GIB}, Fit(5000, recompute=False)),  # a record cannot be cut
    ],
)
def test_the_decision(case, fit):
    given = {"kept": 2**20 + 2**15, "recomputed": 2**16, "free": 8 * GIB, "longest": 100, "most": 1024}
    assert choose_fit(**{**given, "setting": "auto"} | case) == fit


@pytest.mark.parametrize(
    ("fit", "divisor", "longest", "setting", "divided"),
    [
        (Fit(512, recompute=False), 1, 100, "auto", Fit(512, recompute=False)),
        (Fit(512, recompute=False), 2, 100, "auto", Fit(256, recompute=False, divisor=2)),
        (Fit(512, recompute=False), 8, 100, "auto", Fit(100, recompute=True, divisor=8)),  # a record cannot be cut
        (Fit(512, recompute=False), 8, 100, "never", Fit(100, recompute=False, divisor=8)),
        (Fit(256, recompute=True, divisor=2), 4, 100, "auto", Fit(128, recompute=True, divisor=4)),
        (Fit(256, recompute=False, divisor=2), 2, 300, "auto", Fit(256, recompute=False, divisor=2)),
    ],
)
def test_after_memory_ran_out_less_goes_through_at_a_time(fit, divisor, longest, setting, divided):
    assert fit.divided(divisor, longest, setting) == divided


def test_bytes_left_behind_are_those_of_the_activations_and_not_of_the_weights():
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    x = torch.randn(10, 8)
    # The first layer keeps its input, the second the ReLU's output, which the ReLU keeps too.
    assert bytes_left_behind(lambda: model(x), model) == 4 * (10 * 8 + 10 * 32)


def test_what_was_only_counted_is_free_again():
    """Also what a function gave back and kept."""
    made = []

    class Kept(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            out = x.exp()
            made.append(weakref.ref(out.untyped_storage()))
            ctx.save_for_backward(out)
            return out

        @staticmethod
        def backward(ctx, gradient):
            raise AssertionError

    model = nn.Linear(8, 8)
    before = torch.randn(10, 8)
    assert bytes_left_behind(lambda: Kept.apply(model(before)).sum(), model) == 4 * (10 * 8 + 10 * 8)
    gc.collect()
    assert made[0]() is None


def test_a_limit_of_the_container_counts_before_the_machines_memory(tmp_path):
    limit, used, machine = tmp_path / "max", tmp_path / "current", tmp_path / "meminfo"
    machine.write_text("MemTotal: 100 kB\nMemAvailable: 64 kB\n")
    used.write_text("1000\n")
    limit.write_text("max\n")
    assert _free_on_cpu(limit, used, machine) == 64 * 1024
    limit.write_text("5000\n")
    assert _free_on_cpu(limit, used, machine) == 4000
    assert _free_on_cpu(tmp_path / "none", used, machine) == 64 * 1024


@pytest.mark.parametrize(("room", "found"), [(9999, 1000), (600, 500), (300, 250), (1, 90)])
def test_what_runs_out_of_memory_is_tried_with_half(room, found):
    tried = []

    def attempt(tokens):
        tried.append(tokens)
        if tokens > room:
            raise torch.OutOfMemoryError("CUDA out of memory")

    assert try_out(attempt, 1000, 90) == found
    assert tried == sorted(tried, reverse=True)


def test_another_fault_while_trying_is_no_want_of_memory():
    def attempt(tokens):
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        try_out(attempt, 1000, 90)
