"""Dropout of the architecture itself."""

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from finetune_api.run import ExitCode
from finetune_trainer.errors import TrainerError
from finetune_trainer.models.dropout import set_dropout

SMALL = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1, "vocab_size": 16}
MODELS = {
    "BERT": lambda: BertForSequenceClassification(BertConfig(**SMALL)),
    "GPT-2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=8, n_head=1, n_layer=1, vocab_size=16, n_positions=8)),
    "Llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL)),
    "T5": lambda: T5ForConditionalGeneration(
        T5Config(d_model=8, d_kv=8, d_ff=8, num_layers=1, num_heads=1, vocab_size=16)
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_all_of_it_has_the_probability_that_is_asked_for_and_only_while_it_is_trained(name):
    torch.manual_seed(0)
    model = MODELS[name]()
    ids = torch.tensor([[1, 2, 3]])
    arguments = {"input_ids": ids} | ({"decoder_input_ids": ids} if name == "T5" else {})

    def twice() -> bool:
        """Whether two passes give the same."""
        return torch.equal(model(**arguments).logits, model(**arguments).logits)

    set_dropout(model, 0.5, None, "m")
    assert (model.train() and twice(), model.eval() and twice()) == (False, True)
    set_dropout(model, None, 0.0, "m")
    assert model.train()
    assert twice()


def test_a_model_without_any_is_told_from_one_that_has_it():
    with pytest.raises(TrainerError, match=r"dropout is 0\.1, but org/plain has no dropout\.") as told:
        set_dropout(nn.Linear(2, 2), 0.1, 0.0, "org/plain")
    assert told.value.code is ExitCode.CONFIGURATION_INVALID


def test_where_nothing_is_asked_for_the_usual_one_is_taken_and_a_model_without_any_is_as_good():
    module = nn.Dropout(0.3)
    set_dropout(module, None, None, "m")
    assert module.p == 0.3
    set_dropout(module, None, 0.0, "m")
    assert module.p == 0.0
    set_dropout(nn.Linear(2, 2), None, 0.0, "m")
