"""Sources and targets → token ids: two rows for each record, since one part of a model reads and another writes.

The tokens that a tokenizer puts around a text are put around each of the two; some put others around a target. A source
longer than maxLength loses its end but keeps those, as when it is given to the model later. A target longer than that
loses them too: a model shall not learn to end where a text was cut.
"""

from array import array
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import cast

from transformers import PreTrainedTokenizerBase

from finetune_api.run import ExitCode
from finetune_trainer.errors import TrainerError
from finetune_trainer.preparation.encoder import Encoder, Rendered, around
from finetune_trainer.preparation.encoding import Example
from finetune_trainer.preparation.given import Given
from finetune_trainer.preparation.record import Record


class SidesEncoder(Encoder):
    """Turns prompts into sources and completions into targets, of at most ``max_length`` tokens each."""

    two_sided = True

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int, given: Given | None = None) -> None:
        super().__init__(tokenizer, max_length, given)
        encoding = tokenizer(text_target="a", return_special_tokens_mask=True)
        before, behind = around(encoding["input_ids"], encoding["special_tokens_mask"])
        end = tokenizer.eos_token_id
        if end is not None and behind[-1:] != array("i", [end]):
            behind.append(end)
        self._around_target = before, behind

    def examples(self, records: Iterable[Record]) -> Iterator[list[Example]]:
        """One example a record: the source, of which nothing is learned, and the target, which is learned whole."""
        tokens = self._tokens(chain.from_iterable(map(self._sides, records)))
        before, behind = self._around_target
        for (one, source, _), (other, target, _) in zip(tokens, tokens, strict=True):
            read, whole = self._source(source), before + target + behind
            written = whole[: self._max_length]
            cut = len(source) > self._room or len(whole) > self._max_length
            cut = cut or self._goes_on(one) or self._goes_on(other)
            yield [Example(read + written, bytes(len(read)) + b"\1" * len(written), cut=cut)]

    def prompt(self, record: Record) -> tuple[list[int], str]:
        """For a sample: the source, cut as in training, and the target's text."""
        source, target = self._sides(record)
        [(_, ids, _)] = self._tokens([source])
        return list(self._source(ids)), target.text

    @property
    def _room(self) -> int:
        """Tokens that a source may have of its own."""
        before, behind = self._special
        return self._max_length - len(before) - len(behind)

    def _source(self, ids: "array[int]") -> "array[int]":
        before, behind = self._special
        whole = before + ids[: self._room] + behind
        return whole or array("i", [self._tokenizer.eos_token_id or 0])  # a model must be given something

    def _sides(self, record: Record) -> tuple[Rendered, Rendered]:
        """Source and target.

        Raises:
            TrainerError: DATA_INVALID, for a conversation; CONFIGURATION_INVALID, for a template that marks no target.
        """
        if record.messages:
            raise TrainerError(
                ExitCode.DATA_INVALID,
                f"{record.source}: prompt and completion are lists of messages, where text2text-generation expects two "
                "strings. Write them as strings, or train a chat model with spec.task text-generation.",
            )
        if record.fields is None:
            self._require_no_template(record)
        source, target = self._of_fields(record) if record.fields is not None else (record.prompt, record.completion)
        return Rendered(record.source, source, [], "side"), Rendered(record.source, target, [], "side")

    def _of_fields(self, record: Record) -> tuple[str, str]:
        text, spans = self._fields.render(record)
        if len(spans) > 1 or spans[-1][1] < len(text):
            raise cast(Given, self._given).origin.refused(
                "must mark one part as learned, and that at its end: for text2text-generation it is the target, and "
                "what stands before it the source"
            )
        return text[: spans[0][0]], text[spans[0][0] :]
