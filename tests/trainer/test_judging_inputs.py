"""What is wrong with records and labels is told by file and line, before a model is loaded."""

import pytest

from finetune_api.run import ExitCode
from tests import encoders, tiny

GOOD = encoders.texts(12)
TAGGED = encoders.sentences(12)
ASKED = encoders.questions(12)


def asked(**changed):
    return {"question": "who?", "context": "anna sees", "answers": {"text": ["anna"], "answer_start": [0]}} | changed


@pytest.mark.parametrize(
    ("task", "records", "said"),
    [
        ("text-classification", [*GOOD, {"text": "", "label": "a"}], "line 13: text is empty"),
        ("text-classification", [*GOOD, {"text": 3, "label": "a"}], "line 13: text is a number"),
        ("text-classification", [*GOOD, {"text": "a", "label": None}], "line 13: label is missing or null"),
        ("text-classification", [*GOOD, {"text": "a", "label": True}], "line 13: label is a boolean"),
        ("text-classification", [*GOOD, {"text": "a", "label": ""}], "line 13: label is empty"),
        ("text-classification", [*GOOD, {"text": "a", "label": "x" * 300}], "line 13: label is no name"),
        ("text-classification", [*GOOD, {"text": "a"}], "line 13: the field label is missing"),
        ("text-classification", [*GOOD, {"text": "a", "labels": ["x"]}], "a record of format text-labels in a file"),
        ("text-classification", [{"text": "a", "labels": "x"}], "line 1: labels is a string, where a list of labels"),
        ("text-classification", [{"text": "a", "labels": ["x", "x"]}], "line 1: labels holds a label twice"),
        ("text-classification", [{"text": "a", "text_pair": 1, "label": "x"}], "line 1: text_pair is a number"),
        ("text-classification", tiny.PAIRS, "belong to no format that this task takes. Expected: text and label"),
        ("token-classification", [*TAGGED, {"tokens": ["a"], "tags": ["O", "O"]}], "tokens has 1 entries, but tags 2"),
        ("token-classification", [*TAGGED, {"tokens": [], "tags": []}], "line 13: tokens is an empty list"),
        ("token-classification", [*TAGGED, {"tokens": ["a", " "], "tags": ["O", "O"]}], "tokens[1] is a string"),
        ("token-classification", [*TAGGED, {"tokens": ["a"], "tags": [1.5]}], "tags[0] is a number, where a name"),
        ("question-answering", [*ASKED, asked(answers=["anna"])], "line 13: answers is a list, where an object"),
        ("question-answering", [*ASKED, asked(answers={"text": ["anna"]})], "answers holds no two lists"),
        (
            "question-answering",
            [*ASKED, asked(answers={"text": ["sees"], "answer_start": [3]})],
            "answers.text[0] does not stand at character 3 of context (counted from 0). It stands at 5",
        ),
        (
            "question-answering",
            [*ASKED, asked(answers={"text": ["rome"], "answer_start": [0]})],
            "The context does not hold it",
        ),
        ("question-answering", [*ASKED, asked(context=" ")], "line 13: context is empty"),
    ],
)
def test_a_broken_record_is_told_by_its_line(trainer, task, records, said):
    ended = trainer.run(task=task, model={"uri": "s3://team-a/none/"}, data=trainer.data(tiny.json_lines(*records)))
    assert ended.code == ExitCode.DATA_INVALID
    assert said in ended.message
    assert "train.jsonl line" in ended.message


@pytest.mark.parametrize(
    ("records", "stray"),
    [
        (GOOD, {"text": "a", "label": "boat"}),
        (GOOD, {"text": "a", "label": "Firm"}),
        ([{"text": r["text"], "labels": [r["label"]]} for r in GOOD], {"text": "a", "labels": ["firm", "boat"]}),
    ],
    ids=["another", "in capitals", "one of several"],
)
def test_a_label_that_was_never_trained_is_refused_where_it_would_be_measured(s3, trainer, records, stray):
    held_out = s3.put("data/other-labels.jsonl", tiny.json_lines(records[0], stray))
    train = trainer.data(tiny.json_lines(*records))["train"]
    ended = trainer.run(task="text-classification", data={"train": train, "validation": [{"uri": held_out}]})
    assert ended.code == ExitCode.DATA_INVALID
    name = stray.get("label", "boat")
    assert f"other-labels.jsonl line 2: the label {name!r} is none of the 3 of the training files" in ended.message
    assert "(firm, person, place)" in ended.message


def test_more_labels_than_a_head_has_room_for_are_another_field(trainer):
    records = [{"text": "a", "label": str(number)} for number in range(5000)]
    ended = trainer.run(task="text-classification", data=trainer.data(tiny.json_lines(*records)))
    assert "line 4097: more than 4096 different labels" in ended.message


def test_records_with_one_label_and_records_with_several_do_not_mix(s3, trainer):
    one, several = (
        s3.put(f"data/mixed-{name}.jsonl", tiny.json_lines(*records))
        for name, records in (("one", GOOD), ("several", encoders.many_labels(12)))
    )
    data = {"train": [{"uri": one}, {"uri": several}], "validationFraction": 0.2}
    ended = trainer.run(task="text-classification", data=data)
    assert ended.code == ExitCode.DATA_INVALID
    assert "records with one label and records with several" in ended.message


def test_windows_need_room(trainer):
    data = trainer.data(tiny.json_lines(*ASKED))
    ended = trainer.run(task="question-answering", data=data, training={"maxLength": 16})
    assert ended.code == ExitCode.CONFIGURATION_INVALID
    assert "spec.training.maxLength is 16, but question and text take at least 32 tokens" in ended.message
