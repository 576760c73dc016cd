"""Whole runs, from a run file to a published result, in this process."""

import hashlib
import json

import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_api.run import ExitCode
from finetune_trainer.models import fetch
from finetune_trainer.models.modelfiles import ModelFiles
from finetune_trainer.storage.manifest import Manifest
from finetune_trainer.training.divergence import LossWatch
from tests import tiny
from tests.trainer.cards import load_by_card

LEARN = {"maxSteps": 60, "learningRate": 1e-2, "maxLength": 64, "batchSize": 8}


def loss_of(model, tokenizer, pairs) -> float:
    """Mean loss over the completions' tokens, by nothing but transformers."""
    total, count = 0.0, 0
    for pair in pairs:
        prompt = tokenizer(pair["prompt"], return_tensors="pt").input_ids
        whole = tokenizer(pair["prompt"] + pair["completion"] + "<|im_end|>", return_tensors="pt").input_ids
        labels = whole.clone()
        labels[:, : prompt.shape[1]] = -100
        learned = whole.shape[1] - prompt.shape[1]
        with torch.no_grad():
            total += model(input_ids=whole, labels=labels).loss.item() * learned
        count += learned
    return total / count


@pytest.mark.parametrize(
    ("method", "records"),
    [
        ({"adapter": "lora"}, tiny.PAIRS),
        ({"adapter": "lora", "lora": {"rank": 8}}, tiny.CHATS),
        ({"adapter": "none"}, tiny.PAIRS),
        ({"adapter": "none"}, tiny.CHATS),
    ],
)
def test_a_model_learns_to_answer(s3, trainer, method, records):
    """The answers are right word by word, which a mask or a shift that is off by one would not bring about."""
    ended = trainer.run(
        method=method,
        data=trainer.data(tiny.json_lines(*records)),
        training=LEARN,
        evaluation={"samples": 3, "maxNewTokens": 12},
    )
    assert ended.code == 0, ended.result.error
    accuracy, base_accuracy = ended.metric("token_accuracy")
    assert (accuracy, base_accuracy < 0.2) == (1.0, True)
    loss, base_loss = ended.metric("eval_loss")
    assert loss < base_loss
    samples = s3.report(ended.location)["samples"]
    assert len(samples) == 3
    for sample in samples:
        assert sample["tuned"].strip() == sample["reference"].strip()
        assert sample["base"].strip() != sample["reference"].strip()


def test_a_published_adapter_is_plain_peft_and_as_good_as_was_told(s3, trainer, model_directory, tmp_path):
    validation = s3.put("data/held-out.jsonl", tiny.json_lines(*tiny.PAIRS[:7]))
    train = trainer.data(tiny.json_lines(*tiny.PAIRS))["train"]
    ended = trainer.run(data={"train": train, "validation": [{"uri": validation}]}, training=LEARN)
    directory = s3.fetch(ended.location, tmp_path / "adapter")
    tokenizer = AutoTokenizer.from_pretrained(directory)
    base = AutoModelForCausalLM.from_pretrained(model_directory).eval()
    tuned, untouched = ended.metric("eval_loss")
    assert untouched == pytest.approx(loss_of(base, tokenizer, tiny.PAIRS[:7]), rel=1e-4)
    model = PeftModel.from_pretrained(base, directory).eval()
    assert tuned == pytest.approx(loss_of(model, tokenizer, tiny.PAIRS[:7]), rel=1e-4)
    assert json.loads((directory / "adapter_config.json").read_bytes())["base_model_name_or_path"] == trainer.model_uri
    assert ended.result.result.rank == 16


def test_a_published_model_is_a_base_for_the_next_job(s3, trainer, tmp_path):
    first = trainer.run(method={"adapter": "none"}, training=LEARN)
    directory = s3.fetch(first.location, tmp_path / "model")
    tokenizer, model = AutoTokenizer.from_pretrained(directory), AutoModelForCausalLM.from_pretrained(directory)
    assert loss_of(model, tokenizer, tiny.PAIRS[:5]) < first.metric("eval_loss")[1]
    second = trainer.run(
        model={"uri": first.location, "origin": "job://first", "digest": first.result.result.digest},
        outputPrefix=f"{first.config.output_prefix}next/",
    )
    assert second.code == 0, second.result.error
    assert second.result.result.base_model == "job://first"
    assert second.metric("eval_loss")[1] == pytest.approx(first.metric("eval_loss")[0], rel=1e-5)


def test_equal_runs_end_in_equal_weights_to_the_bit(s3, trainer):
    method = {"lora": {"rank": 4, "dropout": 0.1}}
    digests = set()
    for attempt in range(2):
        prefix = f"s3://team-a/equal/{attempt}/"
        ended = trainer.run(method=method, attempt=attempt, outputPrefix=prefix)
        digests.add(hashlib.sha256(s3.get(f"{ended.location}adapter_model.safetensors")).hexdigest())
    assert len(digests) == 1


def test_another_seed_ends_in_other_weights(s3, trainer):
    digests = set()
    for seed in range(2):
        training = {"maxSteps": 2, "maxLength": 64, "seed": seed}
        ended = trainer.run(training=training, outputPrefix=f"s3://team-a/seed/{seed}/")
        digests.add(hashlib.sha256(s3.get(f"{ended.location}adapter_model.safetensors")).hexdigest())
    assert len(digests) == 2


def test_micro_batches_change_nothing_but_memory(s3, trainer):
    weights = []
    for micro in (1, 3, 16):
        training = {"maxSteps": 4, "learningRate": 1e-3, "maxLength": 64, "microBatchSize": micro}
        prefix = f"s3://team-a/micro/{micro}/"
        ended = trainer.run(method={"adapter": "none"}, training=training, outputPrefix=prefix)
        path = s3.fetch(ended.location, trainer.directory / f"micro-{micro}") / "model.safetensors"
        weights.append(load_file(path))
    for other in weights[1:]:
        for name, tensor in weights[0].items():
            torch.testing.assert_close(other[name], tensor, rtol=0, atol=2e-5)


@pytest.mark.parametrize("adapter", ["lora", "none"])
def test_bf16_is_measured_as_it_is_published(s3, trainer, model_directory, tmp_path, adapter):
    validation = s3.put("data/held-out.jsonl", tiny.json_lines(*tiny.PAIRS[:7]))
    train = trainer.data(tiny.json_lines(*tiny.PAIRS))["train"]
    ended = trainer.run(
        method={"adapter": adapter},
        data={"train": train, "validation": [{"uri": validation}]},
        training=LEARN | {"precision": "bf16"},
    )
    assert ended.code == 0, ended.result.error
    directory = s3.fetch(ended.location, tmp_path / "result")
    (weights,) = directory.glob("*.safetensors")
    kinds = {tensor.dtype for tensor in load_file(weights).values()}
    assert kinds == {torch.float32 if adapter == "lora" else torch.bfloat16}
    if adapter == "none":
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16)
    else:
        base = AutoModelForCausalLM.from_pretrained(model_directory, dtype=torch.bfloat16)
        model = PeftModel.from_pretrained(base, directory)
    loss = loss_of(model.eval(), AutoTokenizer.from_pretrained(directory), tiny.PAIRS[:7])
    assert ended.metric("eval_loss")[0] == pytest.approx(loss, rel=2e-2)


def test_raw_text_trains_a_base(s3, trainer):
    documents = [f"The capital of country {n} is town {n}. " * 12 for n in range(12)]
    ended = trainer.run(
        method={"adapter": "none"},
        data=trainer.data("\n\n".join(documents).encode(), name="book.txt", fraction=0.25),
        training=LEARN | {"maxSteps": 20},
        evaluation={"samples": 1, "maxNewTokens": 4, "baseline": False},
    )
    assert ended.code == 0, ended.result.error
    assert ended.metric("eval_loss")[1] is None
    assert ended.result.result.adapter_uri is None
    report = s3.report(ended.location)
    assert report["data"][0]["records"] == 12
    assert report["sequences"]["train"] > 9  # long documents were cut into blocks
    assert report["samples"][0]["base"] is None
    assert documents[0].startswith(report["samples"][0]["prompt"][:12])


def test_the_report_and_the_model_card_tell_how_the_result_came_about(
    s3, trainer, model_directory, tmp_path, monkeypatch
):
    commit = "0123456789abcdef0123456789abcdef01234567"
    local = fetch.fetch_model
    monkeypatch.setattr(
        fetch,
        "fetch_model",
        lambda location, store, directory: ModelFiles(
            local(location.model_copy(update={"uri": trainer.model_uri}), store, directory).directory,
            name="org/tiny",
            revision=commit,
        ),
    )
    ended = trainer.run(model={"uri": "hf://org/tiny", "revision": "main"})
    assert ended.code == 0, ended.result.error
    directory = s3.fetch(ended.location, tmp_path / "adapter")
    card = ModelCard.load(directory / "README.md")
    assert (card.data.base_model, card.data.library_name, card.data.pipeline_tag) == (
        "org/tiny",
        "peft",
        "text-generation",
    )
    (data,) = Manifest.model_validate_json(s3.get(f"{ended.config.output_prefix}manifest.json")).data
    tuned, base = ended.metric("eval_loss")
    measured = f"| eval_loss | {base:.4f} | {tuned:.4f} |"
    for told in (commit, data.sha256, "| learningRate | 0.01 |", measured, "| torch |"):
        assert told in card.content
    assert ended.result.result.revision == commit
    assert "from peft import AutoPeftModelForCausalLM" in card.content
    place = tmp_path / "elsewhere"
    place.mkdir()
    model, tokenizer = load_by_card(s3, ended.location, model_directory, place, monkeypatch, "org/tiny")
    ids = tokenizer("say 3", return_tensors="pt").input_ids
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_directory), directory).eval()
    torch.testing.assert_close(model(ids).logits, plain(ids).logits)
    assert json.loads((directory / "adapter_config.json").read_bytes())["revision"] == commit
    report = json.loads((directory / "report.json").read_bytes())
    assert [step["step"] for step in report["steps"]] == [1, 2, 3]
    assert report["hyperparameters"]["lora.rank"] == 16
    assert report["run"]["job"]["name"] == "tune"
    assert ended.result.usage.trained_tokens == sum(step["tokens"] for step in report["steps"])


@pytest.mark.parametrize("adapter", ["lora", "none"])
def test_the_code_in_the_model_card_loads_the_result(s3, trainer, model_directory, tmp_path, monkeypatch, adapter):
    ended = trainer.run(method={"adapter": adapter})
    model, _ = load_by_card(s3, ended.location, model_directory, tmp_path, monkeypatch)
    assert type(model).__name__.startswith("Peft" if adapter == "lora" else "Llama")


def test_what_another_pod_has_published_is_taken_over_without_training(s3, trainer):
    first = trainer.run()
    before = s3.names(first.config.output_prefix)
    again = trainer.run(model={"uri": "s3://team-a/models/gone/"})
    assert (again.code, again.result) == (0, first.result)
    assert s3.names(first.config.output_prefix) == before


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"content": b""}, ExitCode.DATA_INVALID, "holds no record"),
        ({"content": b'{"text": "a"}\n{"text": \n'}, ExitCode.DATA_INVALID, "line 2: broken JSON"),
        ({"content": b'{"text": "one"}\n'}, ExitCode.DATA_INVALID, "of 1 record(s) leaves 0 to measure with and 1"),
        ({"model": {"uri": "s3://team-a/models/none/"}}, ExitCode.MODEL_INVALID, "holds no model"),
        ({"model": {"uri": "s3://team-b/models/tiny/"}}, ExitCode.STORAGE_REFUSED, "The bucket does not exist"),
        ({"outputPrefix": "s3://team-b/out/"}, ExitCode.STORAGE_REFUSED, "The bucket does not exist"),
        ({"key": "s3://team-a/none.jsonl"}, ExitCode.STORAGE_REFUSED, "The object does not exist"),
        ({"storage": {"endpointUrl": "http://127.0.0.1:9"}}, ExitCode.STORAGE_UNAVAILABLE, "could not be reached"),
        (
            {"method": {"lora": {"targetModules": ["query"]}}},
            ExitCode.CONFIGURATION_INVALID,
            "spec.method.lora.targetModules names query",
        ),
        ({"training": {"maxLength": 8}}, ExitCode.DATA_INVALID, "has anything to learn within its first 8 tokens"),
    ],
)
def test_a_users_mistake_ends_with_its_reason_and_publishes_nothing(s3, trainer, changes, code, said):
    changes = dict(changes)
    content = changes.pop("content", tiny.json_lines({"prompt": "a " * 10, "completion": "b"}) * 10)
    data = trainer.data(content)
    if key := changes.pop("key", None):
        data["train"] = [{"uri": key}]
    ended = trainer.run(data=data, **changes)
    assert (ended.code, ended.result.error.reason) == (code, code.reason), ended.message
    assert said in ended.message
    assert "Traceback" not in ended.message
    assert s3.names(trainer.config().output_prefix) == []


def test_a_model_without_safetensors_is_never_loaded(s3, trainer, model_directory):
    uri = s3.put_directory("models/pickled", model_directory, without=("model.safetensors",))
    s3.put("models/pickled/pytorch_model.bin", b"cos\nsystem\n(S'false'\ntR.")
    ended = trainer.run(model={"uri": uri})
    assert ended.code == ExitCode.MODEL_INVALID
    assert "only pickled weights (pytorch_model.bin)" in ended.message


def test_a_base_whose_weights_are_broken_is_told_from_a_training_that_diverged(s3, trainer, model_directory, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(model_directory)
    with torch.no_grad():
        model.lm_head.weight[5] = float("nan")
    model.save_pretrained(tmp_path / "nan")
    s3.put_directory("models/nan", model_directory, without=("model.safetensors",))
    ended = trainer.run(model={"uri": s3.put_directory("models/nan", tmp_path / "nan")})
    assert ended.code == ExitCode.MODEL_INVALID
    assert "has no finite loss on the validation records" in ended.message
    ended = trainer.run(model={"uri": "s3://team-a/models/nan/"}, evaluation={"baseline": False})
    assert ended.code == ExitCode.DIVERGED
    assert "The loss became nan at step 1" in ended.message
    assert s3.names(ended.config.output_prefix) == []


def test_a_run_that_diverges_once_goes_back_and_on_with_half_the_rate_to_its_end(s3, trainer, monkeypatch):
    """Its ninth loss is no number, the first time it is computed."""
    calls, judge = [], LossWatch.fault

    def fault(watch, loss, norm):
        calls.append(loss)
        return judge(watch, float("nan") if len(calls) == 9 else loss, norm)

    monkeypatch.setattr(LossWatch, "fault", fault)
    settings = {
        "training": {"maxSteps": 12, "learningRate": 1e-2, "schedule": "constant", "maxLength": 64, "batchSize": 8},
        "checkpoint": {"everySteps": 4},
        "onDivergence": "Rewind",
    }
    ended = trainer.run(**settings)
    assert ended.code == 0, ended.result.error
    steps = s3.report(ended.location)["steps"]
    assert [step["step"] for step in steps] == list(range(1, 13))
    assert {step["learning_rate"] for step in steps[8:]} == {5e-3}
    assert len(calls) == 13
    loss, base = ended.metric("eval_loss")
    assert loss < base
