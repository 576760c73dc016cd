"""A base in 4 bits, by bitsandbytes: NF4 with double quantisation. What else is in the model stays as it is."""

import copy
import sys
from typing import Any

import torch
from torch import Tensor, nn

FOLDED_BYTES = 0.8
"""That a weight takes on average: half a byte and its share of a scale, and more for embeddings and the head."""


def quantization(dtype: torch.dtype, whole: list[str] | None) -> Any:
    """transformers' configuration of it.

    Args:
        dtype: of the computation; and what the bits are held as, which must be a number format for FSDP2 to shard them.
        whole: modules that stay as they are, since they are trained themselves; None: what transformers takes for the
            head.
    """
    from transformers import BitsAndBytesConfig

    _let_in()
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=dtype,
        llm_int8_skip_modules=whole,
    )


def _let_in() -> None:
    """Takes back that bitsandbytes is kept from this process, and has PEFT and transformers look for it anew."""
    if sys.modules.get("bitsandbytes", sys) is not None:
        return
    del sys.modules["bitsandbytes"]
    from peft import import_utils as of_peft
    from transformers.utils import import_utils as of_transformers

    for seen in (of_peft.is_bnb_available, of_peft.is_bnb_4bit_available, of_transformers.is_bitsandbytes_available):
        seen.cache_clear()


def is_folded(module: nn.Module) -> bool:
    """Whether it is a linear layer whose weight is held in 4 bits."""
    kind = type(module)
    return kind.__name__ == "Linear4bit" and kind.__module__.startswith("bitsandbytes.")  # PEFT has one of that name


def keep_bits(model: nn.Module) -> None:
    """Forbids bitsandbytes to lay the bits out anew for a processor that it likes, at the first pass without gradients:
    scales are then rounded to bf16, and no gradient comes through any more (seen in 0.50)."""
    for module in model.modules():
        if is_folded(module):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def unfolded_config(config: Any) -> Any:
    """The configuration of the base as its files have it: by the other, transformers takes those to be in 4 bits."""
    plain = copy.deepcopy(config)
    if hasattr(plain, "quantization_config"):
        del plain.quantization_config
    return plain


def computed_in(layer: Any) -> tuple[torch.dtype, Any]:
    """What a linear layer computes in, and what the bits of its weight mean; None where it is held as it is."""
    return (layer.compute_dtype, layer.weight.quant_state) if is_folded(layer) else (layer.weight.dtype, None)


def unfolded(weight: Tensor, state: Any, dtype: torch.dtype) -> Tensor:
    """The weight [O, I] itself."""
    if state is None:
        return weight
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight, state).to(dtype)
