"""Examples for people to see: the parts of a record apart from one another, and what is learned of each."""

import pytest

from finetune_trainer.preparation.encoder import Encoder
from finetune_trainer.preparation.preferences import feedback, preference
from finetune_trainer.preparation.record import Record
from finetune_trainer.preparation.sets import Part, Sets
from finetune_trainer.preparation.shown import Labels, show
from finetune_trainer.recipes.kto import FeedbackEncoder
from finetune_trainer.recipes.pairs import PairEncoder
from tests import tiny

PAIR = preference({"prompt": "say 3", "chosen": " 3", "rejected": " 4 it"}, "line 1")
PROMPT = {"part": "prompt", "text": "say 3", "learned": False}


def liked(good):
    return feedback({"prompt": "say 3", "completion": " 3", "label": good}, "line 1")


def learned(part, text):
    return {"part": part, "text": f"{text}{tiny.tokenizer().eos_token}", "learned": True}


CASES = {
    "an answer": (
        Encoder,
        Record("line 1", prompt="say 3", completion=" 3"),
        [{"text": "say 3", "learned": False}, {"text": f" 3{tiny.tokenizer().eos_token}", "learned": True}],
    ),
    "a pair": (PairEncoder, PAIR, [PROMPT, learned("chosen", " 3"), learned("rejected", " 4 it")]),
    "liked": (FeedbackEncoder, liked(True), [PROMPT, learned("desirable", " 3")]),
    "disliked": (FeedbackEncoder, liked(False), [PROMPT, learned("undesirable", " 3")]),
}


def shown(kind, record, max_length=64):
    examples = kind(tiny.tokenizer(), max_length).encode([record])
    (only,) = show(Sets([Part("math", examples)]), tiny.tokenizer(), kind.parts, lambda _: Labels())
    return only


@pytest.mark.parametrize("name", CASES)
def test_the_report_has_each_part_by_its_name(name):
    kind, record, expected = CASES[name]
    assert shown(kind, record).to_dict()["text"] == expected


def test_the_log_tells_the_two_answers_apart():
    end = tiny.tokenizer().eos_token
    said = f"learned: prompt: say 3 chosen: ⟦ 3{end}⟧ rejected: ⟦ 4 it{end}⟧"
    assert str(shown(PairEncoder, PAIR)).endswith(said)


def test_a_long_prompt_does_not_hide_the_answers():
    record = preference({"prompt": "say " * 600, "chosen": " 3", "rejected": " 4"}, "line 1")
    found = shown(PairEncoder, record, max_length=2000)
    assert [run.part for run in found.runs] == ["prompt", "chosen", "rejected"]
    assert not found.whole
