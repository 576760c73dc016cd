"""The benchmark of data preparation measures the same work for both sides."""

import json

from benchmarks.trainer import preparation
from finetune_trainer.preparation.encoder import Encoder
from tests import tiny

TEXTS = tuple(f"{text} {number}" for number in range(20) for text in tiny.TEXT)


def test_preparation_and_the_tokenizer_alone_make_the_same_tokens(tmp_path):
    preparation.write_chats(tmp_path / "chats.jsonl", 50, TEXTS)
    chats = [json.loads(line)["messages"] for line in (tmp_path / "chats.jsonl").read_text().splitlines()]
    made = tiny.tokenizer()
    tokens = preparation.prepare(tmp_path / "chats.jsonl", Encoder(made, 100_000), tmp_path / "data")
    assert tokens == sum(map(len, made(made.apply_chat_template(chats, tokenize=False))["input_ids"]))


def test_both_are_measured_for_both_templates(tmp_path):
    tiny.tokenizer().save_pretrained(tmp_path / "tokenizer")
    preparation.write_chats(tmp_path / "chats.jsonl", 20, TEXTS)
    taken = preparation.speed(tmp_path)
    assert set(taken) == {"plain", "reasoning"}
    for each in taken.values():
        share, by_processor = preparation._speed_rows("", each, None)
        assert 0 < share.value < 10
        assert 0 < by_processor.value < 10
