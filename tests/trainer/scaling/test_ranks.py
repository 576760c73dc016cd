"""Several processes that train together, against one that trains alone.

Their losses agree to about 1e-7: floating-point sums depend on their order, and several processes add up what each of
them has summed. So they are compared within 1e-5, and bit for bit only with what as many processes do again. Weights
are within 1e-4, because Adam divides a gradient by its own size: one of 1e-8 moves its weight as far as one of 1.
"""

import json
import shutil
import sys
from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from finetune_trainer.scaling.launch import Gang, Nodes, start
from finetune_trainer.scaling.ranks import ENV_SHARED, Ranks, deal
from finetune_trainer.training.batches import Cut
from tests import encoders, tiny
from tests.trainer.several import INTERRUPTED, SCENARIOS, Several

pytestmark = pytest.mark.timeout(900)
"""All scenarios are run for the first test that asks."""
SMALL = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
)
"""What makes a model small, by the names that both architectures give it."""


@given(st.lists(st.integers(1, 4096), min_size=1, max_size=60), st.integers(1, 9))
def test_records_are_dealt_once_each_and_about_evenly(lengths, ranks):
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    shares = deal(order, lengths, ranks)
    assert len(shares) == ranks
    assert sorted(chain(*shares)) == list(range(len(lengths)))
    assert all(share == sorted(share, key=order.index) for share in shares)
    tokens = [sum(lengths[index] for index in share) for share in shares]
    assert max(tokens) - min(tokens) <= max(lengths)
    assert deal(order, lengths, ranks) == shares


@given(st.lists(st.integers(1, 64), min_size=1, max_size=40), st.integers(1, 5), st.booleans())
def test_all_ranks_pass_equally_often_and_see_every_record_once(lengths, count, packed):
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    rounds = Ranks(count=count).rounds(order, lengths, Cut(packed, 64))
    assert {len(parts) for parts in rounds} == {count}
    assert sorted(chain(*chain(*rounds))) == list(range(len(lengths)))


def test_alone_a_step_is_cut_as_ever():
    lengths = [9, 7, 5, 3]
    cut = Cut(True, 12)
    assert [part for (part,) in Ranks().rounds(range(4), lengths, cut)] == cut.micro_batches(range(4), lengths)


def test_who_is_who_stands_in_the_environment(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", ENV_SHARED):
        monkeypatch.delenv(name, raising=False)
    alone = Ranks.of_environment()
    assert (alone.alone, alone.first, alone.count) == (True, True, 1)
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "4")):
        monkeypatch.setenv(name, value)
    ranks = Ranks.of_environment()
    assert (ranks.rank, ranks.count, ranks.local_rank, ranks.local_count) == (5, 8, 1, 4)
    assert (ranks.alone, ranks.first) == (False, False)


def test_alone_everything_is_what_was_given():
    ranks = Ranks()
    ranks.join()
    ranks.leave()
    assert (ranks.any(True), ranks.any(False), ranks.sum(1.5, 2), ranks.gather("x")) == (True, False, (1.5, 2), ["x"])
    assert ranks.told(made := object()) is made
    assert ranks.prepared("x", lambda: made) is made


def test_what_one_process_prepares_its_neighbours_take_up(tmp_path):
    first, second = (Ranks(n, 2, n, 2, tmp_path) for n in range(2))
    assert first.prepared("data", lambda: {"a": [1]}) == {"a": [1]}
    assert second.prepared("data", lambda: pytest.fail("prepared twice")) == {"a": [1]}


def test_without_a_place_to_share_each_prepares_for_itself():
    assert Ranks(1, 2, 1, 2).prepared("data", lambda: "mine") == "mine"


@pytest.fixture(scope="module")
def models(model_directory, tmp_path_factory):
    """A Llama; one whose embeddings are its head, too; a model whose layers an attempt to pack leaves half-way; an
    encoder without a head; an encoder with a decoder; and two adapters for the Llama."""
    directory = tmp_path_factory.mktemp("models")
    tiny.save_reader_and_writer(directory / "T5")
    for name in ("Llama", "tied", "soft caps"):
        shutil.copytree(model_directory, directory / name)
    torch.manual_seed(0)
    tied = LlamaConfig.from_pretrained(model_directory, tie_word_embeddings=True)
    LlamaForCausalLM(tied).save_pretrained(directory / "tied")
    small = {name: getattr(tied, name) for name in SMALL}
    encoders.save(directory / "BERT")
    for seed, name in enumerate(("adapter-a", "adapter-b")):
        torch.manual_seed(seed)
        config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False)
        get_peft_model(LlamaForCausalLM.from_pretrained(model_directory), config).save_pretrained(directory / name)
    Gemma2ForCausalLM(Gemma2Config(**small, head_dim=16)).save_pretrained(directory / "soft caps")
    return directory


@pytest.fixture(scope="module")
def told(models, tmp_path_factory):
    """What two processes have to tell of all scenarios, and where they saved what."""
    directory = tmp_path_factory.mktemp("several")
    command = [sys.executable, "-m", "tests.trainer.several", str(models), str(directory)]
    gang = Gang(start(command, 2, Nodes(), directory))
    assert gang.wait().code == 0
    return directory, json.loads((directory / "told.json").read_text())


@pytest.fixture(scope="module")
def alone(models, tmp_path_factory):
    return Several(Ranks(), models, tmp_path_factory.mktemp("alone"))


def saved(directory):
    """All tensors in a directory."""
    (file,) = directory.glob("*model.safetensors")
    return load_file(file)


@pytest.mark.parametrize("name", SCENARIOS)
def test_two_processes_train_as_one(told, alone, name):
    directory, results = told
    expected = alone.whole(name, SCENARIOS[name])
    for found in results[name]:
        for measure in ("losses", "norms", "base", "tuned"):
            assert found[measure] == pytest.approx(expected[measure], rel=1e-5), measure
        assert found["answers"] == expected["answers"]
    weights, reference = saved(directory / name), saved(alone.directory / name)
    assert weights.keys() == reference.keys()
    assert "lm_head.weight" not in weights or SCENARIOS[name].model != "tied"
    for key, tensor in weights.items():
        if key.endswith("attention.self.key.bias"):
            continue  # attention does not depend on it: its gradient is nothing but rounding
        assert (tensor - reference[key]).norm() <= 1e-4 * reference[key].norm(), key


@pytest.mark.parametrize("name", SCENARIOS)
def test_weights_that_are_sharded_are_read_by_one_process_of_a_node(told, name):
    read = [found["read"] for found in told[1][name]]
    assert read == (["cpu", "meta"] if SCENARIOS[name].strategy == "fsdp2" else ["cpu", "cpu"])


@pytest.mark.parametrize("name", INTERRUPTED)
def test_two_processes_go_on_from_a_snapshot_to_the_same_bits(told, name):
    directory, results = told
    for found in results[name]:
        assert found["step"] == 2
        assert found["again"]["losses"] == found["once"]["losses"]
        assert found["again"]["norms"] == found["once"]["norms"][2:]
        assert found["again"]["tuned"] == found["once"]["tuned"]
    once, again = saved(directory / name), saved(directory / f"{name} again")
    assert once.keys() == again.keys()
    assert all(torch.equal(again[key], tensor) for key, tensor in once.items())


def test_what_one_process_is_asked_to_all_stop_for_at_the_same_step(told):
    first, last = told[1]["stopped"]
    assert first == {"step": 2, "saved": [2]}
    assert last == {"step": 2, "saved": []}


def test_what_makes_one_process_diverge_ends_all(told):
    first, last = told[1]["diverged"]
    assert first == last
    assert first["code"] == "DIVERGED"
    assert "loss became nan at step 2" in first["message"]


def test_all_go_back_together(told):
    first, last = told[1]["rewound"]
    assert first == last == {"steps": [1, 2, 3, 4], "rewinds": 1}
