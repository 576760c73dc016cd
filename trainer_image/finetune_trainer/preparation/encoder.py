"""Records → token ids, and which of them are learned. The mask is made of characters, so that no boundary is guessed.

* Conversations: every assistant turn is learned, by the chat template (see :mod:`finetune_trainer.preparation.chat`).
* Prompt and completion as strings: joined as they are, with no chat template even where the model has one; the
  completion is learned, and the end-of-text token after it. A space between the two belongs at the beginning of the
  completion, because tokenizers join it with the word that follows. As lists of messages: a conversation of which
  only the completion's assistant turns are learned.
* Fields, by a template of the job's: what it marks is learned (see :mod:`finetune_trainer.preparation.fields`), and an
  end-of-text token after it where the marks reach the end.
* Text: everything is learned, with an end-of-text token after each document. A document longer than maxLength is cut
  into blocks, none is lost; a record of another kind is cut at its end.

Records are rendered while the tokenizer, which needs no interpreter lock, works on the ones before.
"""

import functools
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, NamedTuple, cast

from tokenizers import Encoding
from transformers import PreTrainedTokenizerBase

from finetune_api.run import ExitCode
from finetune_trainer.errors import TrainerError, is_panic, one_line
from finetune_trainer.preparation.chat import ChatTemplate
from finetune_trainer.preparation.encoding import Encoded, Example
from finetune_trainer.preparation.fields import FieldsTemplate
from finetune_trainer.preparation.given import Given
from finetune_trainer.preparation.learned import learned_tokens
from finetune_trainer.preparation.pieces import PIECE, piece_ranges
from finetune_trainer.preparation.record import Record
from finetune_trainer.preparation.wording import Span

_TOGETHER = 8 * PIECE
"""Characters tokenized in one call, enough for the tokenizer to use all cores."""
_RECORDS_TOGETHER = 4000


class Rendered(NamedTuple):
    """A record as text, or one side of it."""

    source: str
    text: str
    spans: list[Span]
    kind: Literal["conversation", "fields", "completion", "text", "side"]
    """Conversations have all special tokens already, a side gets them elsewhere; text is cut into blocks instead of
    being cut off."""


class _Piece(NamedTuple):
    """A part of a record's text, or all of it."""

    text: str
    spans: list[Span]
    record: Rendered
    last: bool


class Encoder:
    """Turns records into examples of at most ``max_length`` tokens."""

    two_sided: ClassVar[bool] = False
    """Whether what is learned of an example is a row of its own: a target beside its source."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int, given: Given | None = None) -> None:
        """``given``: the template of the job's by which the records are written, where there is one."""
        if not tokenizer.is_fast:
            raise TrainerError(
                ExitCode.MODEL_INVALID,
                f"The model's tokenizer ({type(tokenizer).__name__}) cannot tell which characters a token stands for. "
                "Add a tokenizer.json to the model's directory (AutoTokenizer.save_pretrained writes it).",
            )
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._given = given
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self._special = self._own_tokens()

    @staticmethod
    def parts(example: Example) -> Mapping[str, int]:
        """The parts of an example for people to see, by their names, each with the token that it begins with."""
        return {"": 0}

    def encode(self, records: Iterable[Record]) -> Encoded:
        """All records, gone through once; those that leave nothing to learn are left out and counted."""
        return collect(self.examples(records), self.two_sided)

    def examples(self, records: Iterable[Record]) -> Iterator[list[Example]]:
        """The examples of each record, one after the other: none where nothing is left to learn, several where a long
        text is cut into blocks."""
        with _all_characters(self._backend):
            for record, ids, learned in self._tokens(map(self._render, records)):
                yield self._cut(record, ids, learned)

    @functools.cached_property
    def template(self) -> ChatTemplate:
        """The chat template; asked for only where there are conversations, because base models have none."""
        return ChatTemplate(self._tokenizer, self._given)

    @functools.cached_property
    def _fields(self) -> FieldsTemplate:
        return FieldsTemplate(cast(Given, self._given), cast(Any, self._tokenizer.special_tokens_map))

    def prompt(self, record: Record) -> tuple[list[int], str]:
        """For a sample: the ids of what is given to the model, and the text that the record has as its answer.

        Of a prompt longer than maxLength the end is given.
        """
        if record.messages:
            turn = max(i for i, message in enumerate(record.messages) if message["role"] == "assistant")
            text = self.template.prompt(record.messages[:turn], record.tools)
            return self._prompt_ids(text, templated=True), record.messages[turn]["content"]
        if record.fields is not None:
            text, spans = self._fields.render(record)
            start, end = spans[-1]
            return self._prompt_ids(text[:start], templated=False), text[start:end]
        if record.completion:
            return self._prompt_ids(record.prompt, templated=False), record.completion
        ids = self._ids(record.text[:PIECE], templated=False)
        given = ids[: max(1, min(32, len(ids) // 2))]
        return given, str(self._tokenizer.decode(ids[len(given) :]))

    def _prompt_ids(self, text: str, templated: bool) -> list[int]:
        end = text if len(text) <= PIECE else text[-self._reach :]
        return self._ids(end, templated)[-self._max_length :]

    def _ids(self, text: str, templated: bool) -> list[int]:
        pieces = self._encode([text[start:end] for start, end in piece_ranges(text)])
        ids = [token for piece in pieces for token in piece.ids]
        if not templated:
            ids = [*self._special[0], *ids]
        special = (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id, 0)
        return ids or [next(token for token in special if token is not None)]  # a model must be given something

    def _render(self, record: Record) -> Rendered:
        if record.messages:
            text, spans = self.template.conversation(record)
            return Rendered(record.source, text, spans, "conversation")
        if record.fields is not None:
            text, spans = self._fields.render(record)
            return Rendered(record.source, text, spans, "fields")
        if record.text:
            return Rendered(record.source, record.text, [(0, len(record.text))], "text")
        self._require_no_template(record)
        text = record.prompt + record.completion
        return Rendered(record.source, text, [(len(record.prompt), len(text))], "completion")

    def _require_no_template(self, record: Record) -> None:
        """Refuses strings where a template is given for these very records."""
        if self._given and self._given.own:
            raise TrainerError(
                ExitCode.CONFIGURATION_INVALID,
                f"{record.source}: {self._given.origin.name} is a chat template (it uses messages), but prompt and "
                "completion are strings here. Give them as lists of messages, or a template over the two fields.",
            )

    def _tokens(self, records: Iterable[Rendered]) -> "Iterator[tuple[Rendered, array[int], bytearray]]":
        """Each record with its ids and what is learned, without special tokens that no template has put in."""
        ids, learned = array("i"), bytearray()
        for piece, encoding in self._encodings(piece for record in records for piece in self._pieces(record)):
            ids += array("i", encoding.ids)
            learned += learned_tokens(encoding, piece.spans, len(piece.text))
            if piece.last:
                yield piece.record, ids, learned
                ids, learned = array("i"), bytearray()

    def _encodings(self, pieces: Iterable[_Piece]) -> Iterator[tuple[_Piece, Encoding]]:
        """Pieces with their tokens: one batch is handed out while the next is tokenized and the one after rendered."""
        with ThreadPoolExecutor(1) as worker:
            batch: list[_Piece] = []
            tokens: Future[list[Encoding]] = worker.submit(list)
            for following in _batches(pieces):
                begun = worker.submit(self._encode_pieces, following)
                yield from zip(batch, tokens.result(), strict=True)
                batch, tokens = following, begun
            yield from zip(batch, tokens.result(), strict=True)

    def _pieces(self, record: Rendered) -> Iterator[_Piece]:
        if len(record.text) <= PIECE:
            yield _Piece(record.text, record.spans, record, last=True)
            return
        text = record.text if record.kind == "text" else record.text[: self._reach]
        for start, end in piece_ranges(text):
            spans = [(max(a, start) - start, min(b, end) - start) for a, b in record.spans if a < end and b > start]
            yield _Piece(text[start:end], spans, record, last=end == len(text))

    def _goes_on(self, record: Rendered) -> bool:
        """Whether a record, or a side of one, has more characters than were tokenized."""
        return len(record.text) > PIECE and len(record.text) > self._reach

    @functools.cached_property
    def _reach(self) -> int:
        """Characters in which the first, or last, ``max_length`` tokens of any text lie."""
        return self._max_length * max(map(len, self._backend.get_vocab()), default=1)

    def _encode_pieces(self, pieces: list[_Piece]) -> list[Encoding]:
        try:
            return self._encode([piece.text for piece in pieces])
        except BaseException as error:  # the panics of a library written in Rust are no Exception
            if not is_panic(error):
                raise
            if len(pieces) > 1:
                return [encoding for piece in pieces for encoding in self._encode_pieces([piece])]
            raise TrainerError(
                ExitCode.MODEL_INVALID,
                f"{pieces[0].record.source}: the model's tokenizer breaks on this record ({one_line(error, 200)}). "
                "Correct or remove the record, or choose another model.",
            ) from error

    def _encode(self, texts: list[str]) -> list[Encoding]:
        self._backend.encode_special_tokens = self._tokenizer.split_special_tokens
        encodings: list[Encoding] = self._backend.encode_batch(texts, add_special_tokens=False)
        return encodings

    def _own_tokens(self) -> "tuple[array[int], array[int]]":
        """The tokens that the tokenizer puts before and behind a text of its own accord."""
        encoding = self._backend.encode("a")
        return around(encoding.ids, encoding.special_tokens_mask)

    def _cut(self, record: Rendered, ids: "array[int]", learned: bytearray) -> list[Example]:
        """A record's tokens, with special tokens where no template has put them in, cut to ``max_length``."""
        if record.kind != "conversation":
            before, behind = self._special
            if record.kind == "fields" and ids[: len(before)] == before:  # it has written them itself
                before = before[:0]
            ids, learned = before + ids + behind, bytearray(len(before)) + learned + bytearray(len(behind))
            end, ends = self._tokenizer.eos_token_id, record.kind != "fields" or record.spans[-1][1] == len(record.text)
            if ids and ids[-1] == end:
                learned[-1] = learned[-1] or ends
            elif end is not None:
                ids.append(end)
                learned.append(ends)
        blocks = record.kind == "text"
        cut = not blocks and (len(ids) > self._max_length or self._goes_on(record))
        examples = []
        for start in range(0, len(ids), self._max_length) if blocks else (0,):
            mask = learned[start : start + self._max_length]
            mask[:1] = b"\0"
            if any(mask):
                examples.append(Example(ids[start : start + self._max_length], bytes(mask), cut=cut))
        return examples


def around(ids: list[int], special: list[int]) -> "tuple[array[int], array[int]]":
    """The tokens before and behind those that are not ``special``."""
    own = [index for index, mark in enumerate(special) if not mark] or [len(ids)]
    return array("i", ids[: own[0]]), array("i", ids[own[-1] + 1 :])


def collect(examples: Iterable[Sequence[Example]], two_sided: bool = False) -> Encoded:
    """The examples of each record, written down; a record that gives none is counted as left out."""
    used = Counter[bool]()

    def counted() -> Iterator[Example]:
        for some in examples:
            used[bool(some)] += 1
            yield from some

    encoded = Encoded(counted(), two_sided=two_sided)
    encoded.dropped = used[False]
    return encoded


@contextmanager
def _all_characters(backend: Any) -> Iterator[None]:
    """Has each token tell all of its characters. Some tokenizers (GPT-NeoX) do not count the spaces at its ends."""
    kept = backend.post_processor
    backend.post_processor = None
    try:
        yield
    finally:
        backend.post_processor = kept


def _batches(pieces: Iterable[_Piece]) -> Iterator[list[_Piece]]:
    """Lists of about _TOGETHER characters."""
    batch: list[_Piece] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece.text)
        if size >= _TOGETHER or len(batch) == _RECORDS_TOGETHER:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
