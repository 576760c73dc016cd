"""Spans of characters → which tokens are learned."""

from collections.abc import Iterable, Sequence

from tokenizers import Encoding

from finetune_trainer.preparation.wording import Span


def learned_tokens(encoding: Encoding, spans: Sequence[Span], characters: int) -> bytearray:
    """[T] 1 for each token whose last character lies in one of ``spans``. ``characters``: the length of the text.

    So a token that joins the end of a prompt with the start of an answer is learned, and one that joins the end of an
    answer with what follows is not.

    Tokens come in the order of the text, so those of a span are in a row. The tokenizer is asked for its ends alone:
    the offsets of all tokens, as Python objects, would take longer than all else that is done to a record.
    """
    learned = bytearray(len(encoding))
    for start, end in spans:
        if start == end:
            continue
        first = encoding.char_to_token(start)
        behind = len(learned) if end == characters else encoding.char_to_token(end)
        if first is None or behind is None:  # characters that the tokenizer leaves out
            return by_offsets(encoding.offsets, spans, characters)
        learned[first:behind] = b"\1" * (behind - first)
    return learned


def by_offsets(offsets: Iterable[Span], spans: Iterable[Span], characters: int) -> bytearray:
    """The same, from the characters (from, to) of each token. Tokens that stand for no character are not learned."""
    ends = bytearray(characters + 1)
    for start, end in spans:
        ends[start + 1 : end + 1] = b"\1" * (end - start)
    return bytearray(ends[end] if end > begin else 0 for begin, end in offsets)
