"""Whole runs of the tasks that put a head on a model: what is learned, and what is published."""

import random

import pytest
import torch

from tests import encoders, tiny
from tests.trainer.cards import load_by_card

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
        right += record["context"][best[1] : best[2]] == record["answers"]["text"][0]
    return right / len(records)


SHARE = {"one label": "accuracy", "several labels": "accuracy", "entities": "accuracy", "questions": "exact_match"}
SHARES_RIGHT = {
    "one label": right_labels,
    "several labels": right_sets,
    "entities": right_tags,
    "questions": right_answers,
}


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
