"""Whole runs of text2text-generation, and of answers that are measured."""

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, DataCollatorForSeq2Seq, PreTrainedModel

from finetune_api.run import ExitCode
from tests import tiny
from tests.trainer.cards import load_by_card

T2T = "text2text-generation"
LEARN = {"maxSteps": 80, "learningRate": 1e-2, "maxLength": 32, "batchSize": 8}


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    there = tmp_path_factory.mktemp("models")
    return {kind: tiny.save_reader_and_writer(there / kind, kind) for kind in ("t5", "bart")}


@pytest.fixture
def uris(s3, directories):
    return {kind: s3.put_directory(f"models/{kind}", directory) for kind, directory in directories.items()}


def said(model, tokenizer, prompts):
    """By nothing but transformers, one by one."""
    answers = []
    for prompt in prompts:
        out = model.generate(**tokenizer(prompt, return_tensors="pt"), do_sample=False, max_new_tokens=12)
        answers.append(tokenizer.decode(out[0], skip_special_tokens=True))
    return answers


@pytest.mark.parametrize(("kind", "adapter"), [("t5", "none"), ("t5", "lora"), ("bart", "lora")])
def test_a_model_learns_to_write_what_it_reads(s3, trainer, uris, directories, tmp_path, monkeypatch, kind, adapter):
    """Its answers are right word by word. With labels that are not shifted, or shifted twice, the loss would go down as
    well, and the answers would be wrong; without the source they would be wrong too, since it tells which number."""
    ended = trainer.run(
        task=T2T,
        model={"uri": uris[kind]},
        method={"adapter": adapter},
        training=LEARN,
        evaluation={"samples": 2, "maxNewTokens": 12, "metrics": ["exact_match", "chrf"]},
    )
    assert ended.code == 0, ended.result.error
    assert [metric.name for metric in ended.result.metrics] == [
        "eval_loss",
        "perplexity",
        "token_accuracy",
        "exact_match",
        "chrf",
    ]
    assert (ended.metric("exact_match"), ended.metric("token_accuracy")[0]) == ((1.0, 0.0), 1.0)
    report = s3.report(ended.location)
    assert len(report["samples"]) == 2
    for sample in report["samples"]:
        assert sample["prompt"].startswith("say ")
        assert sample["tuned"].strip() == sample["reference"].strip() != sample["base"].strip()

    model, tokenizer = load_by_card(s3, ended.location, directories[kind], tmp_path, monkeypatch)
    assert isinstance(model, PeftModel if adapter == "lora" else PreTrainedModel)
    told = said(model, tokenizer, [sample["prompt"] for sample in report["samples"]])
    assert told == [sample["tuned"] for sample in report["samples"]]


SHORT_AND_LONG = [{"prompt": f"say {n % 5}", "completion": f" {n % 5}" * (1 + n % 4)} for n in range(20)]


def test_a_step_with_smoothed_labels_is_that_of_torch_over_all_targets_together(
    s3, trainer, uris, tmp_path, directories
):
    """Against SGD on the mean over the target tokens of the whole step. The forward passes' means, or padding that
    counts, would make it another."""
    ended = trainer.run(
        task=T2T,
        model={"uri": uris["t5"]},
        method={"adapter": "none"},
        data={
            "train": trainer.data(tiny.json_lines(*SHORT_AND_LONG))["train"],
            "validation": [{"uri": s3.put("data/held-out-smoothed.jsonl", tiny.json_lines(*SHORT_AND_LONG))}],
        },
        training={
            "labelSmoothing": 0.3, "maxSteps": 1, "batchSize": 20, "microBatchSize": 3, "optimizer": "sgd",
            "learningRate": 0.1, "schedule": "constant", "warmupFraction": 0, "maxGradNorm": 1000, "maxLength": 32,
        },
        evaluation={"metrics": []},
    )  # fmt: skip
    assert ended.code == 0, ended.result.error
    model, tokenizer = (kind.from_pretrained(directories["t5"]) for kind in (AutoModelForSeq2SeqLM, AutoTokenizer))
    given = [dict(tokenizer(each["prompt"], text_target=each["completion"])) for each in SHORT_AND_LONG]
    batch = DataCollatorForSeq2Seq(tokenizer, model)(given)
    labels, logits = batch["labels"].flatten(), model.train()(**batch).logits.flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.3)
    assert s3.report(ended.location)["steps"][0]["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert ended.metric("eval_loss")[1] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item())
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    published = load_file(s3.fetch(ended.location, tmp_path / "published") / "model.safetensors")
    for name, weight in published.items():
        torch.testing.assert_close(weight, model.state_dict()[name], rtol=0, atol=1e-6, msg=name)


def test_bf16_is_measured_as_it_is_published(s3, trainer, uris, tmp_path):
    held_out = s3.put("data/held-out-t5.jsonl", tiny.json_lines(*tiny.PAIRS[:7]))
    train = trainer.data(tiny.json_lines(*tiny.PAIRS))["train"]
    ended = trainer.run(
        task=T2T,
        model={"uri": uris["t5"]},
        method={"adapter": "none"},
        data={"train": train, "validation": [{"uri": held_out}]},
        training=LEARN | {"precision": "bf16", "maxSteps": 20},
        evaluation={"metrics": []},
    )
    assert ended.code == 0, ended.result.error
    published = s3.fetch(ended.location, tmp_path / "published")
    model = AutoModelForSeq2SeqLM.from_pretrained(published).eval()
    assert model.dtype == torch.bfloat16
    tokenizer = AutoTokenizer.from_pretrained(published)
    loss = count = 0.0
    for pair in tiny.PAIRS[:7]:
        given = tokenizer(pair["prompt"], text_target=pair["completion"], return_tensors="pt")
        with torch.no_grad():
            loss += float(model(**given).loss) * given["labels"].numel()
        count += given["labels"].numel()
    assert ended.metric("eval_loss")[0] == pytest.approx(loss / count, rel=2e-2)


def test_by_default_translations_are_measured_by_their_words(trainer, uris):
    """Of the first records alone, since answers take long."""
    ended = trainer.run(
        task=T2T,
        model={"uri": uris["t5"]},
        training=LEARN | {"maxSteps": 1},
        evaluation={"maxNewTokens": 2, "generateRecords": 2},
    )
    assert ended.code == 0, ended.result.error
    names = [metric.name for metric in ended.result.metrics]
    assert names[3:] == ["bleu", "chrf", "rouge1", "rouge2", "rougeL"]


def test_chats_are_measured_by_their_last_answer_where_that_is_asked_for(trainer):
    ended = trainer.run(
        data=trainer.data(tiny.json_lines(*tiny.CHATS)),
        training={"maxSteps": 60, "learningRate": 1e-2, "maxLength": 64, "batchSize": 8},
        evaluation={"metrics": ["exact_match", "rougeL"], "maxNewTokens": 12},
    )
    assert ended.code == 0, ended.result.error
    assert ended.metric("exact_match") == (1.0, 0.0)
    assert ended.metric("rougeL")[0] == 1.0


@pytest.mark.parametrize(
    ("task", "content", "model", "code", "said"),
    [
        (
            T2T,
            tiny.json_lines(*({"prompt": [m["messages"][0]], "completion": [m["messages"][1]]} for m in tiny.CHATS)),
            "t5",
            ExitCode.DATA_INVALID,
            "line 1: prompt and completion are lists of messages, where text2text-generation expects two strings",
        ),
        (T2T, tiny.json_lines(*tiny.CHATS), "t5", ExitCode.DATA_INVALID, "Expected: prompt and completion"),
        (
            "text-generation",
            b"A text.\n\nAnother one.\n\nA third.\n",
            None,
            ExitCode.CONFIGURATION_INVALID,
            "spec.evaluation.metrics asks for bleu, which needs records that hold an answer",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_model_is_loaded(
    trainer, uris, monkeypatch, task, content, model, code, said
):
    monkeypatch.setattr("finetune_trainer.tuning.placement.load_model", lambda *_: pytest.fail("the model was loaded"))
    ended = trainer.run(
        task=task,
        data=trainer.data(content, name="train.txt" if content.startswith(b"A") else "train.jsonl", fraction=0.4),
        evaluation={"metrics": ["bleu"]},
        **({"model": {"uri": uris[model]}} if model else {}),
    )
    assert ended.code == code
    assert said in ended.message


@pytest.mark.parametrize(("task", "model"), [(T2T, None), ("text-generation", "t5")])
def test_a_model_of_another_architecture_is_refused_with_the_way_out(trainer, uris, task, model):
    ended = trainer.run(task=task, **({"model": {"uri": uris[model]}} if model else {}))
    assert ended.code == ExitCode.MODEL_INVALID
    assert f"spec.task is {task}, but {ended.config.model.uri} is a {'t5' if model else 'llama'}" in ended.message


def test_answers_are_measured_on_the_way_where_training_watches_them(s3, trainer, uris):
    ended = trainer.run(
        task=T2T,
        model={"uri": uris["t5"]},
        method={"adapter": "none"},
        training=LEARN | {"earlyStopping": {"metric": "exact_match", "patience": 1}},
        evaluation={"metrics": ["exact_match"], "maxNewTokens": 12, "everySteps": 20, "baseline": False},
    )
    assert ended.code == 0, ended.result.error
    assert ended.metric("exact_match")[0] == 1.0
    assert len(s3.report(ended.location)["steps"]) < 80
