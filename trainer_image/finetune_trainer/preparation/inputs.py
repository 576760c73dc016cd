"""Texts as a model takes them that judges them: with the tokenizer's own special tokens, and cut to a length."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice, pairwise
from typing import Any, TypeVar

from tokenizers import Encoding
from transformers import PreTrainedTokenizerBase

from finetune_api.run import ExitCode
from finetune_trainer.errors import TrainerError
from finetune_trainer.preparation.pieces import PIECE

T = TypeVar("T")

_RECORDS_TOGETHER = 512
_REACH = 16
"""Characters of a text that are tokenized for each token that is kept, but PIECE at least."""


class Inputs:
    """A tokenizer and a length. A second text goes behind the first one as the tokenizer puts it there."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        self._backend: Any = tokenizer.backend_tokenizer
        self._types = "token_type_ids" in tokenizer.model_input_names
        self.max_length = max_length
        self._reach = max(PIECE, _REACH * max_length)

    def texts(
        self, records: Iterable[T], texts: Sequence[str] = ("text", "pair")
    ) -> Iterator[tuple[T, Encoding, bool]]:
        """Each record with the tokens of its ``texts``, the names of two attributes of which the second may be empty,
        and whether it was cut. Of two texts that are too long together, the longer one is cut at its end, until both
        are as long."""

        def given(record: T) -> Any:
            first, second = (getattr(record, name)[: self._reach] for name in texts)
            return (first, second) if second else first

        with self._cut_to(strategy="longest_first"):
            for record, encoding in self._encoded(records, given):
                goes_on = any(len(getattr(record, name)) > self._reach for name in texts)
                yield record, encoding, bool(encoding.overflowing) or goes_on

    def words(self, records: Iterable[Any]) -> Iterator[tuple[Any, Encoding, bool]]:
        """Each record with the tokens of its ``words``, cut at the end, and whether it was."""

        def words(record: Any) -> list[str]:
            return list(record.words[: self._reach])

        with self._cut_to():
            for record, encoding in self._encoded(records, words, is_pretokenized=True):
                yield record, encoding, bool(encoding.overflowing) or len(record.words) > self._reach

    def windows(self, records: Iterable[T], overlap: int) -> Iterator[tuple[T, list[Encoding]]]:
        """Each record with the tokens of its ``question`` and as much of its ``context`` as has room, as often as it
        takes until all of that was there; two such windows have ``overlap`` tokens of it in common. A question that
        takes more than half of the room is cut."""
        with self._cut_to(strategy="only_second", stride=overlap):
            yield from (
                (record, [encoding, *encoding.overflowing])
                for record, encoding in self._encoded(records, lambda each: (self._question(each), each.context))
            )

    def _question(self, record: Any) -> str:
        text: str = record.question[: self._reach]
        if len(text) <= self.max_length // 2:  # no token has fewer than one character
            return text
        tokens = self._backend.encode("", text, add_special_tokens=False)
        ends = [end for _, end in ([*tokens.offsets, *(o for more in tokens.overflowing for o in more.offsets)])]
        return text[: ends[self.max_length // 2 - 1]] if len(ends) > self.max_length // 2 else text

    def _encoded(self, records: Iterable[T], given: Any, **how: Any) -> Iterator[tuple[T, Any]]:
        records = iter(records)
        while some := list(islice(records, _RECORDS_TOGETHER)):
            yield from zip(some, self._backend.encode_batch([given(record) for record in some], **how), strict=True)

    @contextmanager
    def _cut_to(self, **how: Any) -> Iterator[None]:
        self._backend.enable_truncation(self.max_length, **how)
        try:
            yield
        finally:
            self._backend.no_truncation()

    def parts(self, encoding: Encoding) -> "array[int]":
        """How many tokens are of the first type, of the second …, after the number of types."""
        types = encoding.type_ids if self._types else [0] * len(encoding)
        if any(one > other for one, other in pairwise(types)):
            raise TrainerError(
                ExitCode.MODEL_INVALID,
                "The model's tokenizer gives types to the tokens of a text (token_type_ids) that do not follow one "
                "another, which cannot be trained yet. Choose another model.",
            )
        counts = [types.count(type_) for type_ in range(1 + max(types, default=0))]
        return array("i", [len(counts), *counts])
