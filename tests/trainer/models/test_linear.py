"""Layers with LoRA as one function: the same numbers and gradients as PEFT's own, in every case it takes on."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from finetune_trainer.models import linear
from finetune_trainer.models.linear import onednn_is_faster, speed_up


class Two(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(24, 40, bias=bias), nn.Linear(40, 8, bias=bias)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def adapted(bias=True, targets=("first", "second"), **settings):
    torch.manual_seed(0)
    model = get_peft_model(Two(bias), LoraConfig(target_modules=list(targets), r=4, lora_alpha=12, **settings))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero at the start, which would hide a fault
            nn.init.normal_(parameter)
    return model


def gradients(model, x):
    x = x.clone().requires_grad_()
    out = model(x)
    out.square().sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return out.detach(), x.grad, found


@pytest.fixture(params=[False, True], ids=["MKL", "oneDNN"])
def product(request, monkeypatch):
    monkeypatch.setattr(linear, "onednn_is_faster", lambda: request.param)


@pytest.mark.usefixtures("product")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("targets", [("first", "second"), ("second",)])
def test_outputs_and_gradients_are_those_of_peft(bias, targets):
    model, x = adapted(bias, targets), torch.randn(2, 5, 24)
    expected = gradients(model, x)
    speed_up(model)
    torch.testing.assert_close(gradients(model, x), expected, rtol=1e-4, atol=1e-4)


def test_a_layer_of_which_only_the_adapter_is_asked_for_needs_no_gradient_of_its_input():
    model = adapted()
    speed_up(model)
    model(torch.randn(3, 24)).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    "settings",
    [{"lora_dropout": 0.5}, {"use_dora": True}, {"modules_to_save": ["second"], "targets": ("first",)}],
    ids=["dropout", "DoRA", "a trained layer"],
)
def test_what_is_no_plain_lora_stays_as_it_was(settings):
    model, x = adapted(**settings), torch.randn(4, 24)
    torch.manual_seed(1)
    expected = gradients(model, x)
    speed_up(model)
    torch.manual_seed(1)
    torch.testing.assert_close(gradients(model, x), expected, rtol=1e-4, atol=1e-4)


def test_a_model_in_bf16_with_an_adapter_in_fp32_is_as_near_to_fp32_as_peft_is():
    model = adapted()
    x = torch.randn(64, 24)
    exact = model(x).detach()
    for name, parameter in model.named_parameters():
        if "lora" not in name:
            parameter.data = parameter.data.bfloat16()
    theirs = (model(x.bfloat16()).float() - exact).abs().mean()
    speed_up(model)
    ours = (model(x.bfloat16()).float() - exact).abs().mean()
    assert ours < 2 * theirs


def test_what_is_saved_and_merged_does_not_change(tmp_path):
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    torch.manual_seed(0)
    model = get_peft_model(LlamaForCausalLM(config), LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    speed_up(model)
    assert model.state_dict().keys() == expected.keys()
    ids = torch.arange(8)[None]
    before = model(input_ids=ids).logits
    torch.testing.assert_close(model.merge_and_unload()(input_ids=ids).logits, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("vendor", "faster"), [("AuthenticAMD", True), ("GenuineIntel", False)])
def test_onednn_multiplies_where_mkl_holds_back(tmp_path, monkeypatch, vendor, faster):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    (tmp_path / vendor).write_text(f"processor : 0\nvendor_id : {vendor}\n")
    assert onednn_is_faster(tmp_path / vendor) is faster
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    (tmp_path / "older").write_text(f"vendor_id : {vendor}\n")
    assert onednn_is_faster(tmp_path / "older") is False
