"""What is said of a peer's mask is true. The trainers themselves need the extra ``bench``; this does not."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.trainer import cpu, peers

IDS = torch.tensor([[5, 9, 2, 7, 4, 3, 8, 6]])
POSITIONS = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4]])
"""Two chats in one row."""


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    return get_peft_model(LlamaForCausalLM(config), LoraConfig(target_modules="all-linear"))


@pytest.mark.parametrize(
    "inputs",
    [
        pytest.param({"input_ids": IDS, "position_ids": POSITIONS}, id="packed"),
        pytest.param(
            {"input_ids": IDS.view(2, 4), "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])}, id="padded"
        ),
    ],
)
def test_chats_that_are_kept_apart_show_no_mask_error(model, inputs):
    assert peers.mask_error(model, inputs) < 1e-5


def test_chats_that_see_each_other_show_one(model):
    """transformers takes a mask of ones by its word, and forgets where chats begin."""
    inputs = {"input_ids": IDS, "position_ids": POSITIONS, "attention_mask": torch.ones_like(IDS)}
    assert peers.mask_error(model, inputs) > 1e-2


def test_the_peers_that_are_measured_are_those_there_are():
    assert tuple(peers.PEERS) == cpu.PEERS


def test_what_goes_through_a_peer_is_counted_batch_by_batch():
    class Peer:
        def training_step(self, model, inputs):
            return inputs["loss"]

        def train(self):
            self.losses = [self.training_step(None, {"loss": n, "rows": n}) for n in (2, 3)]

    peer = Peer()
    assert peers.train_counted(peer, lambda inputs: (10, inputs["rows"])) == {"positions": 20, "useful": 5}
    assert peer.losses == [2, 3]
