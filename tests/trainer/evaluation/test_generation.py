"""Answers are the same however many prompts are answered together, and end where the model ends them."""

from dataclasses import replace

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
)

from finetune_trainer.evaluation import generation
from finetune_trainer.evaluation.generation import Prompt, work
from finetune_trainer.models.attention import PACKED, one_by_one
from tests import tiny

CPU = torch.device("cpu")
TEXTS = ("yes", "one two three four five six seven", "the quick brown fox jumps over the lazy dog", "green", "0 1 2")


def made(kind, directory):
    if kind in ("t5", "bart"):
        model = AutoModelForSeq2SeqLM.from_pretrained(tiny.save_reader_and_writer(directory, kind))
        torch.manual_seed(0)  # a head of its own: with the embeddings as head it would repeat what it was given
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    elif kind == "llama":
        model = AutoModelForCausalLM.from_pretrained(tiny.save_model(directory))
    elif kind == "gpt2":
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=320, n_positions=128, n_embd=32, n_layer=2, n_head=2, initializer_range=0.3)
        model = GPT2LMHeadModel(config)
    else:
        torch.manual_seed(0)
        model = BloomForCausalLM(
            BloomConfig(vocab_size=320, hidden_size=32, n_layer=2, n_head=2, initializer_range=0.3)
        )
    model.generation_config.eos_token_id = None
    return model.eval()


def prompts():
    tokenizer = tiny.tokenizer()
    return [Prompt(tokenizer(text).input_ids, text, "") for text in TEXTS]


def ask(model, given=None, tokens=10_000, **kwargs):
    return generation.answers(model, given or prompts(), 12, tiny.tokenizer(), CPU, tokens, **kwargs)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bloom", "t5", "bart"])
def test_batches_of_prompts_get_the_answers_that_each_gets_alone(kind, tmp_path):
    model = made(kind, tmp_path / "model")
    calls = []
    generate = model.generate
    model.generate = lambda **given: calls.append(given["input_ids"].shape) or generate(**given)
    told = []
    alone = ask(model, tokens=1)
    calls.clear()
    together = ask(model, on_batch=told.append)
    assert together == alone
    assert len(set(together)) > 1
    assert max(rows for rows, _ in calls) == len(TEXTS)
    assert sum(told) == work(prompts(), 12)


def test_packed_attention_is_put_aside(tmp_path):
    model = made("llama", tmp_path / "model")
    expected = ask(model)
    model.set_attn_implementation(PACKED)
    with one_by_one(model):
        assert ask(model) == expected


def test_a_model_that_padding_would_mislead_answers_one_by_one(tmp_path):
    model = made("gpt2", tmp_path / "model")
    alone = ask(model, tokens=1)
    prepare = model.prepare_inputs_for_generation

    def unaware(*args, **kwargs):
        """As an architecture whose positions count padding."""
        given = prepare(*args, **kwargs)
        rows, length = given["input_ids"].shape
        end = kwargs["past_key_values"].get_seq_length() + length
        return given | {"position_ids": torch.arange(end - length, end)[None].expand(rows, -1)}

    model.prepare_inputs_for_generation = unaware
    assert ask(model) == alone


def test_an_answer_ends_before_the_first_end_token_whatever_its_neighbours_do(tmp_path):
    model = made("llama", tmp_path / "model")
    whole = ask(model)
    out = model.generate(input_ids=torch.tensor([prompts()[1].ids]), do_sample=False, max_new_tokens=12, pad_token_id=0)
    third = int(out[0, len(prompts()[1].ids) + 2])
    model.generation_config.eos_token_id = [third]
    cut = ask(model)
    assert cut != whole
    assert all(long.startswith(short) for long, short in zip(whole, cut, strict=True))


def test_base_and_tuned_are_asked_without_chance(tmp_path):
    model = made("llama", tmp_path / "model")
    expected = ask(model)
    model.generation_config.do_sample, model.generation_config.temperature = True, 5.0
    model.generation_config.num_beams = 4
    assert ask(model, [replace(prompt) for prompt in prompts()]) == expected
