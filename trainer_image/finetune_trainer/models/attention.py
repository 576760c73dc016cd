"""Attention over packed records: one row of tokens that holds several records, none of which sees another.

A record may come in segments that go on from one and the same beginning, as two answers do from their prompt. That
beginning is then in the row, and is computed, once.

transformers hands the boundaries through to its attention functions by FlashAttention's names (``cu_seq_lens_q`` …).
On a GPU in half precision a kernel takes them as they are; elsewhere each segment is attended to by itself, so that
nothing is computed that a mask would throw away. On a CPU all records of a row are one function with a gradient of its
own, which computes in fp32 whatever the model does and keeps nothing twice.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Self

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
_ON_CPU = (torch.float32, torch.bfloat16, torch.float16)
_aten = torch.ops.aten


class PackingUnsupported(Exception):
    """The architecture needs something of its attention that records in one row cannot be given."""


@dataclass(frozen=True)
class Keys:
    """The keys that each segment of a row attends to, where some segments go on from the beginning of another one."""

    ranges: Sequence[Sequence[tuple[int, int]]]
    """For each segment the columns (from, to) of the row that it sees up to its end, in their order."""
    cuts: Sequence[int]
    """The columns where any range begins or ends, from 0 to the row's end."""
    index: Tensor | None
    """[K] the columns of all ranges, one after the other; only for a GPU."""

    @classmethod
    def of(cls, lengths: Sequence[int], shared: Sequence[int], device: torch.device) -> Self:
        """``shared``: of each segment the tokens that it goes on from, see :func:`boundaries`."""
        starts = list(accumulate(lengths, initial=0))
        ranges, root = [], 0
        for number, before in enumerate(shared):
            own = (starts[number], starts[number + 1])
            root = root if before else own[0]
            ranges.append([(root, root + before), own] if before else [own])
        cuts = sorted({0, *(column for ends in ranges for end in ends for column in end)})
        index = None
        if device.type == "cuda":
            index = torch.cat([torch.arange(*end) for ends in ranges for end in ends]).to(device)
        return cls(ranges, cuts, index)

    def split(self, states: Tensor) -> list[Tensor]:
        """Keys or values [1, heads, T, D] of the row → for each segment what it sees of them."""
        sizes = [end - start for start, end in pairwise(self.cuts)]
        pieces = dict(zip(self.cuts, torch.split(states, sizes, 2), strict=False))

        def between(start: int, end: int) -> list[Tensor]:
            return [pieces[cut] for cut in self.cuts if start <= cut < end]

        parts = ([piece for end in ends for piece in between(*end)] for ends in self.ranges)
        return [torch.cat(part, 2) if len(part) > 1 else part[0] for part in parts]


def boundaries(lengths: Sequence[int], device: torch.device, shared: Sequence[int] = ()) -> dict[str, Any]:
    """The keyword arguments of a forward pass that say where each segment of a row begins and ends.

    Args:
        lengths: tokens of each segment.
        shared: for each segment how many tokens it goes on from: the first ones of the last segment before it that
            goes on from none. Absent: all stand by themselves.
    """
    offsets = _offsets(lengths, device)
    longest = max(lengths)
    found = {"cu_seq_lens_q": offsets, "cu_seq_lens_k": offsets, "max_length_q": longest, "max_length_k": longest}
    if any(shared):
        seen = [own + before for own, before in zip(lengths, shared, strict=True)]
        keys = Keys.of(lengths, shared, device)
        found |= {"cu_seq_lens_k": _offsets(seen, device), "max_length_k": max(seen), "keys": keys}
    return found


def positions(lengths: Sequence[int], shared: Sequence[int]) -> Tensor:
    """[T] the position of each token of a row whose segments are as :func:`boundaries` says."""
    return torch.cat([torch.arange(before, before + own) for own, before in zip(lengths, shared, strict=True)])


def _offsets(lengths: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(device)


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
        return _by_kernel(query, key, value, kwargs, scaling, sliding_window), None
    lengths = offsets.diff().tolist()
    keys: Keys | None = kwargs.get("keys")
    by_record = not keys and not dropout and not (sliding_window and max(lengths) > sliding_window)
    if by_record and _has_function(query, key, value):
        return _ByRecord.apply(query, key, value, lengths, scaling), None  # type: ignore[no-untyped-call]
    seen, told = (keys.split(states) if keys else torch.split(states, lengths, 2) for states in (key, value))
    parts = [
        sdpa_attention_forward(
            module, q, k, v, _band(q, k, sliding_window), dropout=dropout, scaling=scaling, is_causal=True
        )[0]
        for q, k, v in zip(torch.split(query, lengths, 2), seen, told, strict=True)
    ]
    return torch.cat(parts, dim=1), None


def _has_function(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether PyTorch's kernel for a CPU takes these states."""
    widths = {states.shape[-1] for states in (query, key, value)}
    strides = {states.stride(-1) for states in (query, key, value)}
    return query.device.type == "cpu" and query.dtype in _ON_CPU and len(widths) == 1 and strides == {1}


class _ByRecord(torch.autograd.Function):
    """Causal attention of each record to itself, on a CPU: query [1, heads, T, D], key and value [1, key heads, T, D]
    → [1, T, heads, D].

    In fp32, because the kernel leaves the many small products of bf16 to oneDNN, which makes a program for every shape:
    each record has a length of its own (measured: a quarter of a step's time, and 500 MiB for the programs).
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, lengths: list[int], scale: float | None) -> Tensor:
        out = query.new_empty(query.shape[0], query.shape[2], query.shape[1], query.shape[3])
        sums = []  # for each record [1, heads, its tokens]: logarithm of the sum of what its softmax divides by
        for q, k, v, o in _by_length(lengths, query, key, value, out.transpose(1, 2)):
            attended, logsumexp = _aten._scaled_dot_product_flash_attention_for_cpu(
                q.float(), k.float(), v.float(), 0.0, True, scale=scale
            )
            o.copy_(attended)
            sums.append(logsumexp)
        ctx.save_for_backward(query, key, value, out, *sums)
        ctx.lengths, ctx.scale = lengths, scale
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, *sums = ctx.saved_tensors
        found = [torch.empty_like(states.transpose(1, 2)).transpose(1, 2) for states in (query, key, value)]
        parts = _by_length(ctx.lengths, query, key, value, out.transpose(1, 2), gradient.transpose(1, 2), *found)
        for (q, k, v, o, g, *into), logsumexp in zip(parts, sums, strict=True):
            gradients = _aten._scaled_dot_product_flash_attention_for_cpu_backward(
                g.float(), q.float(), k.float(), v.float(), o.float(), logsumexp, 0.0, True, scale=ctx.scale
            )
            for place, states in zip(into, gradients, strict=True):
                place.copy_(states)
        return *found, None, None


def _by_length(lengths: list[int], *states: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """For each record its part of each of ``states`` [1, heads, T, D]; views."""
    return zip(*(torch.split(each, lengths, 2) for each in states), strict=True)


def _by_kernel(
    query: Tensor, key: Tensor, value: Tensor, bounds: dict[str, Any], scale: float | None, window: int | None
) -> Tensor:
    """FlashAttention's kernel for rows of variable length, which PyTorch carries for CUDA.

    Where a segment has more keys than queries, its last query sees its last key, as the kernel aligns them.
    """
    from torch.nn.attention.varlen import varlen_attn

    keys: Keys | None = bounds.get("keys")
    if keys and keys.index is not None:
        key, value = key.index_select(2, keys.index), value.index_select(2, keys.index)
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))  # [T, heads, D]
    seen = window - 1 if window else -1  # transformers counts the token itself
    out: Any = varlen_attn(
        *(q, k, v, bounds["cu_seq_lens_q"], bounds["cu_seq_lens_k"], bounds["max_length_q"], bounds["max_length_k"]),
        scale=scale,
        window_size=(seen, 0),
        enable_gqa=True,
    )
    attended: Tensor = out.unsqueeze(0)
    return attended


def _band(query: Tensor, key: Tensor, window: int | None) -> Tensor | None:
    """[1, 1, Q, K] True where a token of one segment may look; None where it has as many keys as tokens and may look
    at all before it. The last tokens of both are the same one."""
    length, seen = query.shape[2], key.shape[2]
    if length == seen and (not window or seen <= window):
        return None
    columns = torch.arange(seen, device=query.device)
    distance = columns[seen - length :, None] - columns[None, :]
    allowed = distance >= 0
    return (allowed & (distance < window) if window else allowed)[None, None]


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
