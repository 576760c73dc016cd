"""Records → token ids, and which of them are learned. The mask is made of characters, so that no boundary is guessed.

* Conversations: every assistant turn is learned, by the chat template (see :mod:`finetune_trainer.chat`).
* Prompt and completion as strings: joined as they are, with no chat template even where the model has one; the
  completion is learned, and the end-of-text token after it. A space between the two belongs at the beginning of the
  completion, because tokenizers join it with the word that follows. As lists of messages: a conversation of which
  only the completion's assistant turns are learned.
* Text: everything is learned, with an end-of-text token after each document. A document longer than maxLength is cut
  into blocks, none is lost; a record of another kind is cut at its end.
"""

import functools
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from transformers import PreTrainedTokenizerBase

from finetune_api.run import ExitCode
from finetune_trainer.chat import ChatTemplate, Span
from finetune_trainer.errors import TrainerError
from finetune_trainer.records import Record

_TOGETHER = 1000
"""Records tokenized in one call: the tokenizer then uses all cores."""


@dataclass(frozen=True)
class Example:
    """One training sequence of T tokens."""

    ids: "array[int]"
    """[T] token ids."""
    learned: bytes
    """[T] 1 where the token's prediction counts in the loss; 0 at position 0, which nothing predicts."""

    @property
    def labels(self) -> int:
        """Tokens that count."""
        return sum(self.learned)


@dataclass(frozen=True)
class Encoded:
    """A sequence of examples, and the number of records that were left out since nothing to learn was left of them."""

    examples: tuple[Example, ...]
    dropped: int

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]

    @functools.cached_property
    def lengths(self) -> "array[int]":
        """Tokens of each example."""
        return array("i", (len(example.ids) for example in self.examples))

    @functools.cached_property
    def labels(self) -> "array[int]":
        """Learned tokens of each example."""
        return array("i", (example.labels for example in self.examples))

    @property
    def tokens(self) -> int:
        """Tokens in all, not counting padding."""
        return sum(self.lengths)


@dataclass(frozen=True)
class _Rendered:
    """A record as text."""

    text: str
    spans: tuple[Span, ...]
    templated: bool
    """A chat template has already put in the special tokens."""
    whole: bool
    """Cut into blocks instead of being cut off."""


class Encoder:
    """Turns records into examples of at most ``max_length`` tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        if not tokenizer.is_fast:
            raise TrainerError(
                ExitCode.MODEL_INVALID,
                f"The model's tokenizer ({type(tokenizer).__name__}) cannot tell which characters a token stands for. "
                "Add a tokenizer.json to the model's directory (AutoTokenizer.save_pretrained writes it).",
            )
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._template: ChatTemplate | None = None

    def encode(self, records: Sequence[Record], what: str) -> Encoded:
        """All records; ``what`` names the set in errors.

        Raises:
            TrainerError: DATA_INVALID, if no record has anything left to learn.
        """
        examples: list[Example] = []
        dropped = 0
        rendered = (self._render(record) for record in records)
        while batch := list(islice(rendered, _TOGETHER)):
            for blocks in self._tokenize(batch):
                examples += blocks
                dropped += not blocks
        if not examples:
            raise TrainerError(
                ExitCode.DATA_INVALID,
                f"None of the {len(records)} {what} records has anything to learn within its first {self._max_length} "
                "tokens. Raise spec.training.maxLength or shorten the prompts.",
            )
        return Encoded(tuple(examples), dropped)

    @property
    def template(self) -> ChatTemplate:
        """The chat template; asked for only where there are conversations, because base models have none."""
        self._template = self._template or ChatTemplate(self._tokenizer)
        return self._template

    def prompt(self, record: Record) -> tuple[list[int], str]:
        """For a sample: the ids of what is given to the model, and the text that the record has as its answer."""
        if record.messages:
            turn = max(i for i, message in enumerate(record.messages) if message["role"] == "assistant")
            text = self.template.prompt(record.messages[:turn], record.tools)
            return self._ids(text, templated=True), record.messages[turn]["content"]
        if record.completion:
            return self._ids(record.prompt, templated=False), record.completion
        ids = self._ids(record.text, templated=False)
        given = ids[: max(1, min(32, len(ids) // 2))]
        return given, str(self._tokenizer.decode(ids[len(given) :]))

    def _ids(self, text: str, templated: bool) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=not templated)["input_ids"]
        special = (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id, 0)
        return ids or [next(token for token in special if token is not None)]  # a model must be given something

    def _render(self, record: Record) -> _Rendered:
        if record.messages:
            text, spans = self.template.conversation(record)
            return _Rendered(text, tuple(spans), templated=True, whole=False)
        text = record.text or record.prompt + record.completion
        return _Rendered(text, ((len(record.prompt), len(text)),), templated=False, whole=bool(record.text))

    def _tokenize(self, batch: list[_Rendered]) -> Iterator[list[Example]]:
        for templated in (True, False):
            part = [rendered for rendered in batch if rendered.templated is templated]
            if not part:
                continue
            tokens = self._tokenizer(
                [rendered.text for rendered in part],
                add_special_tokens=not templated,
                return_offsets_mapping=True,
                return_attention_mask=False,
            )
            for rendered, ids, offsets in zip(part, tokens["input_ids"], tokens["offset_mapping"], strict=True):
                yield self._cut(rendered, ids, learned_tokens(offsets, rendered.spans))

    def _cut(self, rendered: _Rendered, ids: list[int], learned: bytearray) -> list[Example]:
        end = self._tokenizer.eos_token_id
        if not rendered.templated and end is not None:
            if ids and ids[-1] == end:
                learned[-1] = 1
            else:
                ids, learned = [*ids, end], learned + b"\1"
        starts = range(0, len(ids), self._max_length) if rendered.whole else (0,)
        blocks = []
        for start in starts:
            mask = learned[start : start + self._max_length]
            mask[:1] = b"\0"
            if any(mask):
                blocks.append(Example(array("i", ids[start : start + self._max_length]), bytes(mask)))
        return blocks


def learned_tokens(offsets: Iterable[Span], spans: Sequence[Span]) -> bytearray:
    """[T] 1 for each token whose last character lies in one of ``spans``.

    So a token that joins the end of a prompt with the start of an answer is learned, and one that joins the end of an
    answer with what follows is not. Tokens that stand for no character (a start token) are not.
    """
    return bytearray(any(start < end_ <= end for start, end in spans) and end_ > begin for begin, end_ in offsets)
