"""Which tokens are learned, for tokenizers of several kinds."""

import functools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from finetune_trainer.preparation.learned import by_offsets, learned_tokens
from tests import tiny

WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEXT = [*tiny.TEXT, "é è à ü Ｆｕｌｌ ﬁ 🦊 中文，没有空格。 <|im_start|>user\n"] * 3


def by_words(normalizer: normalizers.Normalizer | None = None) -> Tokenizer:
    """As most models in use have it: split by a pattern, then bytes."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    if normalizer:
        made.normalizer = normalizer
    return made


def by_bytes(add_prefix_space: bool) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    return made


def by_spaces() -> Tokenizer:
    """SentencePiece's way: a mark in place of spaces, and one before the first word."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Fuse()
    return made


def by_visible_spaces() -> Tokenizer:
    """A mark in place of spaces, and none before the first word."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    return made


def by_metaspace() -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    return made


def lower_case() -> Tokenizer:
    """As BERT: white space is left out."""
    made = Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return made


def without_spaces() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    return made


KINDS = {
    "by bytes": lambda: by_bytes(add_prefix_space=False),
    "space before": lambda: by_bytes(add_prefix_space=True),
    "by words": by_words,
    "composed": lambda: by_words(normalizers.NFC()),
    "decomposed": lambda: by_words(normalizers.NFD()),
    "compatible": lambda: by_words(normalizers.Sequence([normalizers.NFKC()])),
    "without spaces": without_spaces,
    "by spaces": by_spaces,
    "by visible spaces": by_visible_spaces,
    "by metaspace": by_metaspace,
    "lower case": lower_case,
}
TRAINERS = {models.BPE: trainers.BpeTrainer, models.Unigram: trainers.UnigramTrainer}


@functools.cache
def trained(kind: str) -> Tokenizer:
    made = KINDS[kind]()
    special = ["<unk>", *tiny.SPECIAL_TOKENS]
    trainer = TRAINERS.get(type(made.model), trainers.WordPieceTrainer)
    unknown = {"unk_token": "<unk>"} if trainer is trainers.UnigramTrainer else {}
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXT,
        trainer(vocab_size=420, special_tokens=special, initial_alphabet=alphabet, show_progress=False, **unknown),
    )
    return made


def the_rule(offsets, spans) -> bytearray:
    """A token is learned if its last character lies in a span."""
    return bytearray(end > begin and any(start < end <= stop for start, stop in spans) for begin, end in offsets)


parts = st.sampled_from(
    ["hello", " world", "é", "e\u0301", "ﬁ", "🦊", "中文", "\u0301", "\n\n", "  ", " ", "7", "<|im_end|>", "\x00", "￿"]
)
texts = st.lists(st.one_of(parts, parts, st.text(max_size=3)), max_size=12)


def spans_between(pieces: list[str], learned: list[bool]) -> tuple[str, list[tuple[int, int]]]:
    """A text of the pieces, and where those lie that are learned; some are empty."""
    text, spans = "", []
    for piece, wanted in zip(pieces, learned, strict=False):
        if wanted:
            spans.append((len(text), len(text) + len(piece)))
        text += piece
    return text, spans


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(pieces=texts, learned=st.lists(st.booleans(), min_size=12, max_size=12))
@example(pieces=["e", "\u0301", "x"], learned=[True, False, True])
@example(pieces=["  ", "hello"], learned=[True, True])
def test_a_token_is_learned_if_its_last_character_is(kind, pieces, learned):
    text, spans = spans_between(pieces, learned)
    encoding = trained(kind).encode(text, add_special_tokens=False)
    expected = the_rule(encoding.offsets, spans)
    assert learned_tokens(encoding, spans, len(text)) == expected
    assert by_offsets(encoding.offsets, spans, len(text)) == expected


def test_a_token_of_no_character_is_not_learned():
    assert list(by_offsets([(0, 0), (0, 2), (2, 2), (2, 3)], [(0, 3)], 3)) == [0, 1, 0, 1]
