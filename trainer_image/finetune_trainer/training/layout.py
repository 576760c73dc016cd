"""How records lie in a forward pass of this model: found out by trying, because a wrong guess would not be noticed.

Packing keeps records apart only where the whole architecture plays along: attention, positions, and whatever else looks
back. So a few tokens are sent through the model, packed and one by one, before anything depends on it.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from finetune_trainer.models.attention import PACKED, boundaries, positions
from finetune_trainer.models.parts import body_and_head

logger = logging.getLogger(__name__)

_FIRST, _OTHER, _SECOND, _ANSWER = 11, 11, 7, 5
"""Tokens of the records tried, and of a second answer to the beginning of the first of them."""
_SHARED = 6
"""Tokens of that beginning."""
_CLOSE = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest difference that is taken for rounding, as a share of the largest logit."""


@dataclass(frozen=True)
class Layout:
    """What this model allows."""

    packed: bool
    """Several records in one row, with no padding."""
    headless: bool
    """Logits for chosen tokens only, by calling body and head one by one."""


PADDED = Layout(packed=False, headless=False)
"""What every model allows."""


@torch.no_grad()
def try_layout(model: Any, shared: bool = False) -> Layout:
    """Tries ``model``, a causal language model in evaluation mode, and leaves it with the attention to train with.

    Args:
        shared: whether records come in segments that go on from one beginning.
    """
    usual = model.config._attn_implementation
    vocabulary = model.get_input_embeddings().num_embeddings
    sizes = [_FIRST, _OTHER, _SECOND, _ANSWER]
    tokens = torch.randint(0, vocabulary, (sum(sizes),), generator=torch.Generator().manual_seed(0))
    first, other, second, answer = torch.split(tokens.to(model.device), sizes)
    alone = [_alone(model, first), _alone(model, second)]
    headless = _headless(model, first, alone[0])
    answers, before = ([answer], [0, _SHARED, 0]) if shared else ([], [0, 0])
    if shared:
        alone.insert(1, _alone(model, torch.cat([first[:_SHARED], answer]))[_SHARED:])
    try:
        model.set_attn_implementation(PACKED)
        together = _packed(model, [first, *answers, second], before)
        apart = _packed(model, [other, *answers, second], before)
    except Exception as error:  # whatever an architecture makes of arguments that it was not written for
        reason = f"{type(error).__name__}: {error}"
    else:
        if _close(together, torch.cat(alone), model) and torch.equal(together[-_SECOND:], apart[-_SECOND:]):
            return Layout(packed=True, headless=headless)
        reason = "its records would see one another"
    model.set_attn_implementation(usual)
    logger.info("records are padded, because this architecture cannot be packed (%s)", " ".join(reason.split())[:200])
    return Layout(packed=False, headless=headless)


def _alone(model: Any, ids: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=ids[None], use_cache=False).logits
    return logits[0]


def _packed(model: Any, segments: Sequence[Tensor], shared: Sequence[int]) -> Tensor:
    """Logits [T, V] of segments in one row."""
    lengths = [len(segment) for segment in segments]
    logits: Tensor = model(
        input_ids=torch.cat([*segments])[None],
        position_ids=positions(lengths, shared).to(model.device)[None],
        use_cache=False,
        **boundaries(lengths, model.device, shared),
    ).logits
    return logits[0]


def _headless(model: Any, ids: Tensor, expected: Tensor) -> bool:
    """Whether head after body is all there is: some architectures scale or cap their logits afterwards."""
    body, head = body_and_head(model)
    if head is None or body is model:
        return False
    try:
        logits = head(body(input_ids=ids[None], use_cache=False).last_hidden_state)[0]
    except Exception:
        return False
    return logits.shape == expected.shape and _close(logits, expected, model)


def _close(one: Tensor, other: Tensor, model: Any) -> bool:
    scale = other.abs().max()
    return bool((one - other).abs().max() <= _CLOSE.get(model.dtype, 1e-3) * scale)
