"""What is refused of an adapter's files before a library reads them, and of one that does not fit its base."""

import json
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from finetune_api.run import AdapterLocation, Combination, ExitCode
from finetune_api.spec import Method
from finetune_trainer.errors import TrainerError
from finetune_trainer.models.adapter import put_on
from finetune_trainer.models.adapterfiles import CONFIG, TOKENIZER, WEIGHTS, _looked_at, require_combinable
from finetune_trainer.models.chain import PublishedAdapter, require_same_tokenizer, stacked
from finetune_trainer.models.head import LANGUAGE_MODEL, Head
from finetune_trainer.models.lora import LoraAdapter
from finetune_trainer.models.model import load_tokenizer
from finetune_trainer.models.modelfiles import ModelFiles
from tests import tiny

AT = AdapterLocation(uri="s3://b/a/", digest="sha256:a", job="a")


@pytest.fixture
def directory(model_directory, tmp_path):
    """A LoRA adapter as PEFT saves it, with weights that are not zero."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(model_directory)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    tiny.tokenizer().save_pretrained(tmp_path / "adapter")
    for path in (tmp_path / "adapter").iterdir():
        if path.name not in (CONFIG, WEIGHTS, TOKENIZER):
            path.unlink()
    return tmp_path / "adapter"


@pytest.fixture
def files(model_directory, directory):
    return ModelFiles(model_directory, "s3://b/base/", adapters=(_looked_at(AT, "s3://b/a/", directory),))


def change(directory, **settings):
    content = json.loads((directory / CONFIG).read_bytes())
    (directory / CONFIG).write_text(json.dumps(content | settings))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"peft_type": "BOFT"}, "says peft_type BOFT, where LORA"),
        ({"megatron_config": {"a": 1}}, "says megatron_config, which is never followed"),
        ({"layer_replication": [[0, 9]]}, "says layer_replication"),
        ({"auto_map": {"x": "y.Z"}}, "brings its own Python code"),
        ({"target_modules": "(a+)+b"}, "says target_modules (a+)+b: expected are names"),
        ({"r": 10**9}, "says r 1000000000"),
        ({"lora_alpha": 10**9}, "says lora_alpha"),
        ({"r": -1}, "says r -1"),
    ],
)
def test_a_configuration_that_could_do_harm_is_refused(directory, settings, said):
    change(directory, **settings)
    with pytest.raises(TrainerError) as refused:
        _looked_at(AT, "s3://b/a/", directory)
    assert refused.value.code == ExitCode.MODEL_INVALID
    assert said in refused.value.message


def test_pickled_weights_under_another_name_and_links_are_refused(directory):
    whole = (directory / WEIGHTS).read_bytes()
    (directory / WEIGHTS).write_bytes(b"\x80\x04pickle")
    with pytest.raises(TrainerError, match="is not a safetensors file but a pickle"):
        _looked_at(AT, "s3://b/a/", directory)
    (directory / WEIGHTS).unlink()
    (directory.parent / "elsewhere").write_bytes(whole)
    (directory / WEIGHTS).symlink_to(directory.parent / "elsewhere")
    with pytest.raises(TrainerError, match="leads elsewhere"):
        _looked_at(AT, "s3://b/a/", directory)


def load(files, head=LANGUAGE_MODEL):
    base = AutoModelForCausalLM.from_pretrained(files.directory)
    return put_on(base, PublishedAdapter(LoraAdapter(Method()), files.adapters), head, files)


def refusal(files, head: Head = LANGUAGE_MODEL) -> str:
    with pytest.raises(TrainerError) as refused:
        load(files, head)
    assert refused.value.code == ExitCode.MODEL_INVALID
    return refused.value.message


def test_the_weights_are_those_of_the_file_and_are_trained(files):
    model = load(files)
    there = load_file(files.adapters[0].directory / WEIGHTS)
    trained = {name.replace(".default", ""): p for name, p in model.named_parameters() if p.requires_grad}
    assert trained.keys() == there.keys()
    assert all(torch.equal(trained[name], tensor) for name, tensor in there.items())


def test_a_merged_adapter_is_the_product_of_its_matrices(files):
    base = AutoModelForCausalLM.from_pretrained(files.directory)
    name = "model.layers.0.self_attn.q_proj.weight"
    before = base.get_parameter(name).detach().clone()
    merged = stacked(base, replace(files, stack=files.adapters), LANGUAGE_MODEL)
    there = load_file(files.adapters[0].directory / WEIGHTS)
    a, b = (there[f"base_model.model.{name.replace('weight', f'lora_{part}.weight')}"] for part in "AB")
    assert torch.allclose(merged.get_parameter(name), before + (8 / 4) * b @ a, atol=1e-6)  # PEFT's alpha is 8
    assert all(parameter.requires_grad for parameter in merged.parameters())


@pytest.mark.parametrize("what", ["more", "less", "larger"])
def test_weights_that_do_not_fit_the_model_are_refused(files, directory, what):
    there = load_file(directory / WEIGHTS)
    name = min(there)
    if what == "more":
        there[name.replace("layers.0", "layers.7")] = there[name].clone()
    elif what == "less":
        del there[name]
    else:
        there[name] = torch.cat([there[name], there[name]], dim=1)
    save_file(there, directory / WEIGHTS)
    said = {"more": "the model has no place for", "less": "it lacks", "larger": "is [4, 64] there and [4, 32] here"}
    assert said[what] in refusal(files)


def test_an_adapter_for_another_task_is_refused(files):
    head = Head("AutoModelForSequenceClassification", "SEQ_CLS", "a text classifier")
    said = refusal(files, head)
    assert "was made for CAUSAL_LM, and spec.task wants a text classifier" in said
    assert "output.mergeAdapter" in said


def test_another_tokenizer_is_refused(files, directory):
    tokenizer = load_tokenizer(files)
    require_same_tokenizer(tokenizer, files)
    other = tiny.tokenizer(text=("Something else altogether, with other words.",))
    other.backend_tokenizer.save(str(directory / TOKENIZER))
    with pytest.raises(TrainerError) as refused:
        require_same_tokenizer(tokenizer, files)
    assert "was trained with another tokenizer than s3://b/base/ has: the token" in refused.value.message


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"use_dora": True}, "is weight-decomposed"),
        ({"modules_to_save": ["classifier"]}, "has a head of its own"),
        ({"task_type": "SEQ_CLS"}, "has task_type CAUSAL_LM, that of b has SEQ_CLS"),
        ({"r": 8}, "has r 4, that of b has 8"),
        ({"target_modules": ["k_proj"]}, "has target_modules q_proj, v_proj, that of b has k_proj"),
    ],
)
def test_what_cannot_be_combined_is_told(files, settings, said):
    (one,) = files.adapters
    other = replace(one, job="b", config={**one.config, **settings})
    with pytest.raises(TrainerError) as refused:
        require_combinable((one, other), Combination(method="linear"))
    assert said in refused.value.message
