"""Linear layers of a frozen base with a LoRA beside them, and the fastest matrix product this processor has.

PEFT computes ``base(x) + lora_B(lora_A(x)) * scaling`` in steps, each of which makes a tensor of the layer's whole
output. Here it is one function with a gradient of its own: the update is added in place, and nothing but the input and
its product with A is kept for the backward pass. A weight in 4 bits is unfolded for each pass, and dropped again.
"""

import functools
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from finetune_trainer.models.quantized import computed_in, is_folded, unfolded

_PROCESSORS = Path("/proc/cpuinfo")


@functools.cache
def onednn_is_faster(processors: Path = _PROCESSORS) -> bool:
    """Whether oneDNN multiplies fp32 matrices faster here than MKL, which PyTorch takes for them.

    MKL keeps to AVX2 on processors of AMD, oneDNN does not: 2.1 to 2.4 times as fast on one with AVX-512, a tenth
    faster on another that computes it in two halves. By the processor's name and not by a measurement, so that equal
    machines compute the same.
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    try:
        return "AuthenticAMD" in processors.read_text()
    except OSError:
        return False


def product(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight.T``: x [T, I], weight [O, I] → [T, O]. Knows no gradients."""
    if x.dtype is torch.float32 and not x.is_cuda and onednn_is_faster():
        return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")  # type: ignore[no-any-return]
    return functional.linear(x, weight)


class _FrozenLinear(torch.autograd.Function):
    """``x @ W.T + b`` where W and b are never trained. W may be in 4 bits, with a state that tells what they mean."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, state: Any, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.state = state
        out = product(x, unfolded(weight, state, x.dtype))
        return out if bias is None else out.add_(bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (weight,) = ctx.saved_tensors
        return product(gradient, unfolded(weight, ctx.state, gradient.dtype).t()), None, None, None


class _LoraLinear(torch.autograd.Function):
    """``x @ W.T + b + scaling * (x @ A.T) @ B.T`` where A [r, I] and B [O, r] are trained; W and b as above.

    With g the gradient of the output: dx = g W + s (g B) A, dA = s (g B)ᵀ x, dB = s gᵀ (x Aᵀ).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, state: Any, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float
    ) -> Tensor:
        down = product(x, a)  # [T, r]
        out = product(x, unfolded(weight, state, x.dtype))
        out.addmm_(down, b.t(), alpha=scaling)
        if bias is not None:
            out.add_(bias)
        ctx.save_for_backward(x, down, weight, a, b)
        ctx.state, ctx.scaling = state, scaling
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, down, weight, a, b = ctx.saved_tensors
        up = product(gradient, b.t()).mul_(ctx.scaling)  # [T, r]
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = product(gradient, unfolded(weight, ctx.state, gradient.dtype).t())
            grad_x.addmm_(up, a)
        grad_b = product(down.t(), gradient.t()).mul_(ctx.scaling).t()  # transposed, because r rows are soonest made
        return grad_x, None, None, None, product(up.t(), x.t()), grad_b, None


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _frozen_forward(self: Any, x: Tensor) -> Tensor:
    dtype, state = computed_in(self)
    out: Tensor = _FrozenLinear.apply(_flat(x).to(dtype), self.weight, state, self.bias)  # type: ignore[no-untyped-call]
    return out.view(*x.shape[:-1], -1)


def _lora_forward(self: Any, x: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
    base = self.base_layer
    if self.disable_adapters:
        return base(x)  # type: ignore[no-any-return]
    dtype, state = computed_in(base)
    name, *others = self.active_adapters
    a, b, scaling = self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name]
    if others:  # side by side they are one of a higher rank
        a = torch.cat([a, *(self.lora_A[other].weight for other in others)])
        b = torch.cat([b, *(self.lora_B[other].weight * (self.scaling[other] / scaling) for other in others)], dim=1)
    out: Tensor = _LoraLinear.apply(  # type: ignore[no-untyped-call]
        _flat(x).to(dtype), base.weight, state, base.bias, a.to(dtype), b.to(dtype), scaling
    )
    return out.view(*x.shape[:-1], -1)


def speed_up(model: nn.Module) -> None:
    """Gives the frozen linear layers of ``model``, with plain LoRA beside them or without, the forward pass of this
    module. Layers of any other kind, and LoRA with dropout, keep the one they have. What is saved does not change."""
    from peft.tuners.lora import LoraLayer

    inside = set()
    for module in list(model.modules()):
        if isinstance(module, LoraLayer) and _plain(module):
            module.forward = MethodType(_lora_forward, module)
            inside.add(module.base_layer)
    for module in model.modules():
        if module not in inside and _frozen(module) and (is_folded(module) or onednn_is_faster()):
            module.forward = MethodType(_frozen_forward, module)


def _plain(layer: Any) -> bool:
    """Adapters on a frozen linear layer, with nothing between input and A."""
    active = layer.active_adapters
    return (
        _frozen(layer.base_layer)
        and not layer.lora_variant
        and all(isinstance(layer.lora_dropout[name], nn.Identity) for name in active)
        and all(part[name].bias is None for part in (layer.lora_A, layer.lora_B) for name in active)
    )


def _frozen(layer: nn.Module) -> bool:
    linear = type(layer) is nn.Linear or is_folded(layer)
    return linear and not any(parameter.requires_grad for parameter in layer.parameters(recurse=False))
