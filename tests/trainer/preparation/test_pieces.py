"""Long texts in pieces: nothing is lost, and a tokenizer makes of the pieces what it makes of the whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.preparation.pieces import piece_ranges
from tests import tiny


@given(st.text(st.sampled_from("ab \n。é"), max_size=300), st.integers(1, 50))
def test_pieces_are_short_and_make_up_the_text(text, size):
    ranges = list(piece_ranges(text, size))
    assert "".join(text[start:end] for start, end in ranges) == text
    assert all(end - start <= size for start, end in ranges)
    assert all(end > start for start, end in ranges) or text == ""


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("one two three four", ["one two three", " four"]),
        ("one  two  three four", ["one  two  three", " four"]),
        ("line_one\nline_two\nline_three", ["line_one\n", "line_two\n", "line_three"]),
        ("没有空格的一句话。没有空格的又一句话", ["没有空格的一句话。", "没有空格的又一句话"]),
        ("x" * 30, ["x" * 15, "x" * 15]),
    ],
)
def test_texts_are_broken_where_tokenizers_break_them(text, pieces):
    assert [text[start:end] for start, end in piece_ranges(text, 15)] == pieces


def test_a_tokenizer_makes_the_same_tokens_of_the_pieces():
    tokenizer = tiny.tokenizer()
    text = "What is the  capital of France?\n\nParis, of course: 1 fox\n    jumps over it. " * 30
    pieces = [text[start:end] for start, end in piece_ranges(text, 100)]
    assert len(pieces) > 20
    assert [token for piece in pieces for token in tokenizer(piece)["input_ids"]] == tokenizer(text)["input_ids"]
