"""Answers of a model to a few held-out prompts, for people to read."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, repeat, zip_longest
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from finetune_trainer.preparation.data import DataFile, RecordSet
from finetune_trainer.preparation.encoder import Encoder
from finetune_trainer.preparation.record import Record


@dataclass(frozen=True)
class Prompt:
    """One held-out record, as a question."""

    ids: list[int]
    text: str
    reference: str
    """The answer that the record holds."""
    set: str = ""
    """Name of the set that it is from."""


def prompts(
    records: RecordSet, count: int, encoder: Callable[[DataFile], Encoder], tokenizer: PreTrainedTokenizerBase
) -> list[Prompt]:
    """The prompts of the first ``count`` records, taken from each file in turn; ``encoder`` is that for a file."""
    made = []
    for file, record in islice(_in_turn(records), count):
        ids, reference = encoder(file).prompt(record)
        made.append(Prompt(ids, str(tokenizer.decode(ids)), reference, file.set))
    return made


def _in_turn(records: RecordSet) -> Iterator[tuple[DataFile, Record]]:
    """The first record of each file, the second of each, …"""
    files = [zip(repeat(file), part) for file, part in records.parts]
    return (pair for pairs in zip_longest(*files) for pair in pairs if pair)


@torch.no_grad()
def answers(
    model: Any, given: Sequence[Prompt], max_new_tokens: int, tokenizer: PreTrainedTokenizerBase, device: torch.device
) -> list[str]:
    """What ``model`` says, greedily: the likeliest token each time, so that base and tuned can be compared."""
    model.eval()
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=_ends(model, tokenizer), pad_token_id=0
    )
    said = []
    for prompt in given:
        ids = torch.tensor([prompt.ids], device=device)
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
        said.append(str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)))
    return said


def _ends(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[int] | None:
    """The tokens that end an answer: a chat model has one for the turn and one for the text."""
    own = model.generation_config.eos_token_id if model.generation_config else None
    ends = {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None}
    return sorted(ends) or None
