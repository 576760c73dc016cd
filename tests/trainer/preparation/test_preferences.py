"""Records that say which answer is better, and what is said of those that do not."""

import pytest

from finetune_api.run import ExitCode
from finetune_trainer.errors import TrainerError
from finetune_trainer.preparation.preferences import Feedback, Pair
from finetune_trainer.preparation.record import Record
from finetune_trainer.preparation.records import find_format, read_records
from tests import tiny

URI = "s3://team-a/pairs.jsonl"


def says(role, content):
    return {"role": role, "content": content}


ASKED = [says("system", "Be brief."), says("user", "Is it?")]
YES, NO = says("assistant", "Yes."), says("assistant", "No.")


def read(tmp_path, *records, formats=("preference",)):
    path = tmp_path / "file"
    path.write_bytes(tiny.json_lines(*records))
    return list(read_records(path, URI, find_format(path, URI, None, formats), formats=formats))


def refusal(tmp_path, *records, formats=("preference",)) -> str:
    with pytest.raises(TrainerError) as caught:
        read(tmp_path, *records, formats=formats)
    assert caught.value.code is ExitCode.DATA_INVALID
    return caught.value.message


def test_two_answers_to_a_prompt(tmp_path):
    (pair,) = read(tmp_path, {"prompt": "Is it?", "chosen": " Yes.", "rejected": " No."})
    source = f"{URI} line 1"
    chosen, rejected = (Record(source, prompt="Is it?", completion=answer) for answer in (" Yes.", " No."))
    assert pair == Pair(source, chosen, rejected)


def test_two_answers_to_messages(tmp_path):
    (pair,) = read(tmp_path, {"prompt": ASKED, "chosen": [YES], "rejected": [NO]})
    assert pair.chosen.messages == (*ASKED, YES)
    assert pair.rejected.messages == (*ASKED, NO)
    assert (pair.chosen.learn_from, pair.rejected.learn_from) == (2, 2)


def test_the_common_beginning_of_two_conversations_is_their_prompt(tmp_path):
    whole = {"chosen": [*ASKED, YES], "rejected": [*ASKED, NO]}
    implicit, named = read(tmp_path, whole, whole | {"prompt": "Is it?"})
    for pair in (implicit, named):
        assert pair.chosen.messages == (*ASKED, YES)
        assert (pair.chosen.learn_from, pair.rejected.learn_from) == (2, 2)


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("Human: Is it? Assistant: Yes.", "Human: Is it? Assistant: No.", "Human: Is it? Assistant:"),
        ("A: Paris", "A: Prague", "A:"),  # no word is torn apart
        ("yes", "yes indeed", ""),
        ("Yes.", "No.", ""),
        ("a b", "a b c", "a"),
    ],
)
def test_the_common_beginning_of_two_texts_is_their_prompt(tmp_path, chosen, rejected, prompt):
    (pair,) = read(tmp_path, {"chosen": chosen, "rejected": rejected})
    assert (pair.chosen.prompt, pair.rejected.prompt) == (prompt, prompt)
    assert (pair.chosen.completion, pair.rejected.completion) == (chosen[len(prompt) :], rejected[len(prompt) :])


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": None}, "rejected is missing or null; a pair needs two answers"),
        ({"prompt": "a", "chosen": "b", "rejected": ""}, "rejected is an empty string; a pair needs two answers"),
        ({"prompt": "a", "chosen": "b", "rejected": " "}, "rejected is empty"),
        ({"prompt": ASKED, "chosen": [YES], "rejected": []}, "rejected is an empty list; a pair needs two answers"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "chosen and rejected are equal"),
        ({"prompt": "a", "chosen": "b", "rejected": 7}, "rejected is a number; prompt and rejected must both be"),
        ({"prompt": "a", "chosen": "b", "rejected": [NO]}, "rejected is a list; prompt and rejected must both be"),
        ({"chosen": "b", "rejected": [NO]}, "rejected is a list; prompt and rejected must both be"),
        ({"prompt": "b", "chosen": [*ASKED, YES], "rejected": [*ASKED, NO]}, "no message of the common beginning"),
        ({"prompt": ASKED, "chosen": [YES], "rejected": [says("user", "no")]}, "rejected has no assistant message"),
        ({"chosen": [*ASKED, YES], "rejected": ASKED}, "how the other begins"),
        ({"chosen": ["hm"], "rejected": [NO]}, "chosen[0] is a string, where an object such as"),
        ({"prompt": "a", "chosen": "b"}, "the field rejected is missing, which format preference needs"),
    ],
)
def test_pairs_that_say_nothing_are_refused_by_file_and_line(tmp_path, record, message):
    told = refusal(tmp_path, {"prompt": "a", "chosen": "b", "rejected": "c"}, record)
    assert told.startswith(f"{URI} line 2: ")
    assert message in told


def test_a_file_without_rejected_answers_is_no_file_of_pairs(tmp_path):
    told = refusal(tmp_path, {"prompt": "a", "chosen": "b"})
    assert "belong to no format that this task takes. Expected: chosen and rejected" in told


def test_answers_with_a_verdict(tmp_path):
    records = [
        {"prompt": "Is it?", "completion": " Yes.", "label": True},
        {"prompt": ASKED, "completion": [NO], "label": False},
    ]
    first, second = read(tmp_path, *records, formats=("feedback",))
    assert first == Feedback(f"{URI} line 1", Record(f"{URI} line 1", prompt="Is it?", completion=" Yes."), True)
    assert (second.answer.messages, second.answer.learn_from, second.desirable) == ((*ASKED, NO), 2, False)


@pytest.mark.parametrize(
    ("label", "found"), [("true", "a string"), (1, "the number 1"), (None, "missing or null"), ([], "an empty list")]
)
def test_a_verdict_is_true_or_false(tmp_path, label, found):
    told = refusal(tmp_path, {"prompt": "a", "completion": "b", "label": label}, formats=("feedback",))
    assert f"label is {found}, where true (a good answer) or false (a bad one) is expected" in told
