"""Linear layers of a frozen base with a LoRA beside them, and the fastest matrix product this processor has.

PEFT computes ``base(x) + lora_B(lora_A(x)) * scaling`` in steps, each of which makes a tensor of the layer's whole
output. Here it is one function with a gradient of its own: the update is added in place, and nothing but the input and
its product with A is kept for the backward pass.
"""

import functools
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_PROCESSORS = Path("/proc/cpuinfo")


@functools.cache
def onednn_is_faster(processors: Path = _PROCESSORS) -> bool:
    """Whether oneDNN multiplies fp32 matrices faster here than MKL, which PyTorch takes for them.

    MKL keeps to AVX2 on processors of AMD, oneDNN does not: 2.1 to 2.4 times as fast where there is AVX-512. By the
    processor's name and not by a measurement, so that equal machines compute the same.
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
    """``x @ W.T + b`` where W and b are never trained."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        out = product(x, weight)
        return out if bias is None else out.add_(bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return product(gradient, weight.t()), None, None


class _LoraLinear(torch.autograd.Function):
    """``x @ W.T + b + scaling * (x @ A.T) @ B.T`` where A [r, I] and B [O, r] are trained.

    With g the gradient of the output: dx = g W + s (g B) A, dA = s (g B)ᵀ x, dB = s gᵀ (x Aᵀ).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float
    ) -> Tensor:
        down = product(x, a)  # [T, r]
        out = product(x, weight)
        out.addmm_(down, b.t(), alpha=scaling)
        if bias is not None:
            out.add_(bias)
        ctx.save_for_backward(x, down, weight, a, b)
        ctx.scaling = scaling
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, down, weight, a, b = ctx.saved_tensors
        up = product(gradient, b.t()).mul_(ctx.scaling)  # [T, r]
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = product(gradient, weight.t())
            grad_x.addmm_(up, a)
        grad_b = (gradient.t() @ down).mul_(ctx.scaling)
        return grad_x, None, None, up.t() @ x, grad_b, None


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _frozen_forward(self: nn.Linear, x: Tensor) -> Tensor:
    dtype = self.weight.dtype
    out: Tensor = _FrozenLinear.apply(_flat(x).to(dtype), self.weight, self.bias)  # type: ignore[no-untyped-call]
    return out.view(*x.shape[:-1], -1)


def _lora_forward(self: Any, x: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
    base, name = self.base_layer, self.active_adapters[0]
    dtype = base.weight.dtype
    a, b = self.lora_A[name].weight.to(dtype), self.lora_B[name].weight.to(dtype)
    out: Tensor = _LoraLinear.apply(  # type: ignore[no-untyped-call]
        _flat(x).to(dtype), base.weight, base.bias, a, b, self.scaling[name]
    )
    return out.view(*x.shape[:-1], -1)


def speed_up(model: nn.Module) -> None:
    """Gives the frozen linear layers of ``model``, with plain LoRA beside them or without, the forward pass of this
    module. Layers of any other kind, and LoRA with dropout, keep the one they have. What is saved does not change."""
    from peft.tuners.lora import Linear as LoraLayer

    inside = set()
    for module in list(model.modules()):
        if type(module) is LoraLayer and _plain(module):
            module.forward = MethodType(_lora_forward, module)  # type: ignore[method-assign]
            inside.add(module.base_layer)
    for module in model.modules():
        if type(module) is nn.Linear and module not in inside and not _trained(module) and onednn_is_faster():
            module.forward = MethodType(_frozen_forward, module)  # type: ignore[method-assign]


def _plain(layer: Any) -> bool:
    """One adapter, on a frozen linear layer, with nothing between input and A."""
    active = layer.active_adapters
    return (
        len(active) == 1
        and type(layer.base_layer) is nn.Linear
        and not _trained(layer.base_layer)
        and not layer.lora_variant
        and isinstance(layer.lora_dropout[active[0]], nn.Identity)
        and layer.lora_A[active[0]].bias is None
        and layer.lora_B[active[0]].bias is None
    )


def _trained(layer: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in layer.parameters(recurse=False))
