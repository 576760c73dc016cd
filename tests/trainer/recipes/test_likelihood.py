"""Likelihoods of segments: the same however they are laid out, and those of each with what it goes on from alone."""

from array import array

import pytest
import torch

from finetune_trainer.recipes import likelihood
from finetune_trainer.recipes.likelihood import Likelihood, Segment, collate
from finetune_trainer.training.layout import try_layout
from finetune_trainer.training.objective import IGNORED

CPU = torch.device("cpu")


def segment(ids, learned, shared=0) -> Segment:
    return Segment(array("i", ids), bytes(learned), shared)


PAIR = [segment([5, 6, 7, 8, 9, 10], [0, 0, 0, 1, 0, 1]), segment([11, 12], [1, 1], shared=3)]
OTHER = [segment([20, 21, 22, 23], [0, 1, 1, 1]), segment([24], [1], shared=1)]


def alone(model, ids, learned):
    """The sum over the learned tokens of the log of the softmax of the logits before them."""
    logits = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(logits[at - 1, ids[at]] for at, counts in enumerate(learned) if counts)


def test_padded_segments_that_share_a_beginning_get_it_each():
    batch = collate(PAIR, False, CPU)
    assert batch.ids.tolist() == [[5, 6, 7, 8, 9, 10], [5, 6, 7, 11, 12, 0]]
    assert batch.arguments["attention_mask"].tolist() == [[1] * 6, [1] * 5 + [0]]
    assert [at[:4].tolist() for at in batch.at] == [[0, 0, 1, 1], [2, 4, 2, 3]]
    assert batch.targets.tolist() == [8, 10, 11, 12] + [IGNORED] * 28
    assert batch.counts == [2, 2]


def test_packed_segments_go_on_from_where_their_beginning_ends():
    batch = collate([*OTHER, *PAIR], True, CPU)
    assert batch.ids[0, :13].tolist() == [20, 21, 22, 23, 24, 5, 6, 7, 8, 9, 10, 11, 12]
    assert batch.arguments["position_ids"][0, :13].tolist() == [0, 1, 2, 3, 1, 0, 1, 2, 3, 4, 5, 3, 4]
    assert batch.at[1][:8].tolist() == [0, 1, 2, 0, 7, 9, 7, 11]
    assert batch.counts == [3, 1, 2, 2]


@pytest.mark.parametrize("at_once", [2**26, 1], ids=["whole", "in chunks"])
@pytest.mark.parametrize(("packed", "headless"), [(False, False), (False, True), (True, False), (True, True)])
def test_every_layout_has_the_likelihoods_of_each_answer_after_its_prompt_alone(
    model, monkeypatch, packed, headless, at_once
):
    expected = [
        alone(model, [5, 6, 7, 8, 9, 10], PAIR[0].learned),
        alone(model, [5, 6, 7, 11, 12], [0, 0, 0, 1, 1]),
        alone(model, [20, 21, 22, 23], OTHER[0].learned),
        alone(model, [20, 24], [0, 1]),
    ]
    sum(value * (number + 1) for number, value in enumerate(expected)).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    monkeypatch.setattr(likelihood, "_LOGITS_AT_ONCE", at_once)
    monkeypatch.setattr(likelihood, "_EVEN", 4)
    if packed:
        assert try_layout(model, shared=True).packed
    found = Likelihood(model, headless).log_likelihoods(collate([*PAIR, *OTHER], packed, CPU))
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-5)
    (found * torch.arange(1, 5)).sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-3, atol=1e-4)
