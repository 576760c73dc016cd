"""Spans of characters → which tokens are learned."""

import json
from collections.abc import Iterable
from typing import Any

from tokenizers import Encoding, Tokenizer

from finetune_trainer.wording import Span


def learned_tokens(offsets: Iterable[Span], spans: Iterable[Span], characters: int) -> bytearray:
    """[T] 1 for each token whose last character lies in one of ``spans``. ``characters``: the length of the text.

    So a token that joins the end of a prompt with the start of an answer is learned, and one that joins the end of an
    answer with what follows is not. Tokens that stand for no character (a start token) are not.
    """
    ends_learned = bytearray(characters + 1)
    for start, end in spans:
        ends_learned[start + 1 : end + 1] = b"\1" * (end - start)
    return bytearray(ends_learned[end] if end > begin else 0 for begin, end in offsets)


def learned_between(encoding: Encoding, spans: Iterable[Span], characters: int) -> bytearray:
    """What :func:`learned_tokens` says, for tokenizers that :func:`covers_text`; asks for the ends of the spans alone.

    Offsets of all tokens as Python objects would take longer than everything else that is done to a record.
    """
    mask = bytearray(len(encoding))
    for start, end in spans:
        if start == end:
            continue
        first = encoding.char_to_token(start)
        behind = len(mask) if end == characters else encoding.char_to_token(end)
        if first is None or behind is None:  # characters that the tokenizer leaves out
            return learned_tokens(encoding.offsets, spans, characters)
        mask[first:behind] = b"\1" * (behind - first)
    return mask


_NORMALIZERS = {"NFC", "NFD", "NFKC", "NFKD"}
_PRE_TOKENIZERS = {"ByteLevel", "Split", "Digits", "Punctuation"}


def covers_text(tokenizer: Tokenizer) -> bool:
    """Whether each token is known to stand for one character or more, in the order of the text.

    It is where nothing is put in that the text does not have: no space before the first word (SentencePiece's ``▁``).
    """
    parts = [*_parts(tokenizer.normalizer), *_parts(tokenizer.pre_tokenizer)]
    return all(part["type"] in _NORMALIZERS | _PRE_TOKENIZERS and not part.get("add_prefix_space") for part in parts)


def _parts(component: Any) -> list[dict[str, Any]]:
    """The settings of a normalizer or pre-tokenizer, of each one in a sequence."""
    if component is None:
        return []
    settings = json.loads(component.__getstate__())
    parts: list[dict[str, Any]] = settings.get("normalizers", settings.get("pretokenizers", [settings]))
    return parts
