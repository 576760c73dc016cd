"""Full tuning of a part of a model."""

import pytest
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from finetune_api.run import ExitCode
from finetune_api.spec import Freeze
from finetune_trainer.errors import TrainerError
from finetune_trainer.models.freezing import freeze


def llama(tied=False):
    sizes = {"vocab_size": 32, "hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=3, tie_word_embeddings=tied))


def t5():
    return T5ForConditionalGeneration(T5Config(vocab_size=32, d_model=8, d_kv=4, d_ff=16, num_layers=2, num_heads=2))


def frozen(model, **parts):
    freeze(model, Freeze.model_validate(parts))
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


def test_embeddings_are_frozen_and_nothing_else():
    assert frozen(llama(), embeddings=True) == {"model.embed_tokens.weight"}
    assert frozen(llama(tied=True), embeddings=True) == {"model.embed_tokens.weight"}  # which is its head's as well
    assert frozen(t5(), embeddings=True) == {"shared.weight"}


def test_the_first_layers_are_frozen_of_every_stack():
    names = frozen(llama(), layers=2)
    assert names
    assert all(name.startswith(("model.layers.0.", "model.layers.1.")) for name in names)
    assert {name.split(".")[0] for name in frozen(t5(), layers=1)} == {"encoder", "decoder"}


def test_modules_are_frozen_by_the_ends_of_their_names():
    assert frozen(llama(), modules=["lm_head", "1.self_attn.k_proj"]) == {
        "lm_head.weight",
        "model.layers.1.self_attn.k_proj.weight",
    }


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"layers": 4}, "spec.method.freeze.layers is 4, but the model has 3 layers"),
        ({"modules": ["k"]}, "spec.method.freeze.modules names k, which the model does not have. It has: .*k_proj"),
        ({"embeddings": True, "layers": 3, "modules": ["norm", "lm_head"]}, "leaves nothing of the model to train"),
    ],
)
def test_parts_that_are_not_there_are_refused_and_so_is_freezing_all(parts, said):
    with pytest.raises(TrainerError, match=said) as refusal:
        frozen(llama(), **parts)
    assert refusal.value.code == ExitCode.CONFIGURATION_INVALID
