"""Whole runs of the tasks that put a head on a model: what is learned, and what is published."""

import random

import pytest
import torch

from finetune_api.run import ExitCode
from finetune_trainer.models.quantized import keep_bits
from tests import encoders, tiny
from tests.trainer.cards import load_by_card
from tests.trainer.recipes.test_judging import told, told_by
from tests.trainer.test_resume import STEPS, SigtermAfter, result, sigterm_asks, whole

LEARN = {"maxSteps": 120, "learningRate": 1e-2, "maxLength": 64, "batchSize": 16}
TASKS = {
    "one label": ("text-classification", encoders.texts(160)),
    "several labels": ("text-classification", encoders.many_labels(160)),
    "entities": ("token-classification", encoders.sentences(160)),
    "questions": ("question-answering", encoders.questions(160)),
}


@pytest.fixture(scope="session")
def bert(tmp_path_factory):
    return encoders.save(tmp_path_factory.mktemp("bert") / "model")


@pytest.fixture(scope="session")
def bert_uri(s3, bert):
    return s3.put_directory("models/bert", bert)


@pytest.mark.parametrize(("adapter", "rate"), [("lora", 1e-2), ("none", 3e-3)])
@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_learned_and_what_the_model_card_loads_says_what_was_measured(
    s3, trainer, bert, bert_uri, tmp_path, monkeypatch, name, adapter, rate
):
    task, records = TASKS[name]
    train, held_out = records[:-32], records[-32:]
    validation = s3.put(f"data/{trainer.directory.name}/held-out.jsonl", tiny.json_lines(*held_out))
    ended = trainer.run(
        task=task,
        model={"uri": bert_uri},
        method={"adapter": adapter},
        data={"train": trainer.data(tiny.json_lines(*train))["train"], "validation": [{"uri": validation}]},
        training=LEARN | {"learningRate": rate},
    )
    assert ended.code == 0, ended.result.error
    tuned, base = ended.metric("f1")
    assert tuned > 0.9
    assert base < 0.6
    model, tokenizer = load_by_card(s3, ended.location, bert, tmp_path, monkeypatch)
    assert type(model).__name__.startswith("Peft" if adapter == "lora" else "Bert")
    assert SHARES_RIGHT[name](model, tokenizer, held_out) == pytest.approx(ended.metric(SHARE[name])[0], abs=1e-6)
    shown = s3.report(ended.location)["sets"][0]["examples"]
    assert list(map(told, shown)) == list(map(told_by, train[:3]))


@pytest.mark.parametrize(
    ("name", "adapter", "merged"),
    [
        ("entities", "qlora", False),
        ("one label", "qlora", True),
        pytest.param("one label", "qlora", False, marks=pytest.mark.long),
        pytest.param("questions", "qlora", False, marks=pytest.mark.long),
        pytest.param("several labels", "ia3", True, marks=pytest.mark.long),
        pytest.param("questions", "lora", True, marks=pytest.mark.long),
    ],
)
def test_a_head_is_as_good_as_was_told_beside_4_bits_and_in_a_merged_model(
    s3, trainer, bert, bert_uri, tmp_path, monkeypatch, name, adapter, merged
):
    task, records = TASKS[name]
    validation = s3.put(f"data/{trainer.directory.name}/held-out.jsonl", tiny.json_lines(*records[-32:]))
    ended = trainer.run(
        task=task,
        model={"uri": bert_uri},
        method={"adapter": adapter},
        mergeAdapter=merged,
        data={"train": trainer.data(tiny.json_lines(*records[:-32]))["train"], "validation": [{"uri": validation}]},
        training=LEARN | {"maxSteps": 30, "learningRate": 2e-2},
    )
    assert ended.code == 0, ended.result.error
    model, tokenizer = load_by_card(s3, ended.location, bert, tmp_path, monkeypatch)
    assert type(model).__name__.startswith("Bert" if merged else "Peft")
    keep_bits(model)
    assert SHARES_RIGHT[name](model, tokenizer, records[-32:]) == pytest.approx(ended.metric(SHARE[name])[0], abs=1e-6)


def test_a_merged_decoder_judges_texts_of_different_lengths_together(
    s3, trainer, model_directory, tmp_path, monkeypatch
):
    records = encoders.texts(60)
    held_out = s3.put(f"data/{trainer.directory.name}/held-out.jsonl", tiny.json_lines(*records[-20:]))
    train = trainer.data(tiny.json_lines(*records[:-20]))["train"]
    ended = trainer.run(
        task="text-classification",
        mergeAdapter=True,
        data={"train": train, "validation": [{"uri": held_out}]},
        training=LEARN | {"maxSteps": 10},
    )
    assert ended.code == 0, ended.result.error
    model, tokenizer = load_by_card(s3, ended.location, model_directory, tmp_path, monkeypatch)
    assert right_labels(model, tokenizer, records[-20:]) == pytest.approx(ended.metric("accuracy")[0], abs=1e-6)


@torch.no_grad()
def right_labels(model, tokenizer, records):
    """The share of records whose label is right, by nothing but transformers."""
    inputs = tokenizer([record["text"] for record in records], padding=True, return_tensors="pt")
    said = model(**inputs).logits.argmax(-1).tolist()
    return sum(model.config.id2label[n] == record["label"] for n, record in zip(said, records, strict=True)) / len(said)


@torch.no_grad()
def right_sets(model, tokenizer, records):
    inputs = tokenizer([record["text"] for record in records], padding=True, return_tensors="pt")
    said = model(**inputs).logits.sigmoid() > 0.5
    names = [{model.config.id2label[n] for n in row.nonzero().flatten().tolist()} for row in said]
    return sum(found == set(record["labels"]) for found, record in zip(names, records, strict=True)) / len(records)


@torch.no_grad()
def right_tags(model, tokenizer, records):
    right = total = 0
    for record in records:
        inputs = tokenizer(record["tokens"], is_split_into_words=True, return_tensors="pt")
        said = model(**inputs).logits[0].argmax(-1).tolist()
        words = inputs.word_ids()
        for place, word in enumerate(words):
            if word is not None and word != words[place - 1]:
                right += model.config.id2label[said[place]] == record["tags"][word]
                total += 1
    return right / total


def right_answers(model, tokenizer, records):
    right = 0
    for record in records:
        inputs = tokenizer(record["question"], record["context"], return_tensors="pt", return_offsets_mapping=True)
        offsets, parts = inputs.pop("offset_mapping")[0].tolist(), inputs.sequence_ids()
        with torch.no_grad():
            said = model(**inputs)
        best = max(
            (float(said.start_logits[0, i] + said.end_logits[0, j]), offsets[i][0], offsets[j][1])
            for i, one in enumerate(parts)
            for j, other in enumerate(parts)
            if one == other == 1 and i <= j
        )
        words = record["context"][best[1] : best[2]].split()
        right += [word for word in words if word not in ("a", "the")] == record["answers"]["text"][0].split()
    return right / len(records)


SHARE = {"one label": "accuracy", "several labels": "accuracy", "entities": "accuracy", "questions": "exact_match"}
SHARES_RIGHT = {
    "one label": right_labels,
    "several labels": right_sets,
    "entities": right_tags,
    "questions": right_answers,
}


@pytest.mark.parametrize(
    ("name", "kind", "adapter"),
    [
        ("one label", "bart", "lora"),
        ("questions", "t5", "none"),
        pytest.param("several labels", "t5", "lora", marks=pytest.mark.long),
        pytest.param("entities", "t5", "lora", marks=pytest.mark.long),
        pytest.param("questions", "bart", "lora", marks=pytest.mark.long),
        pytest.param("questions", "t5", "lora", marks=pytest.mark.long),
    ],
)
def test_models_with_encoder_and_decoder_judge_texts_as_well(s3, trainer, tmp_path, monkeypatch, name, kind, adapter):
    task, records = TASKS[name]
    base = tiny.save_reader_and_writer(tmp_path / "base", kind)
    validation = s3.put(f"data/{trainer.directory.name}/held-out.jsonl", tiny.json_lines(*records[-32:]))
    ended = trainer.run(
        task=task,
        model={"uri": s3.put_directory(f"models/{trainer.directory.name}", base)},
        method={"adapter": adapter},
        data={"train": trainer.data(tiny.json_lines(*records[:-32]))["train"], "validation": [{"uri": validation}]},
        training=LEARN | {"maxSteps": 60},
    )
    assert ended.code == 0, ended.result.error
    tuned, untouched = ended.metric("f1")
    assert tuned > untouched + 0.1
    model, tokenizer = load_by_card(s3, ended.location, base, tmp_path, monkeypatch)
    assert SHARES_RIGHT[name](model, tokenizer, records[-32:]) == pytest.approx(ended.metric(SHARE[name])[0], abs=1e-6)


def test_labels_that_have_nothing_to_do_with_the_texts_are_not_learned(trainer, bert_uri):
    records = encoders.texts(160)
    labels = [record["label"] for record in records]
    random.Random(1).shuffle(labels)
    shuffled = [record | {"label": label} for record, label in zip(records, labels, strict=True)]
    ended = trainer.run(
        task="text-classification",
        model={"uri": bert_uri},
        data=trainer.data(tiny.json_lines(*shuffled)),
        training=LEARN,
    )
    assert ended.metric("f1")[0] < 0.6


EVERYTHING = STEPS | {
    "emaDecay": 0.8,
    "neftuneAlpha": 5,
    "dropout": 0.1,
    "schedule": "plateau",
    "plateau": {"metric": "f1", "patience": 1},
    "earlyStopping": {"metric": "f1", "patience": 9},
    "restoreBest": {"metric": "f1"},
}
"""With dropout and noise a step that were repeated, or left out, would change what comes after it."""


@pytest.mark.parametrize(
    ("name", "method", "training"),
    [
        ("one label", {}, {"labelSmoothing": 0.1}),
        ("entities", {"adapter": "none", "freeze": {"layers": 1}}, {"optimizer": "rmsprop"}),
        pytest.param("several labels", {"adapter": "none"}, {"optimizer": "sgd", "l1": 1e-5}, marks=pytest.mark.long),
        pytest.param("questions", {"adapter": "qlora"}, {"optimizer": "adafactor"}, marks=pytest.mark.long),
    ],
)
def test_a_run_that_is_stopped_and_gone_on_with_ends_in_the_same_bits(s3, trainer, bert_uri, name, method, training):
    task, records = TASKS[name]
    changes = {
        "task": task,
        "model": {"uri": bert_uri},
        "method": method,
        "data": trainer.data(tiny.json_lines(*records[:60])),
        "training": EVERYTHING | training,
        "evaluation": {"everySteps": 3},
    }
    expected = whole(s3, trainer, **changes)
    with sigterm_asks() as stop:
        assert trainer.run(SigtermAfter(5), stop, **changes).code == ExitCode.PREEMPTED
    ended = trainer.run(**changes)
    assert ended.code == 0, ended.result.error
    assert result(s3, ended) == expected
    report = s3.report(ended.location)
    found = {each["step"]: each["metrics"]["f1"] for each in report["evaluations"]}
    assert (report["resumedAt"], list(found)) == ([5], [3, 6, 9, 12])
    assert report["bestStep"] == max(found, key=found.__getitem__)
    assert ended.metric("f1")[0] == pytest.approx(max(found.values()))
