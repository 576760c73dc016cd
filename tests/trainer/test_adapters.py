"""Whole runs with each adapter: what is told of them is what everybody measures who loads the result."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from finetune_api.run import ExitCode
from finetune_api.spec import Method, Training
from finetune_trainer.errors import TrainerError
from finetune_trainer.models.adapters import adapter_of
from finetune_trainer.models.head import LANGUAGE_MODEL
from finetune_trainer.models.modelfiles import ModelFiles
from finetune_trainer.training.memory import Fit
from finetune_trainer.tuning import beginning, placement
from finetune_trainer.tuning.placement import Subject, strategy_for
from tests import tiny
from tests.trainer.cards import load_by_card
from tests.trainer.test_resume import SigtermAfter, result, sigterm_asks, whole
from tests.trainer.test_runs import loss_of

HELD_OUT = tiny.PAIRS[:6]
METHODS = {
    "DoRA": ({"lora": {"rank": 4, "dora": True}}, 1e-2),
    "PiSSA": ({"lora": {"rank": 4, "initialization": "pissa"}}, 5e-3),
    "qlora": ({"adapter": "qlora", "lora": {"rank": 4}}, 1e-2),
    "ia3": ({"adapter": "ia3"}, 1e-1),
    "prompt": ({"adapter": "prompt", "prompt": {"virtualTokens": 6, "text": "say"}}, None),
    "prefix": ({"adapter": "prefix", "prefix": {"virtualTokens": 6}}, 1e-1),
}
WHOLE = ("qlora", "PiSSA", "prompt", "prefix")
NF4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)


def changes_of(name, s3, trainer, steps=16):
    """A run with little data, of which the six first records are held out."""
    method, rate = METHODS[name]
    validation = s3.put(f"data/{trainer.directory.name}/held-out.jsonl", tiny.json_lines(*HELD_OUT))
    train = trainer.data(tiny.json_lines(*tiny.PAIRS))["train"]
    training = {"maxSteps": steps, "maxLength": 64, "batchSize": 8} | ({"learningRate": rate} if rate else {})
    data = {"train": train, "validation": [{"uri": validation}]}
    return {"method": method, "training": training, "data": data}


def plain_base(directory, name):
    quantised = {"quantization_config": NF4} if name == "qlora" else {}
    model = AutoModelForCausalLM.from_pretrained(directory, **quantised).eval()
    for module in model.modules():
        module.support_avx512bf16_for_cpu = False  # tiny layers are not what bitsandbytes expects there
    return model


class Trimmed(torch.nn.Module):
    """A model that says nothing of what stands before a record: labels are then PEFT's to place."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, labels):
        return self.model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), labels=labels)


@pytest.mark.parametrize("name", METHODS)
def test_a_published_adapter_is_plain_peft_and_as_good_as_was_told(
    s3, trainer, model_directory, tmp_path, monkeypatch, name
):
    samples = {"samples": 1, "maxNewTokens": 4}
    ended = trainer.run(**changes_of(name, s3, trainer), evaluation=samples)
    assert ended.code == 0, ended.result.error
    directory = s3.fetch(ended.location, tmp_path / "this-directory")
    base = plain_base(model_directory, name)
    model, tokenizer = load_by_card(s3, ended.location, model_directory, tmp_path, monkeypatch)
    for module in model.modules():
        module.support_avx512bf16_for_cpu = False  # tiny layers are not what bitsandbytes expects there
    tuned, untouched = ended.metric("eval_loss")
    assert untouched == pytest.approx(loss_of(base, tokenizer, HELD_OUT), rel=1e-4)
    assert tuned < untouched - 0.5
    assert tuned == pytest.approx(loss_of(Trimmed(model), tokenizer, HELD_OUT), rel=1e-4)
    assert str(model_directory.parent) not in (directory / "adapter_config.json").read_text()
    ids = tokenizer(HELD_OUT[0]["prompt"], return_tensors="pt")
    with torch.no_grad():
        said = model.generate(**ids, max_new_tokens=4, do_sample=False, eos_token_id=2, pad_token_id=0)
    answer = tokenizer.decode(said[0, ids.input_ids.shape[1] :], skip_special_tokens=True)
    sample = s3.report(ended.location)["samples"][0]
    assert (sample["prompt"], sample["tuned"]) == (HELD_OUT[0]["prompt"], answer)


@pytest.mark.parametrize("name", METHODS)
def test_a_run_that_is_stopped_and_gone_on_with_ends_in_the_same_bits(s3, trainer, name):
    changes = changes_of(name, s3, trainer, steps=6)
    expected = whole(s3, trainer, **changes)
    with sigterm_asks() as stop:
        assert trainer.run(SigtermAfter(3), stop, **changes).code == ExitCode.PREEMPTED
    progress = SigtermAfter()
    ended = trainer.run(progress, **changes)
    assert (ended.code, progress.steps) == (0, [4, 5, 6]), ended.result.error
    assert result(s3, ended) == expected


@pytest.mark.parametrize("name", ["qlora", "PiSSA", "ia3"])
def test_a_merged_adapter_is_a_model_as_good_as_was_told(s3, trainer, tmp_path, name):
    ended = trainer.run(**changes_of(name, s3, trainer), mergeAdapter=True)
    assert ended.code == 0, ended.result.error
    published = ended.result.result
    assert (published.adapter_uri, published.rank, published.model_uri) == (None, None, ended.location)
    directory = s3.fetch(ended.location, tmp_path / "model")
    assert "adapter_config.json" not in s3.names(ended.location)
    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    assert model.dtype == torch.float32
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert ended.metric("eval_loss")[0] == pytest.approx(loss_of(model, tokenizer, HELD_OUT), rel=1e-4)
    assert "merged into `s3://team-a/models/tiny/`" in (directory / "README.md").read_text()


def test_a_prefix_is_not_trained_where_layers_would_have_to_be_computed_twice(trainer, monkeypatch):
    """They would be computed without it, and nothing would be said."""
    monkeypatch.setattr(beginning, "find_fit", lambda *_: Fit(64, recompute=True))
    ended = trainer.run(method={"adapter": "prefix"}, training={"maxSteps": 1, "maxLength": 64})
    assert ended.code == ExitCode.CONFIGURATION_INVALID
    assert "Set it to never, and spec.training.maxLength lower" in ended.message


def test_a_base_that_virtual_tokens_cannot_be_put_before_is_refused_before_training(trainer, monkeypatch):
    def fails(*_):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(beginning, "find_fit", fails)
    ended = trainer.run(method={"adapter": "prompt"}, training={"maxSteps": 1, "maxLength": 64})
    assert ended.code == ExitCode.CONFIGURATION_INVALID
    assert "cannot be given virtual tokens: shapes do not match. Set spec.method.adapter to lora" in ended.message


@pytest.mark.parametrize(("name", "shards"), [("DoRA", True), ("ia3", True), *((n, False) for n in WHOLE)])
def test_what_needs_whole_weights_is_refused_where_a_gpu_has_a_share(model_directory, monkeypatch, name, shards):
    monkeypatch.setattr(placement, "device_memory", lambda _: 1)
    method = Method.model_validate(METHODS[name][0])
    subject = Subject(ModelFiles(model_directory, "the-base"), LANGUAGE_MODEL, adapter_of(method), "bf16")
    config: Any = SimpleNamespace(method=method, training=Training())
    ranks: Any = SimpleNamespace(alone=False, local_count=2, count=2)
    if shards:
        assert strategy_for(config, subject, ranks) == "fsdp2"
    else:
        with pytest.raises(TrainerError, match="needs whole weights, but the-base is so large"):
            strategy_for(config, subject, ranks)


def test_virtual_tokens_take_positions(trainer):
    method = {"adapter": "prompt", "prompt": {"virtualTokens": 250}}
    ended = trainer.run(method=method, training={"maxSteps": 1, "maxLength": 64})
    assert ended.code == ExitCode.CONFIGURATION_INVALID
    assert "256 positions, of which 250 are for virtual tokens. Set spec.training.maxLength to 6" in ended.message
