"""The loss: against transformers' own, against a closed form, and the same however records are laid out."""

import math
from array import array
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from finetune_trainer.evaluation.evaluate import evaluate
from finetune_trainer.preparation.encoding import Encoded, Example
from finetune_trainer.recipes import likelihood
from finetune_trainer.recipes.language_modeling import LanguageModeling, LanguageModelingRecipe, perplexity
from finetune_trainer.recipes.likelihood import Batch
from finetune_trainer.training.batches import Cut
from finetune_trainer.training.layout import try_layout
from finetune_trainer.training.objective import IGNORED

CPU = torch.device("cpu")


def example(ids, learned) -> Example:
    return Example(array("i", ids), bytes(learned))


LONG = example([5, 6, 7, 8, 9, 10], [0, 0, 1, 1, 0, 1])
SHORT = example([11, 12, 13], [0, 1, 1])


def collate(examples, packed, device) -> Batch:
    return LanguageModeling(nn.Identity()).collate(examples, packed, device)


class Fixed(nn.Module):
    """A "model" that always gives token 2 the probability 1/2 and shares the rest among three others."""

    def forward(self, input_ids, attention_mask, use_cache):
        row = torch.tensor([1 / 6, 1 / 6, 1 / 2, 1 / 6]).log()
        return SimpleNamespace(logits=row.expand(*input_ids.shape, 4))


def loss(model, *examples, packed=False, headless=False):
    """(loss, gradients, learned tokens that are the likeliest)."""
    language = LanguageModeling(model, headless)
    found = language(collate(examples, packed, CPU))
    found.loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    with torch.no_grad():
        right = int(language(collate(examples, packed, CPU)).sums["right"])
    return found.loss.item(), gradients, right


def test_padded_records_lie_one_a_row_and_padding_is_neither_seen_nor_learned():
    batch = collate([LONG, SHORT], False, CPU)
    assert batch.ids.tolist() == [[5, 6, 7, 8, 9, 10], [11, 12, 13, 0, 0, 0]]
    assert batch.arguments["attention_mask"].tolist() == [[1] * 6, [1, 1, 1, 0, 0, 0]]
    assert [at[:5].tolist() for at in batch.at] == [[0, 0, 0, 1, 1], [1, 2, 4, 0, 1]]
    assert batch.targets.tolist() == [7, 8, 10, 12, 13] + [IGNORED] * 27


def test_packed_records_lie_in_one_row_and_each_begins_at_position_zero():
    batch = collate([LONG, SHORT], True, CPU)
    assert batch.ids[:, :9].tolist() == [[5, 6, 7, 8, 9, 10, 11, 12, 13]]
    assert batch.arguments["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 0, 1, 2, *range(23)]]
    assert [at[:5].tolist() for at in batch.at] == [[0] * 5, [1, 2, 4, 6, 7]]
    assert batch.targets.tolist() == [7, 8, 10, 12, 13] + [IGNORED] * 27


def test_a_packed_row_is_made_even_by_a_record_of_which_nothing_is_learned():
    assert collate([LONG, SHORT], True, CPU).arguments["cu_seq_lens_q"].tolist() == [0, 6, 9, 32]
    full = collate([example(range(32), [0] + [1] * 31)], True, CPU)
    assert full.arguments["cu_seq_lens_q"].tolist() == [0, 32]


def test_the_loss_is_that_of_transformers(model):
    batch = collate([LONG, SHORT], False, CPU)
    labels = torch.tensor([[-100, -100, 7, 8, -100, 10], [-100, 12, 13, -100, -100, -100]])
    own = model(input_ids=batch.ids, labels=labels, **batch.arguments).loss
    assert loss(model, LONG, SHORT)[0] / 5 == pytest.approx(own.item(), rel=1e-5)


@pytest.mark.parametrize("at_once", [2**26, 1], ids=["whole", "in chunks"])
@pytest.mark.parametrize(("packed", "headless"), [(False, True), (True, False), (True, True)])
def test_every_layout_has_the_same_loss_gradients_and_accuracy(model, monkeypatch, packed, headless, at_once):
    expected = loss(model, LONG, SHORT)
    monkeypatch.setattr(likelihood, "_LOGITS_AT_LEAST", at_once)
    monkeypatch.setattr(likelihood, "_CHUNK", 2)
    monkeypatch.setattr(likelihood, "_EVEN", 2)
    if packed:
        assert try_layout(model).packed
    found = loss(model, LONG, SHORT, packed=packed, headless=headless)
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-5)
    assert found[2] == expected[2]


def test_chunks_of_logits_are_not_kept_for_the_backward_pass(model, monkeypatch):
    from finetune_trainer.training.memory import bytes_left_behind

    batch = collate([example(range(60), [0] + [1] * 59)] * 4, False, CPU)

    def kept():
        language = LanguageModeling(model, headless=True)
        return bytes_left_behind(lambda: language(batch), model)

    whole = kept()
    monkeypatch.setattr(likelihood, "_LOGITS_AT_LEAST", 1)
    assert whole - kept() >= 4 * 4 * 59 * 320


def test_logits_of_a_head_that_is_not_trained_are_never_kept(model):
    from finetune_trainer.training.memory import bytes_left_behind

    language = LanguageModeling(model, headless=True)
    batch = language.collate([example(range(60), [0] + [1] * 59)] * 4, False, CPU)
    model.get_output_embeddings().weight.requires_grad_(False)
    frozen = bytes_left_behind(lambda: language(batch), model)
    model.get_output_embeddings().weight.requires_grad_(True)
    assert bytes_left_behind(lambda: language(batch), model) - frozen >= 4 * 4 * 59 * 320


def measure(language, data, cut, on_batch=lambda _: None):
    totals = evaluate(language, data, cut, CPU, on_batch)
    return LanguageModelingRecipe(SimpleNamespace(), SimpleNamespace()).metrics(totals)


def test_evaluation_equals_a_closed_form():
    """Of five learned tokens three are the likeliest one."""
    data = Encoded([example([0, 2, 2, 1], [0, 1, 1, 1]), example([3, 2, 3], [0, 1, 1])])
    seen: list[int] = []
    metrics = measure(LanguageModeling(Fixed(), headless=False), data, Cut(False, 4), seen.append)
    expected = (3 * math.log(2) + 2 * math.log(6)) / 5
    assert metrics["eval_loss"] == pytest.approx(expected, rel=1e-6)
    assert metrics["perplexity"] == pytest.approx(math.exp(expected), rel=1e-6)
    assert metrics["token_accuracy"] == 3 / 5
    assert seen == [4, 3]


def test_every_token_weighs_the_same_whatever_record_it_is_in(model):
    """A mean of the records' means would weigh the tokens of a short record more."""
    language = LanguageModeling(model, headless=True)
    measured = measure(language, Encoded([LONG, SHORT]), Cut(False, 100))
    sums = [loss(model, one)[0] for one in (LONG, SHORT)]
    assert measured["eval_loss"] == pytest.approx(sum(sums) / 5, rel=1e-5)
    assert measured["eval_loss"] != pytest.approx((sums[0] / 3 + sums[1] / 2) / 2, rel=1e-3)


def test_a_perplexity_beyond_all_bounds_is_still_a_number():
    assert perplexity(1e4) == pytest.approx(1.797e308, rel=1e-3)


def test_labels_are_smoothed_as_in_transformers_and_what_is_measured_is_not(model):
    from transformers.trainer_pt_utils import LabelSmoother

    language = LanguageModeling(model).eval()
    batch = collate([LONG, SHORT], False, CPU)
    plain = language(batch).loss
    language.smoothing = 0.3
    assert torch.equal(language(batch).loss, plain)  # in evaluation mode
    labels = torch.where(torch.tensor([[0, 0, 1, 1, 0, 1], [0, 1, 1, 0, 0, 0]], dtype=torch.bool), batch.ids, IGNORED)
    logits = model(input_ids=batch.ids, attention_mask=batch.arguments["attention_mask"]).logits
    expected = LabelSmoother(epsilon=0.3)({"logits": logits}, labels, shift_labels=True)  # a mean over five tokens
    torch.testing.assert_close(language.train()(batch).loss, 5 * expected)
    assert language(batch).loss > plain


def test_smoothed_labels_are_the_same_in_chunks(model, monkeypatch):
    language = LanguageModeling(model, headless=True).train()
    language.smoothing = 0.1
    batch = collate([example(range(5, 75), [0] + [1] * 69)], True, CPU)
    batch.arguments.clear()
    at_once = language(batch).loss
    monkeypatch.setattr(likelihood, "_LOGITS_AT_LEAST", 1)
    monkeypatch.setattr(likelihood, "_CHUNK", 2)
    torch.testing.assert_close(language(batch).loss, at_once)
