"""Which models are sharded, and with what configuration of Accelerate's."""

import os

import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from finetune_api.spec import Lora, Method
from finetune_trainer.models.adapter import put_on
from finetune_trainer.models.adapters import adapter_of
from finetune_trainer.models.head import LANGUAGE_MODEL
from finetune_trainer.models.model import count_weights
from finetune_trainer.models.modelfiles import ModelFiles
from finetune_trainer.scaling.ranks import Ranks
from finetune_trainer.scaling.sharding import choose_strategy, fsdp2_plugin, gathered_bytes, layer_classes, loading_once

GIB = 2**30


@pytest.mark.parametrize(
    ("model", "frozen_bytes", "trained", "gib", "ranks", "expected"),
    [
        ("LoRA on 8B in bf16", 16e9, 42e6, 80, 8, "ddp"),
        ("LoRA on 8B in bf16, smaller GPUs", 16e9, 42e6, 24, 4, "fsdp2"),
        ("LoRA on 70B in bf16", 141e9, 207e6, 80, 8, "fsdp2"),
        ("all of 1B", 0, 1.2e9, 80, 8, "ddp"),
        ("all of 8B", 0, 8e9, 80, 8, "fsdp2"),
        ("all of 8B with nobody to share it with", 0, 8e9, 80, 1, "ddp"),
    ],
)
def test_a_model_is_sharded_where_it_takes_most_of_a_gpu(model, frozen_bytes, trained, gib, ranks, expected):
    assert choose_strategy(int(frozen_bytes), int(trained), 12, gib * GIB, ranks) == expected, model


@pytest.fixture(scope="module", params=["alone", "with an adapter"])
def llama(request, model_directory):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LlamaConfig.from_pretrained(model_directory))
    files = ModelFiles(model_directory, "the-base")
    return model if request.param == "alone" else put_on(model, adapter_of(Method()), LANGUAGE_MODEL, files)


def test_each_layer_is_gathered_by_itself_and_forgotten_again(llama):
    plugin = fsdp2_plugin(llama, "no")
    assert isinstance(plugin, FullyShardedDataParallelPlugin)
    assert (plugin.fsdp_version, plugin.reshard_after_forward) == (2, True)
    assert plugin.auto_wrap_policy is transformer_auto_wrap_policy
    assert plugin.transformer_cls_names_to_wrap == ["LlamaDecoderLayer"]


def test_layers_are_those_that_the_architecture_names():
    with torch.device("meta"):
        gpt2 = AutoModelForCausalLM.from_config(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=16))
    assert layer_classes(gpt2) == ["GPT2Block"]


def test_trained_weights_stay_in_fp32_are_computed_with_in_bf16_and_summed_in_fp32(llama):
    policy = fsdp2_plugin(llama, "bf16").mixed_precision_policy
    assert (policy.param_dtype, policy.reduce_dtype) == (torch.bfloat16, torch.float32)


def test_beside_an_adapter_every_weight_keeps_its_own_precision(llama):
    assert fsdp2_plugin(llama, "no").mixed_precision_policy is None


def test_weights_are_counted_before_there_is_memory_for_them(model_directory):
    files = ModelFiles(model_directory, "the-base")
    model = AutoModelForCausalLM.from_pretrained(model_directory)
    everything = sum(parameter.numel() for parameter in model.parameters())
    assert count_weights(files, LANGUAGE_MODEL, None) == (0, everything)
    adapter = adapter_of(Method(lora=Lora(rank=4)))
    adapted = put_on(model, adapter, LANGUAGE_MODEL, files)
    trained = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    assert count_weights(files, LANGUAGE_MODEL, adapter) == (everything, trained)


def test_what_loading_once_sets_is_gone_afterwards(monkeypatch):
    names = ("ACCELERATE_USE_FSDP", "FSDP_CPU_RAM_EFFICIENT_LOADING")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    with loading_once(Ranks(1, 2, 1, 2)):
        assert [os.environ[name] for name in names] == ["true", "true"]
    assert not set(names) & set(os.environ)


def test_a_model_that_is_whole_gathers_nothing(llama):
    assert gathered_bytes(llama) == 0
