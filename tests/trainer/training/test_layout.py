"""Packing: only where a model's records do not see one another, whatever its architecture is."""

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from finetune_trainer.models.attention import PACKED, Keys, attend, boundaries, one_by_one, positions
from finetune_trainer.training.layout import Layout, try_layout

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 97}
MODELS = {
    "Llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, initializer_range=0.3)),
    "grouped queries": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, num_key_value_heads=2, initializer_range=0.3)),
    "Qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=8, initializer_range=0.3)),
    "sliding window": lambda: MistralForCausalLM(
        MistralConfig(**SMALL, num_key_value_heads=4, sliding_window=4, initializer_range=0.3)
    ),
    "GPT-2": lambda: GPT2LMHeadModel(
        GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=97, n_positions=64, initializer_range=0.3)
    ),
    "soft caps": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SMALL, num_key_value_heads=4, head_dim=4, initializer_range=0.3, final_logit_softcapping=2.0)
    ),
    "ALiBi": lambda: BloomForCausalLM(
        BloomConfig(hidden_size=16, n_layer=2, n_head=2, vocab_size=97, initializer_range=0.3)
    ),
    "recurrent": lambda: MambaForCausalLM(
        MambaConfig(hidden_size=16, num_hidden_layers=2, vocab_size=97, state_size=4, initializer_range=0.3)
    ),
}


def made(name, dtype=torch.float32):
    torch.manual_seed(0)
    return MODELS[name]().to(dtype).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("Llama", Layout(packed=True, headless=True)),
        ("grouped queries", Layout(packed=True, headless=True)),
        ("Qwen3", Layout(packed=True, headless=True)),
        ("sliding window", Layout(packed=True, headless=True)),
        ("GPT-2", Layout(packed=True, headless=True)),
        ("soft caps", Layout(packed=False, headless=False)),
        ("ALiBi", Layout(packed=False, headless=True)),
        ("recurrent", Layout(packed=False, headless=True)),
    ],
)
def test_each_architecture_gets_what_it_can_do(name, layout, dtype):
    model = made(name, dtype)
    attention = model.config._attn_implementation
    if (name, dtype) == ("recurrent", torch.bfloat16):  # its head takes fp32 states, which only the model casts
        layout = Layout(packed=False, headless=False)
    assert try_layout(model) == layout
    assert model.config._attn_implementation == (PACKED if layout.packed else attention)


@pytest.mark.parametrize("name", ["Llama", "grouped queries", "Qwen3", "sliding window", "GPT-2"])
def test_packed_records_get_the_logits_and_gradients_that_they_get_alone(name):
    """Records longer than what the choice was made with, and longer than a window."""
    model = made(name)
    records = [torch.randint(0, 97, (length,)) for length in (29, 3, 1, 17)]
    alone = [model(input_ids=record[None], use_cache=False).logits[0] for record in records]
    sum(logits.square().sum() for logits in alone).backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    try_layout(model)
    lengths = [len(record) for record in records]
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    packed = model(
        input_ids=torch.cat(records)[None],
        position_ids=positions,
        use_cache=False,
        **boundaries(lengths, torch.device("cpu")),
    ).logits[0]
    torch.testing.assert_close(packed, torch.cat(alone), rtol=1e-3, atol=1e-4)
    packed.square().sum().backward()
    for n, p in model.named_parameters():
        torch.testing.assert_close(p.grad, expected[n], rtol=1e-3, atol=1e-2, msg=lambda told, n=n: f"{n}: {told}")


def test_what_may_be_packed_may_go_on_from_one_beginning_and_what_may_not_is_padded():
    for name in MODELS:
        plain, shared = try_layout(made(name)), try_layout(made(name), shared=True)
        assert plain == shared, name


def sequences(lengths, shared):
    """Segments of random tokens, and each with what it goes on from."""
    segments = [torch.randint(0, 97, (length,)) for length in lengths]
    root, whole = segments[0], []
    for segment, before in zip(segments, shared, strict=True):
        root = root if before else segment
        whole.append(torch.cat([root[:before], segment]))
    return segments, whole


@pytest.mark.parametrize("name", ["Llama", "grouped queries", "Qwen3", "sliding window", "GPT-2"])
def test_answers_that_share_their_prompt_get_the_logits_and_gradients_that_they_get_alone(name):
    """Two prompts, of which the second has three answers; shorter and longer than a window; and a record by itself."""
    model = made(name)
    lengths, shared = [12, 9, 1, 3, 20, 6, 5, 4], [0, 7, 12, 0, 0, 13, 1, 0]
    segments, whole = sequences(lengths, shared)
    alone = [
        model(input_ids=ids[None], use_cache=False).logits[0, before:]
        for ids, before in zip(whole, shared, strict=True)
    ]
    torch.cat(alone).square().sum().backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    assert try_layout(model, shared=True).packed
    packed = model(
        input_ids=torch.cat(segments)[None],
        position_ids=positions(lengths, shared)[None],
        use_cache=False,
        **boundaries(lengths, torch.device("cpu"), shared),
    ).logits[0]
    torch.testing.assert_close(packed, torch.cat(alone), rtol=1e-3, atol=1e-4)
    packed.square().sum().backward()
    for n, p in model.named_parameters():
        torch.testing.assert_close(p.grad, expected[n], rtol=1e-3, atol=1e-2, msg=lambda told, n=n: f"{n}: {told}")


def test_pairs_in_one_row_do_not_see_one_another():
    """To the bit: what stands before or behind a pair, or takes the place of its neighbour, changes nothing of it."""
    model = made("Llama")
    try_layout(model, shared=True)

    def logits(*records):
        lengths, shared = [len(s) for record in records for s in record], [0, 6] * len(records)
        return model(
            input_ids=torch.cat([s for record in records for s in record])[None],
            position_ids=positions(lengths, shared)[None],
            use_cache=False,
            **boundaries(lengths, torch.device("cpu"), shared),
        ).logits[0]

    one, other, third = ([torch.randint(0, 97, (11,)), torch.randint(0, 97, (5,))] for _ in range(3))
    assert torch.equal(logits(other, one)[16:], logits(third, one)[16:])
    torch.testing.assert_close(logits(other, one)[16:], logits(one), rtol=1e-4, atol=1e-5)


def test_the_kernels_keys_are_those_of_the_segments():
    keys = Keys.of([4, 3, 2, 5, 1], [0, 2, 4, 0, 5], torch.device("cpu"))
    assert keys.ranges == [[(0, 4)], [(0, 2), (4, 7)], [(0, 4), (7, 9)], [(9, 14)], [(9, 14), (14, 15)]]
    states = torch.arange(15.0)[None, None, :, None]
    found = [part.flatten().int().tolist() for part in keys.split(states)]
    assert found == [[*range(4)], [0, 1, 4, 5, 6], [*range(4), 7, 8], [*range(9, 14)], [*range(9, 15)]]
    bounds = boundaries([4, 3, 2, 5, 1], torch.device("cpu"), [0, 2, 4, 0, 5])
    assert bounds["cu_seq_lens_k"].tolist() == [0, 4, 9, 15, 20, 26]
    assert (bounds["max_length_q"], bounds["max_length_k"]) == (5, 6)


def test_attention_that_lets_records_see_one_another_is_noticed(monkeypatch):
    """What transformers' own attention does where a cache is in use: it takes the row for one text."""
    from finetune_trainer.training import layout

    model = made("Llama")
    monkeypatch.setattr(layout, "PACKED", "sdpa")
    monkeypatch.setattr(layout, "boundaries", lambda lengths, *_: {"attention_mask": torch.ones(1, sum(lengths))})
    assert try_layout(model).packed is False


def test_generation_goes_on_with_the_attention_that_the_model_came_with():
    model = made("Llama")
    ids = torch.arange(5)[None]
    expected = model.generate(input_ids=ids, max_new_tokens=6, do_sample=False, pad_token_id=0)
    try_layout(model)
    with one_by_one(model):
        assert torch.equal(model.generate(input_ids=ids, max_new_tokens=6, do_sample=False, pad_token_id=0), expected)
    assert model.config._attn_implementation == PACKED


def test_attention_without_boundaries_is_refused_instead_of_guessed():
    from finetune_trainer.models.attention import PackingUnsupported

    states = torch.randn(1, 2, 4, 8)
    with pytest.raises(PackingUnsupported, match="boundaries"):
        attend(torch.nn.Module(), states, states, states, None)
