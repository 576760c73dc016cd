"""NEFTune's noise: by the paper's formula and transformers' own hook, and only while a model is trained."""

import math
from array import array
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, T5Config, T5ForConditionalGeneration
from transformers.integrations.neftune import neftune_post_forward_hook

from finetune_api.spec import Method
from finetune_trainer.models.adapter import put_on
from finetune_trainer.models.adapters import adapter_of
from finetune_trainer.models.head import LANGUAGE_MODEL
from finetune_trainer.models.model import load_model
from finetune_trainer.models.modelfiles import ModelFiles
from finetune_trainer.preparation.encoding import Example
from finetune_trainer.recipes.language_modeling import LanguageModeling
from finetune_trainer.training.layout import try_layout
from finetune_trainer.training.noise import add_noise

CPU = torch.device("cpu")
ALPHA, WIDTH = 5.0, 32


def example(length: int) -> Example:
    return Example(array("i", range(length)), bytes([0] + [1] * (length - 1)))


@pytest.fixture
def embedded(model_directory):
    """A model with noise, and what its embeddings come to at each call: before the noise and after it."""
    model = AutoModelForCausalLM.from_pretrained(model_directory, dtype=torch.float32)
    seen = []
    table = model.get_input_embeddings()
    objective = LanguageModeling(model)
    objective.use(try_layout(model.eval()))
    add_noise(objective, ALPHA)
    table.register_forward_hook(lambda module, args, out: seen.append((table.weight[args[0]].detach(), out.detach())))
    return objective.train(), seen


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("headless", [True, False])
def test_noise_is_as_large_as_the_length_of_its_own_record_allows(embedded, packed, headless):
    objective, seen = embedded
    objective.headless = headless
    if not packed:
        objective.model.set_attn_implementation("sdpa")
    lengths = [9, 100, 40]
    batch = objective.collate([example(length) for length in lengths], packed, CPU)
    for _ in range(5):
        objective(batch)
    noise = torch.stack([after - before for before, after in seen])  # [5, B, T, d]
    parts = noise.split([*lengths, noise.shape[2] - sum(lengths)], 2) if packed else noise.split(1, 1)
    for length, part in zip(lengths, parts, strict=False):
        own = part if packed else part[:, :, :length]
        largest = ALPHA / math.sqrt(length * WIDTH)
        assert 0.99 * largest < own.abs().max() <= largest * (1 + 1e-5)
        assert own.std().item() == pytest.approx(largest / math.sqrt(3), rel=0.05)
        assert abs(own.mean().item()) < 0.1 * largest


def test_for_one_record_it_is_the_noise_of_transformers(embedded):
    objective, seen = embedded
    objective.model.set_attn_implementation("sdpa")
    torch.manual_seed(3)
    objective(objective.collate([example(20)], False, CPU))
    ((before, after),) = seen
    torch.manual_seed(3)
    module = SimpleNamespace(training=True, neftune_noise_alpha=ALPHA)
    torch.testing.assert_close(after, neftune_post_forward_hook(module, None, before.clone()))


def test_what_is_measured_has_no_noise(embedded):
    objective, seen = embedded
    objective.eval()(objective.collate([example(20)], True, CPU))
    ((before, after),) = seen
    assert torch.equal(before, after)


def test_a_decoder_that_shares_its_embeddings_gets_none():
    sizes = {"vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    config = T5Config(**sizes, pad_token_id=0, decoder_start_token_id=0)
    objective = LanguageModeling(T5ForConditionalGeneration(config)).train()
    table, seen = objective.model.get_input_embeddings().weight, []
    add_noise(objective, ALPHA)
    for stack in (objective.model.encoder, objective.model.decoder):
        stack.embed_tokens.register_forward_hook(lambda _, args, out: seen.append(torch.equal(table[args[0]], out)))
    objective.model(input_ids=torch.ones(1, 5, dtype=torch.long), labels=torch.ones(1, 5, dtype=torch.long))
    assert seen == [False, True]


@pytest.mark.parametrize("adapter", ["none", "lora", "ia3", "prompt", "prefix"])
def test_beside_any_adapter_what_is_read_gets_noise_while_it_is_trained(model_directory, adapter):
    files = ModelFiles(model_directory, "the-base")
    model = load_model(files, LANGUAGE_MODEL, False, "fp32")
    if adapter != "none":
        model = put_on(model, adapter_of(Method(adapter=adapter)), LANGUAGE_MODEL, files)
    objective = LanguageModeling(model)
    batch = objective.collate([example(9), example(20)], False, CPU)
    plain = objective.train()(batch).loss
    add_noise(objective, ALPHA)
    assert len({float(objective(batch).loss) for _ in range(3)} | {float(plain)}) == 4
    assert objective.eval()(batch).loss == plain
