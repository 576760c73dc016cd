"""Each adapter: that it is applied and trained, that nothing else is, and that PEFT alone makes the same of it."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from finetune_api.run import ExitCode
from finetune_api.spec import Method
from finetune_trainer.errors import TrainerError
from finetune_trainer.models.adapter import put_on, save_adapter
from finetune_trainer.models.adapters import ADAPTERS, adapter_of
from finetune_trainer.models.chain import PublishedAdapter
from finetune_trainer.models.head import LANGUAGE_MODEL, Head
from finetune_trainer.models.linear import speed_up
from finetune_trainer.models.merging import folded_layers, merged
from finetune_trainer.models.model import load_model
from finetune_trainer.models.modelfiles import AdapterFiles, ModelFiles
from finetune_trainer.models.parts import without_adapter
from tests import tiny

CLASSIFIER = Head("AutoModelForSequenceClassification", "SEQ_CLS", "a classifier", {"num_labels": 3}, whole=True)
VOCABULARY = 64
SMALL = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64}


def llama():
    config = LlamaConfig(**SMALL, num_hidden_layers=2, num_attention_heads=2, initializer_range=0.2)
    return LlamaForCausalLM(config), LANGUAGE_MODEL


def gpt2():
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=2, initializer_range=0.2)
    return GPT2LMHeadModel(config), LANGUAGE_MODEL


def bert():
    config = BertConfig(**SMALL, num_hidden_layers=2, num_attention_heads=2, num_labels=3, initializer_range=0.2)
    return BertForSequenceClassification(config), CLASSIFIER


METHODS = {
    "lora": {},
    "rsLoRA": {"lora": {"rankStabilized": True, "rank": 4}},
    "DoRA": {"lora": {"dora": True, "rank": 4}},
    "PiSSA": {"lora": {"initialization": "pissa", "rank": 4}},
    "PiSSA, stabilized, with dropout": {
        "lora": {"initialization": "pissa", "rank": 4, "rankStabilized": True, "dropout": 0.1}
    },
    "OLoRA": {"lora": {"initialization": "olora", "rank": 4, "alpha": 4}},
    "ia3": {"adapter": "ia3"},
    "prompt": {"adapter": "prompt", "prompt": {"virtualTokens": 5}},
    "prefix": {"adapter": "prefix", "prefix": {"virtualTokens": 5}},
}


def method_of(name):
    return Method.model_validate(METHODS[name])


def adapted(make, method, directory):
    """A model in files, with an adapter."""
    torch.manual_seed(0)
    model, head = make()
    model.save_pretrained(directory)
    files = ModelFiles(directory, "the-base")
    adapter = adapter_of(method)
    model = put_on(model, adapter, head, files)
    speed_up(model)
    return model, adapter, head, files


def batch(seed=1):
    ids = torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def train(model, steps=4, rate=3e-2):
    """A few steps that any change of the logits can be seen after; returns the losses."""
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    losses = []
    for _ in range(steps):
        logits = model(**batch()).logits.flatten(0, -2)
        loss = torch.nn.functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    return losses


@torch.no_grad()
def logits_of(model):
    return model.eval()(**batch(seed=2)).logits


@pytest.mark.parametrize(
    ("name", "make"),
    [(name, make) for name in METHODS for make in (llama, gpt2, bert) if make is not bert or name[0] != "p"],
)
def test_it_is_trained_and_nothing_else_and_plain_peft_makes_the_same_of_what_is_published(make, name, tmp_path):
    model, adapter, head, files = adapted(make, method_of(name), tmp_path / "base")
    plain = head.auto_class.from_pretrained(tmp_path / "base", **head.settings).eval()
    untouched = logits_of(plain)
    if not adapter.virtual_tokens:
        torch.testing.assert_close(logits_of(model), untouched, rtol=1e-4, atol=1e-4)
    else:
        torch.testing.assert_close(logits_of(without_adapter(model)), untouched, rtol=1e-5, atol=1e-5)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    losses = train(model)
    assert losses[-1] < losses[0]
    for parameter_name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[parameter_name]) is not parameter.requires_grad, parameter_name
    tuned = logits_of(model)
    assert (tuned - untouched).abs().max() > 1e-2
    save_adapter(model, adapter, tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(plain, tmp_path / "adapter")
    theirs = logits_of(loaded)
    if adapter.virtual_tokens and theirs.shape != tuned.shape:
        theirs = theirs[:, adapter.virtual_tokens :]
    torch.testing.assert_close(tuned, theirs, rtol=1e-4, atol=1e-4)
    assert adapter.rank == getattr(loaded.peft_config["default"], "r", None)
    if adapter.virtual_tokens:
        return
    torch.testing.assert_close(logits_of(merged(files, head, tmp_path / "adapter", model)), tuned, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "theirs"), [("PiSSA", "pissa"), ("OLoRA", "olora")])
def test_a_decomposed_weight_is_trained_as_by_peft_which_takes_the_base_apart(name, theirs, tmp_path):
    model, *_ = adapted(llama, method_of(name), tmp_path / "base")
    base = LlamaForCausalLM.from_pretrained(tmp_path / "base")
    lora = method_of(name).lora
    config = LoraConfig(r=4, lora_alpha=lora.alpha, init_lora_weights=theirs, target_modules="all-linear")
    peers = get_peft_model(base, config)
    assert train(model, 6, 3e-3) == pytest.approx(train(peers, 6, 3e-3), rel=1e-4)
    torch.testing.assert_close(logits_of(model), logits_of(peers), rtol=1e-3, atol=1e-3)
    plain = get_peft_model(LlamaForCausalLM.from_pretrained(tmp_path / "base"), LoraConfig(r=4, lora_alpha=lora.alpha))
    assert (logits_of(model) - logits_of(plain)).abs().max() > 1e-2


def test_a_rank_stabilized_update_counts_alpha_by_the_root_of_the_rank(tmp_path):
    model, *_ = adapted(llama, method_of("rsLoRA"), tmp_path)
    assert model.base_model.model.model.layers[0].self_attn.q_proj.scaling["default"] == 32 / 4**0.5


@pytest.mark.parametrize("name", ["prompt", "prefix"])
@pytest.mark.parametrize("make", [llama, gpt2])
def test_what_stands_before_a_record_moves_none_of_its_logits(make, name, tmp_path):
    """The loss is PEFT's own, which gets labels and no logits from us; a record's is the same beside a longer one."""
    model, *_ = adapted(make, method_of(name), tmp_path)
    train(model)
    given = batch()
    said = model(**given).logits
    assert said.shape[1] == 9
    labels = given["input_ids"].clone()
    ours = torch.nn.functional.cross_entropy(said[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    labels[:, 0] = -100  # of which PEFT has virtual tokens learn
    assert ours.item() == pytest.approx(model(**given, labels=labels).loss.item(), rel=1e-5)
    short = model(input_ids=given["input_ids"][1:, :6], attention_mask=torch.ones(1, 6).long()).logits
    given["attention_mask"][1, 6:] = 0
    torch.testing.assert_close(model(**given).logits[1:, :6], short, rtol=1e-4, atol=1e-4)


def test_a_text_is_what_virtual_tokens_start_from(model_directory):
    method = Method.model_validate({"adapter": "prompt", "prompt": {"virtualTokens": 7, "text": "Paris is red."}})
    base = LlamaForCausalLM.from_pretrained(model_directory)
    tokens = tiny.tokenizer()("Paris is red.").input_ids
    rows = base.get_input_embeddings().weight[(tokens * 7)[:7]].detach().clone()
    model = put_on(base, adapter_of(method), LANGUAGE_MODEL, ModelFiles(model_directory, "the-base"))
    assert torch.equal(model.prompt_encoder.default.embedding.weight, rows)
    assert str(model_directory) not in str(model.peft_config["default"].to_dict())


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"lora": {"targetModules": ["query"]}}, "spec.method.lora.targetModules names query, .* It has: .*q_proj"),
        ({"lora": {"targetModules": ["norm"]}}, "cannot be put on the-base: .* Correct spec.method.lora.targetModules"),
        ({"adapter": "ia3", "ia3": {"targetModules": ["k"]}}, "spec.method.ia3.targetModules names k"),
    ],
)
def test_modules_that_are_not_there_or_cannot_be_adapted_are_refused(method, said):
    with pytest.raises(TrainerError, match=said) as refusal:
        put_on(llama()[0], adapter_of(Method.model_validate(method)), LANGUAGE_MODEL, ModelFiles(None, "the-base"))
    assert refusal.value.code == ExitCode.CONFIGURATION_INVALID


def test_ia3_wants_to_be_told_its_modules_where_the_architecture_is_unknown():
    model = llama()[0]
    model.config.model_type = "novel"
    with pytest.raises(TrainerError, match=r"ia3.targetModules .*ia3.feedforwardModules. It has: down_proj, .*q_proj"):
        put_on(model, adapter_of(Method(adapter="ia3")), LANGUAGE_MODEL, ModelFiles(None, "the-base"))
    settings = {"targetModules": ["k_proj", "v_proj", "down_proj"], "feedforwardModules": ["down_proj"]}
    method = Method.model_validate({"adapter": "ia3", "ia3": settings})
    given = put_on(model, adapter_of(method), LANGUAGE_MODEL, ModelFiles(None, "the-base"))
    usual = put_on(llama()[0], adapter_of(Method(adapter="ia3")), LANGUAGE_MODEL, ModelFiles(None, "the-base"))
    assert [n for n, p in given.named_parameters() if p.requires_grad] == [
        n for n, p in usual.named_parameters() if p.requires_grad
    ]


@pytest.mark.parametrize("name", ADAPTERS)
def test_one_that_is_gone_on_with_is_held_to_what_a_new_one_is(name, tmp_path):
    new = adapter_of(Method(adapter=name))
    old = PublishedAdapter(new, [AdapterFiles(tmp_path, "s3://a/", "sha256:0", "a", 1.0, {})])
    for can in ("shards", "recomputes", "quantized", "virtual_tokens", "rate", "kind"):
        assert getattr(old, can) == getattr(new, can), can


def gpt2_classifier():
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=2, num_labels=3, pad_token_id=0)
    return GPT2ForSequenceClassification(config), CLASSIFIER


def test_behind_a_prompt_a_decoders_head_would_read_padding(tmp_path):
    """An encoder's reads the first token, and a prefix moves no token."""
    with pytest.raises(TrainerError, match="prompt does not go with the-base, a decoder with the head of a classifier"):
        adapted(gpt2_classifier, method_of("prompt"), tmp_path)
    for make, name in ((bert, "prompt"), (gpt2_classifier, "prefix")):
        adapted(make, method_of(name), tmp_path)


def test_every_adapter_of_the_contract_is_there():
    assert {*ADAPTERS, "none"} == set(Method.model_fields["adapter"].annotation.__args__)


# In 4 bits ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folded(tmp_path):
    """Makes a Llama in files, loaded in 4 bits, with an adapter."""

    def make(lora=None, precision="fp32", sped_up=True):
        torch.manual_seed(0)
        llama()[0].save_pretrained(tmp_path / "base")
        files, adapter = ModelFiles(tmp_path / "base", "the-base"), adapter_of(Method(adapter="qlora", lora=lora))
        base = load_model(files, LANGUAGE_MODEL, True, precision, quantized=True)
        torch.manual_seed(0)
        model = put_on(base, adapter, LANGUAGE_MODEL, files)
        if sped_up:
            speed_up(model)
        return model, adapter, files

    return make


def gradients(model):
    model.train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    model(**batch()).logits.square().mean().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("lora", [None, {"dora": True, "rank": 4}], ids=["LoRA", "DoRA"])
def test_beside_a_base_in_4_bits_gradients_are_those_of_peft_and_bitsandbytes(folded, lora):
    lora = Method.model_validate({"lora": lora}).lora if lora else None
    torch.testing.assert_close(
        gradients(folded(lora)[0]), gradients(folded(lora, sped_up=False)[0]), rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_base_in_4_bits_stays_as_it_is_measured_trained_and_loaded_by_peft(folded, precision, tmp_path):
    model, adapter, files = folded(precision=precision)
    layers = folded_layers(model)
    assert {name.rpartition(".")[2] for name in layers} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    assert {layer.weight.dtype for layer in layers.values()} == {dtype}  # FSDP2 shards numbers, and no bytes
    bits = {name: layer.weight.detach().clone().view(torch.uint8) for name, layer in layers.items()}
    untouched = logits_of(model)  # without gradients: bitsandbytes would lay its bits out anew
    losses = train(model)
    assert losses[-1] < losses[0]
    for name, layer in layers.items():
        assert torch.equal(layer.weight.view(torch.uint8), bits[name])
    tuned = logits_of(model)
    assert (tuned - untouched).abs().max() > 1e-2
    save_adapter(model, adapter, tmp_path / "adapter")
    base = load_model(files, LANGUAGE_MODEL, True, precision, quantized=True)
    theirs = logits_of(PeftModel.from_pretrained(base, tmp_path / "adapter"))
    assert (tuned - theirs).abs().mean() < (1e-5 if precision == "fp32" else 3e-2)


def test_what_was_trained_beside_4_bits_is_merged_into_what_they_stand_for(folded, tmp_path):
    model, adapter, files = folded()
    train(model)
    save_adapter(model, adapter, tmp_path / "adapter")
    tuned = logits_of(model)
    torch.testing.assert_close(
        logits_of(merged(files, LANGUAGE_MODEL, tmp_path / "adapter", model)), tuned, rtol=1e-4, atol=1e-4
    )
    plain = load_model(files, LANGUAGE_MODEL, True, "fp32")
    other = logits_of(merged(files, LANGUAGE_MODEL, tmp_path / "adapter", plain))
    assert (other - tuned).abs().max() > 1e-2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_merged_model_has_the_number_format_of_its_base(tmp_path, dtype):
    model, adapter, head, files = adapted(llama, Method(), tmp_path / "base")
    train(model)
    save_adapter(model, adapter, tmp_path / "adapter")
    copy.deepcopy(model.unload()).to(dtype).save_pretrained(tmp_path / "base")
    assert {p.dtype for p in merged(files, head, tmp_path / "adapter", llama()[0]).parameters()} == {dtype}
