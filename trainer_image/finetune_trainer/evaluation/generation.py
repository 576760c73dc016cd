"""Answers of a model to held-out prompts, for people to read and for metrics to count.

A model answers greedily, the likeliest token each time, so that base and tuned can be compared; all else is as the
model's own generation settings say. Prompts of about one length are answered together, padded: on the left where the
answer goes on from the prompt, on the right where an encoder reads it.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, repeat, zip_longest
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase

from finetune_trainer.evaluation import textmetrics
from finetune_trainer.models.parts import without_adapter
from finetune_trainer.preparation.data import DataFile, RecordSet
from finetune_trainer.preparation.encoder import Encoder
from finetune_trainer.preparation.record import Record

logger = logging.getLogger(__name__)

_TOGETHER = 32
_CLOSE = 5e-2
"""Largest difference that is taken for rounding, as a share of the largest logit: other neighbours are a difference of
about 1, and bf16 rounds to 1/256."""


@dataclass(frozen=True)
class Prompt:
    """One held-out record, as a question."""

    ids: list[int]
    text: str
    reference: str
    """The answer that the record holds."""
    set: str = ""
    """Name of the set that it is from."""
    answered: bool = True
    """The answer is one to the prompt, and not merely how a text goes on."""


def prompts(
    records: RecordSet, count: int, encoder: Callable[[DataFile], Encoder], tokenizer: PreTrainedTokenizerBase
) -> list[Prompt]:
    """The prompts of the first ``count`` records, taken from each file in turn; ``encoder`` is that for a file."""
    made = []
    for file, record in islice(_in_turn(records), count):
        ids, reference = encoder(file).prompt(record)
        text = str(tokenizer.decode(ids, skip_special_tokens=encoder(file).two_sided))
        made.append(Prompt(ids, text, reference, file.set, not (isinstance(record, Record) and record.text)))
    return made


def _in_turn(records: RecordSet) -> Iterator[tuple[DataFile, Any]]:
    """The first record of each file, the second of each, …"""
    files = [zip(repeat(file), part) for file, part in records.parts]
    return (pair for pairs in zip_longest(*files) for pair in pairs if pair)


def measure(names: Sequence[str], asked: Sequence[Prompt], said: Sequence[str]) -> dict[str, float]:
    """The metrics of these ``names`` of the answers to all prompts, and where these are of several sets, of those of
    each set as ``<set>/<name>``. ``said`` begins with the answers to ``asked``."""
    pairs = list(zip(asked, said, strict=False))
    sets = {prompt.set: [pair for pair in pairs if pair[0].set == prompt.set] for prompt in asked}
    scores = {
        name: textmetrics.score(names, [answer for _, answer in some], [prompt.reference for prompt, _ in some])
        for name, some in [("", pairs), *(sets.items() if len(sets) > 1 else ())]
    }
    return {f"{set_}/{name}" if set_ else name: of[name] for name in names for set_, of in scores.items()}


def work(given: Sequence[Prompt], max_new_tokens: int) -> int:
    """Tokens that go through the model at most for all answers."""
    return sum(len(prompt.ids) + max_new_tokens for prompt in given)


@torch.no_grad()
def answers(
    model: Any,
    given: Sequence[Prompt],
    max_new_tokens: int,
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
    tokens: int,
    on_batch: Callable[[int], None] = lambda _: None,
) -> list[str]:
    """What ``model`` says to each prompt.

    Args:
        max_new_tokens: of an answer.
        tokens: that the model may hold at a time, padding counted.
        on_batch: is told the :func:`work` of each batch.
    """
    model.eval()
    ends = ends_of(model, tokenizer)
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False, num_beams=1, max_new_tokens=max_new_tokens, eos_token_id=ends or None, pad_token_id=0
    )
    reads = bool(model.config.is_encoder_decoder)
    together = _TOGETHER if reads or _may_be_padded(model, given, device) else 1
    said = [""] * len(given)
    for part in _parts(given, max_new_tokens, tokens, together):
        ids, mask = _padded([given[index].ids for index in part], not reads, device)
        out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        begin = 1 if reads else ids.shape[1]
        for index, row in zip(part, out[:, begin:].tolist(), strict=True):
            said[index] = str(tokenizer.decode(_until(row, ends), skip_special_tokens=True))
        on_batch(work([given[index] for index in part], max_new_tokens))
    return said


def _parts(given: Sequence[Prompt], max_new_tokens: int, tokens: int, together: int) -> list[list[int]]:
    """Prompts by their numbers, longest first, as many at a time as may be."""
    parts: list[list[int]] = []
    for index in sorted(range(len(given)), key=lambda index: -len(given[index].ids)):
        if parts and (count := len(parts[-1])) < together:
            longest = len(given[parts[-1][0]].ids) + max_new_tokens
            if (count + 1) * longest <= tokens:
                parts[-1].append(index)
                continue
        parts.append([index])
    return parts


def _padded(rows: Sequence[Sequence[int]], left: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids [B, T], and a mask [B, T] that is 1 where there is one."""
    width = max(map(len, rows))
    both = []
    for filled in ([list(row) for row in rows], [[1] * len(row) for row in rows]):
        padded = [[0] * (width - len(row)) + row if left else row + [0] * (width - len(row)) for row in filled]
        both.append(torch.tensor(padded, device=device))
    return both[0], both[1]


def _may_be_padded(model: Any, given: Sequence[Prompt], device: torch.device) -> bool:
    """Whether padding on the left changes nothing for this architecture. That is tried, since nobody would notice."""
    lengths = sorted({len(prompt.ids) for prompt in given})
    if len(lengths) < 2:
        return True
    short = min((prompt.ids for prompt in given), key=len)[-16:]
    filler = [short[0]] * (len(short) + 5)
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False, num_beams=1, max_new_tokens=2, min_new_tokens=2, pad_token_id=0, output_logits=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    logits = []
    for rows in ([short], [short, filler]):
        ids, mask = _padded(rows, True, device)
        out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        logits.append(torch.stack([step[0].float() for step in out.logits]))  # [2, V]
    alone, padded = logits
    close = ((alone - padded).abs().amax(-1) <= _CLOSE * alone.abs().amax(-1)).tolist()
    same = close[0] and (close[1] or bool(alone[0].argmax() != padded[0].argmax()))
    if not same:
        logger.info("prompts are answered one by one: %s cannot be padded", type(without_adapter(model)).__name__)
    return same


def _until(ids: list[int], ends: Sequence[int]) -> list[int]:
    """What stands before the first of ``ends``."""
    return ids[: next((at for at, token in enumerate(ids) if token in ends), len(ids))]


def ends_of(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end an answer: a chat model has one for the turn and one for the text."""
    own = model.generation_config.eos_token_id if model.generation_config else None
    return sorted({tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None})
