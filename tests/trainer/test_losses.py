"""The loss: against transformers' own, against a closed form, and whatever the micro-batches."""

import math
from array import array
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from finetune_trainer.encoding import Encoded, Example
from finetune_trainer.evaluate import Measured, evaluate
from finetune_trainer.losses import IGNORED, collate, token_loss

CPU = torch.device("cpu")


def example(ids, learned) -> Example:
    return Example(array("i", ids), bytes(learned))


LONG = example([5, 6, 7, 8, 9, 10], [0, 0, 1, 1, 0, 1])
SHORT = example([11, 12, 13], [0, 1, 1])


class Fixed:
    """A "model" that always gives token 2 the probability 1/2 and shares the rest among three others."""

    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=4))

    def eval(self) -> None: ...

    def __call__(self, input_ids, attention_mask, use_cache):
        row = torch.tensor([1 / 6, 1 / 6, 1 / 2, 1 / 6]).log()
        return SimpleNamespace(logits=row.expand(*input_ids.shape, 4))


@pytest.fixture(scope="module")
def model(model_directory):
    return AutoModelForCausalLM.from_pretrained(model_directory, dtype=torch.float32).eval()


def test_a_batch_is_padded_on_the_right_and_padding_is_neither_seen_nor_learned():
    batch = collate([LONG, SHORT], CPU)
    assert batch.ids.tolist() == [[5, 6, 7, 8, 9, 10], [11, 12, 13, 0, 0, 0]]
    assert batch.mask.tolist() == [[1] * 6, [1, 1, 1, 0, 0, 0]]
    assert batch.labels.tolist() == [[IGNORED, IGNORED, 7, 8, IGNORED, 10], [IGNORED, 12, 13] + [IGNORED] * 3]


def test_the_loss_is_that_of_transformers(model):
    batch = collate([LONG, SHORT], CPU)
    own = model(input_ids=batch.ids, attention_mask=batch.mask, labels=batch.labels).loss
    assert token_loss(model, batch).loss.item() / 5 == pytest.approx(own.item(), rel=1e-5)


def test_padding_does_not_change_the_loss(model):
    alone = sum(token_loss(model, collate([one], CPU)).loss.item() for one in (LONG, SHORT))
    assert token_loss(model, collate([LONG, SHORT], CPU)).loss.item() == pytest.approx(alone, rel=1e-5)


def test_evaluation_equals_a_closed_form():
    """Of five learned tokens three are the likeliest one."""
    data = Encoded((example([0, 2, 2, 1], [0, 1, 1, 1]), example([3, 2, 3], [0, 1, 1])), dropped=0)
    seen: list[int] = []
    measured = evaluate(Fixed(), data, CPU, seen.append)
    loss = (3 * math.log(2) + 2 * math.log(6)) / 5
    assert measured.eval_loss == pytest.approx(loss, rel=1e-6)
    assert measured.perplexity == pytest.approx(math.exp(loss), rel=1e-6)
    assert measured.token_accuracy == 3 / 5
    assert sum(seen) == data.tokens == 7


def test_every_token_weighs_the_same_whatever_record_it_is_in(model):
    """A mean of the records' means would weigh the tokens of a short record more."""
    measured = evaluate(model, Encoded((LONG, SHORT), dropped=0), CPU, lambda _: None)
    sums = [token_loss(model, collate([one], CPU)).loss.item() for one in (LONG, SHORT)]
    assert measured.eval_loss == pytest.approx(sum(sums) / 5, rel=1e-5)
    assert measured.eval_loss != pytest.approx((sums[0] / 3 + sums[1] / 2) / 2, rel=1e-3)


def test_a_perplexity_beyond_all_bounds_is_still_a_number():
    assert Measured(eval_loss=1e4, token_accuracy=0.0).perplexity == pytest.approx(1.797e308, rel=1e-3)
