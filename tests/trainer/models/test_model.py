"""Loading models and putting adapters on: what is refused, and with what words."""

import json
import re
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, GPT2Config, GPT2LMHeadModel

from finetune_api.run import ExitCode
from finetune_api.spec import Lora, Method
from finetune_trainer.errors import TrainerError, is_panic
from finetune_trainer.models import model as module
from finetune_trainer.models.adapter import put_on
from finetune_trainer.models.adapters import adapter_of
from finetune_trainer.models.head import LANGUAGE_MODEL, SEQUENCE_TO_SEQUENCE
from finetune_trainer.models.model import choose_precision, load_model, load_tokenizer
from finetune_trainer.models.modelfiles import ModelFiles
from tests import tiny


@pytest.fixture
def copy(model_directory, tmp_path):
    """A copy of the tiny model, to be broken."""
    return shutil.copytree(model_directory, tmp_path / "copy")


def load(directory, **method):
    frozen = Method(**method).adapter != "none"
    return load_model(ModelFiles(directory, name="the-base"), LANGUAGE_MODEL, frozen, "fp32")


def add_lora(model, settings, files):
    return put_on(model, adapter_of(Method(lora=settings)), LANGUAGE_MODEL, files)


def refused(directory) -> str:
    with pytest.raises(TrainerError) as caught:
        load(directory)
    assert caught.value.code is ExitCode.MODEL_INVALID
    return caught.value.message


def test_weights_that_are_missing_are_not_made_up(copy):
    weights = load_file(copy / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert "lack 1 tensors of its architecture, such as model.layers.1.mlp.up_proj.weight" in refused(copy)


def test_weights_that_a_reader_and_writer_lacks_are_told_as_such(tmp_path):
    """Its class has no body of the name that it says."""
    directory = tiny.save_reader_and_writer(tmp_path / "t5")
    weights = load_file(directory / "model.safetensors")
    del weights["decoder.final_layer_norm.weight"]
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainerError, match=r"lack 1 tensors of its architecture, such as decoder.final_layer_norm"):
        load_model(ModelFiles(directory, name="the-base"), SEQUENCE_TO_SEQUENCE, False, "fp32")


def test_weights_that_are_damaged_are_refused(copy):
    (copy / "model.safetensors").write_bytes(b"\x10" + b"\0" * 20)
    assert "model.safetensors of the-base is not a safetensors file" in refused(copy)


@pytest.mark.parametrize("setting", ["hidden_size", "vocab_size", "intermediate_size", "head_dim"])
def test_a_size_that_the_weights_do_not_have_is_refused_before_it_takes_memory(copy, setting):
    """Were a tensor of these sizes made, this would end in another way."""
    content = json.loads((copy / "config.json").read_bytes())
    (copy / "config.json").write_text(json.dumps(content | {setting: 10**9}))
    said = refused(copy)
    assert re.search(r"describes several times the 41,120 weights .* (Linear|Embedding)\.weight \[.*000000000", said)


def test_layers_that_the_files_do_not_have_are_not_made_up(copy):
    content = json.loads((copy / "config.json").read_bytes())
    (copy / "config.json").write_text(json.dumps(content | {"num_hidden_layers": 900}))
    assert "describes several times the 41,120 weights that its files hold" in refused(copy)
    (copy / "config.json").write_text(json.dumps(content | {"num_hidden_layers": 3}))
    assert "lack 9 tensors of its architecture, such as model.layers.2.input_layernorm.weight" in refused(copy)


def test_a_shape_that_differs_is_told_by_its_tensor(copy):
    content = json.loads((copy / "config.json").read_bytes())
    (copy / "config.json").write_text(json.dumps(content | {"num_key_value_heads": 1}))
    assert re.search(r"config\.json makes \S+k_proj\.weight \[16, 32\], its weights are \[32, 32\]", refused(copy))


def test_an_unknown_architecture_is_refused(copy):
    (copy / "config.json").write_text(json.dumps({"model_type": "of-tomorrow", "architectures": ["Tomorrow"]}))
    assert "of-tomorrow" in refused(copy)


def test_a_message_names_the_model_and_no_directory_of_the_pod(copy):
    (copy / "config.json").write_text("{}")
    said = refused(copy)
    assert "the-base" in said
    assert str(copy) not in said


def test_a_model_that_writes_no_text_is_refused(copy):
    (copy / "config.json").write_text(BertConfig(hidden_size=8, num_attention_heads=2).to_json_string())
    assert refused(copy).startswith("The ")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("tokenizer.json", b"{", "cannot be loaded"),
        ("tokenizer.json", b"", "cannot be loaded: Expecting value"),
        ("tokenizer.json", b"[]", "cannot be loaded"),
        ("tokenizer.json", b"[" * (20 << 20), "cannot be loaded: maximum recursion depth exceeded"),
        ("tokenizer.json", {"model": 5}, "cannot be loaded: data did not match any variant"),
        ("tokenizer.json", {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}}}, "cannot be loaded"),
        ("tokenizer_config.json", {"model_max_length": "long"}, "cannot be loaded: '>' not supported between"),
        ("tokenizer_config.json", {"eos_token": 5}, "cannot be loaded: Special token eos_token has to be either"),
        ("tokenizer_config.json", {"tokenizer_class": 5}, "cannot be loaded"),
        ("tokenizer_config.json", {"chat_template": 5}, "is a int and not a text"),
    ],
)
def test_a_tokenizer_that_cannot_be_read_is_refused(copy, name, content, said):
    (copy / "chat_template.jinja").unlink()
    if isinstance(content, dict):
        content = json.dumps(json.loads((copy / name).read_bytes()) | content).encode()
    (copy / name).write_bytes(content)
    with pytest.raises(TrainerError, match=r"The (tokenizer|chat template) of the-base") as caught:
        load_tokenizer(ModelFiles(copy, name="the-base"))
    assert caught.value.code is ExitCode.MODEL_INVALID
    assert said in caught.value.message
    assert str(copy) not in caught.value.message


def test_a_tokenizer_s_pattern_that_takes_too_many_steps_breaks_no_process(copy):
    content = json.loads((copy / "tokenizer.json").read_bytes())
    split = {"type": "Split", "pattern": {"Regex": r"(\w+\s?)+$"}, "behavior": "Isolated", "invert": False}
    (copy / "tokenizer.json").write_text(json.dumps(content | {"pre_tokenizer": split}))
    tokenizer = load_tokenizer(ModelFiles(copy, name="the-base"))
    begun = time.monotonic()
    with pytest.raises(BaseException, match="retry-limit-in-match over") as caught:
        tokenizer("word " * 1000 + "!")
    assert is_panic(caught.value)
    assert time.monotonic() - begun < 10


def test_memory_that_runs_out_in_a_tokenizer_is_no_fault_of_the_model(copy, monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(module.AutoTokenizer, "from_pretrained", fail)
    with pytest.raises(MemoryError):
        load_tokenizer(ModelFiles(copy, name="the-base"))


@pytest.mark.parametrize("number", [320, 10**6, 2**32 - 1])
def test_a_token_numbered_beyond_the_embeddings_is_refused(model_directory, copy, number):
    content = json.loads((copy / "tokenizer.json").read_bytes())
    taken = content["model"]["vocab"].popitem()[0]
    content["model"]["merges"] = [merge for merge in content["model"]["merges"] if "".join(merge) != taken]
    content["model"]["vocab"]["beyond"] = number
    (copy / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = load_tokenizer(ModelFiles(copy, name="the-base"))
    assert len(tokenizer) == 320
    with pytest.raises(TrainerError, match=f"gives the token 'beyond' the number {number}, but its model has only 320"):
        module.require_matching_vocabulary(load(model_directory), tokenizer, "the-base")


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(model_directory):
    other = tiny.tokenizer()
    grown = type(other)(tokenizer_object=other.backend_tokenizer, additional=[])
    grown.add_tokens([f"<extra {n}>" for n in range(400)])
    with pytest.raises(TrainerError, match=r"has \d+ tokens, but its model only 320 embeddings"):
        module.require_matching_vocabulary(load(model_directory), grown, "the-base")


def test_records_longer_than_the_model_has_positions_are_refused(model_directory):
    base = load(model_directory)
    module.require_length(base, 256, "the-base")
    with pytest.raises(TrainerError, match=r"Set spec.training.maxLength to 256 or less") as caught:
        module.require_length(base, 257, "the-base")
    assert caught.value.code is ExitCode.CONFIGURATION_INVALID


def test_lora_trains_all_linear_layers_but_the_head_and_nothing_else(model_directory):
    adapted = add_lora(load(model_directory), Lora(rank=4), ModelFiles(model_directory, "org/name", "abc"))
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name for name in trained)
    projections = {name.split(".")[-4] for name in trained}
    assert projections == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    config = adapted.peft_config["default"]
    assert (config.r, config.base_model_name_or_path, config.revision) == (4, "org/name", "abc")


def test_an_adapter_that_was_just_put_on_changes_nothing(model_directory):
    ids = torch.tensor([[5, 6, 7]])
    before = load(model_directory).eval()(ids).logits
    adapted = add_lora(load(model_directory), Lora(), ModelFiles(model_directory, "the-base")).eval()
    assert torch.equal(adapted(ids).logits, before)


def test_lora_takes_the_modules_that_are_named(model_directory):
    settings = Lora(target_modules=("q_proj", "layers.0.mlp.up_proj"))
    adapted = add_lora(load(model_directory), settings, ModelFiles(model_directory, "the-base"))
    trained = {
        name.split("model.layers.")[1].split(".lora_")[0]
        for name, p in adapted.named_parameters()
        if p.grad_fn or p.requires_grad
    }
    assert trained == {"0.self_attn.q_proj", "1.self_attn.q_proj", "0.mlp.up_proj"}


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (("q_proj", "query"), "names query, which the model does not have"),
        (("input_layernorm",), "cannot be put on the-base"),
    ],
)
def test_modules_that_cannot_be_adapted_are_named_with_those_that_can(model_directory, targets, said):
    with pytest.raises(TrainerError) as caught:
        add_lora(load(model_directory), Lora(target_modules=targets), ModelFiles(model_directory, "the-base"))
    assert caught.value.code is ExitCode.CONFIGURATION_INVALID
    assert said in caught.value.message
    assert "down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj" in caught.value.message


def test_lora_fits_architectures_with_other_layers_too():
    gpt2 = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=16, n_positions=8))
    adapted = add_lora(gpt2, Lora(rank=2), ModelFiles(directory=None, name="gpt2"))
    assert any(parameter.requires_grad for parameter in adapted.parameters())


@pytest.mark.parametrize(
    ("gpu", "bf16", "setting", "chosen"),
    [
        (False, False, "auto", "fp32"),
        (True, False, "auto", "fp32"),
        (True, True, "auto", "bf16"),
        (True, True, "fp32", "fp32"),
        (False, False, "bf16", "bf16"),
    ],
)
def test_the_precision_is_chosen_by_the_machine(monkeypatch, gpu, bf16, setting, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bf16)
    assert choose_precision(setting) == chosen


@pytest.mark.parametrize(
    ("adapter", "precision", "held"),
    [("lora", "bf16", torch.bfloat16), ("none", "bf16", torch.float32), ("lora", "fp32", torch.float32)],
)
def test_only_frozen_weights_are_held_in_bf16(model_directory, adapter, precision, held):
    loaded = load_model(ModelFiles(model_directory, "the-base"), LANGUAGE_MODEL, adapter != "none", precision)
    assert loaded.lm_head.weight.dtype is held
