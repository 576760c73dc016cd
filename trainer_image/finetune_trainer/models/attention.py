"""Attention over packed records: one row of tokens that holds several records, none of which sees another.

transformers hands the boundaries through to its attention functions by FlashAttention's names (``cu_seq_lens_q`` …).
On a GPU in half precision a kernel takes them as they are; elsewhere each record is attended to by itself, so that
nothing is computed that a mask would throw away.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface

PACKED = "finetune_packed"
"""Name under which transformers finds this attention."""
_KERNEL_TYPES = (torch.float16, torch.bfloat16)
_KERNEL_HEAD = 256
"""Largest head that the kernel takes."""


class PackingUnsupported(Exception):
    """The architecture needs something of its attention that records in one row cannot be given."""


def boundaries(lengths: list[int], device: torch.device) -> dict[str, Any]:
    """The keyword arguments of a forward pass that say where each record of a row begins and ends."""
    offsets = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(device)
    longest = max(lengths)
    return {
        "cu_seq_lens_q": offsets,
        "cu_seq_lens_k": offsets,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function: query [1, heads, T, D], key and value [1, key heads, T, D] → [1, T, heads, D].

    Raises:
        PackingUnsupported: for what only another attention can do (soft caps, sinks, biases), or without boundaries.
    """
    foreign = [name for name in ("softcap", "s_aux", "position_bias") if kwargs.get(name) is not None]
    offsets = kwargs.get("cu_seq_lens_q")
    if foreign or offsets is None or attention_mask is not None or query.shape[0] != 1:
        raise PackingUnsupported(", ".join(foreign) or "the boundaries of the records do not reach its attention")
    if query.is_cuda and query.dtype in _KERNEL_TYPES and query.shape[-1] <= _KERNEL_HEAD and not dropout:
        return _by_kernel(query, key, value, offsets, kwargs["max_length_q"], scaling, sliding_window), None
    lengths = offsets.diff().tolist()
    parts = [
        sdpa_attention_forward(
            module, q, k, v, _band(q, sliding_window), dropout=dropout, scaling=scaling, is_causal=True
        )[0]
        for q, k, v in zip(*(torch.split(states, lengths, 2) for states in (query, key, value)), strict=True)
    ]
    return torch.cat(parts, dim=1), None


def _by_kernel(
    query: Tensor, key: Tensor, value: Tensor, offsets: Tensor, longest: int, scale: float | None, window: int | None
) -> Tensor:
    """FlashAttention's kernel for rows of variable length, which PyTorch carries for CUDA."""
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))  # [T, heads, D]
    seen = window - 1 if window else -1  # transformers counts the token itself
    out: Any = varlen_attn(
        q, k, v, offsets, offsets, longest, longest, scale=scale, window_size=(seen, 0), enable_gqa=True
    )
    attended: Tensor = out.unsqueeze(0)
    return attended


def _band(query: Tensor, window: int | None) -> Tensor | None:
    """[1, 1, T, T] True where a token of one record may look; None where it may look at all before it."""
    length = query.shape[2]
    if not window or length <= window:
        return None
    distance = torch.arange(length, device=query.device)
    distance = distance[:, None] - distance[None, :]
    return ((distance >= 0) & (distance < window))[None, None]


@contextmanager
def one_by_one(model: Any) -> Iterator[None]:
    """For text that ``model`` generates token by token: with the attention that it came with."""
    trained_with = model.config._attn_implementation
    if trained_with == PACKED:
        model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        if trained_with == PACKED:
            model.set_attn_implementation(PACKED)


AttentionInterface.register(PACKED, attend)
AttentionMaskInterface.register(PACKED, lambda *_args, **_kwargs: None)
