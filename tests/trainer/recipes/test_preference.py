"""Preference tuning: losses against TRL's and closed forms, gradients in any layout, and whole runs that learn."""

import math
from types import SimpleNamespace

import pytest
import torch

from finetune_api.spec import Dpo, Method, Orpo, Simpo
from finetune_trainer.evaluation.evaluate import evaluate
from finetune_trainer.preparation.encoding import Encoded
from finetune_trainer.preparation.preferences import preference
from finetune_trainer.recipes.pairs import PairEncoder
from finetune_trainer.recipes.preference import (
    Answers,
    DirectPreference,
    DpoRecipe,
    OddsRatioPreference,
    SimplePreference,
)
from finetune_trainer.training.batches import Cut
from finetune_trainer.training.layout import Layout
from finetune_trainer.training.passes import refer
from tests import tiny
from tests.trainer.recipes.trls import Trl, log_likelihood

CPU = torch.device("cpu")
PAIRS = tuple(
    {
        "prompt": "say it " * (n % 3) + f"say {n % 5}",
        "chosen": f" {n % 5} it is" + " yes" * (n % 4),
        "rejected": f" {(n + 1) % 5} it is not",
    }
    for n in range(40)
)


def swapped(pair):
    return pair | {"chosen": pair["rejected"], "rejected": pair["chosen"]}


def encoded(pairs, max_length=64) -> Encoded:
    records = [preference(pair, f"line {number}") for number, pair in enumerate(pairs)]
    return PairEncoder(tiny.tokenizer(), max_length).encode(records)


def prepared(objective, layout=None):
    layout = layout or objective.choose_layout()
    objective.use(layout)
    return layout


def known(model, examples, packed=None) -> Encoded:
    """With their references by ``model``."""
    objective = DirectPreference(model, Dpo())
    layout = prepared(objective, packed)
    examples.know(refer(objective, examples, Cut(layout.packed, 256), CPU, lambda _: None))
    return examples


def test_a_pair_holds_its_prompt_once():
    (example,) = list(encoded([{"prompt": "say 3", "chosen": " 3", "rejected": " 4 it"}]))
    tokenizer = tiny.tokenizer()
    prompt, end = tokenizer("say 3").input_ids, tokenizer.eos_token_id
    chosen, rejected = tokenizer(" 3").input_ids, tokenizer(" 4 it").input_ids
    assert example.ids.tolist() == [*prompt, *chosen, end, *rejected, end]
    assert example.learned == bytes(len(prompt)) + b"\1" * (len(chosen) + len(rejected) + 2)
    assert example.extra.tolist() == [len(prompt), len(prompt) + len(chosen) + 1]
    assert example.units == 1.0


def test_answers_that_begin_alike_are_learned_from_their_beginning_on():
    """Only what comes before an answer is shared: an answer's reward is the likelihood of all of it."""
    (example,) = list(encoded([{"prompt": "say", "chosen": " yes it is", "rejected": " yes it yes"}]))
    assert example.extra[0] == len(tiny.tokenizer()("say").input_ids)


def test_no_text_of_a_pair_is_longer_than_asked_for_and_pairs_that_are_equal_within_it_are_left_out():
    data = encoded([PAIRS[0], {"prompt": "say", "chosen": " one" * 30, "rejected": " one" * 31}], max_length=16)
    assert (len(data), data.dropped) == (1, 1)
    assert data.longest_row <= 16
    long = {"prompt": "say", "chosen": " one", "rejected": " one" * 30}
    assert encoded([PAIRS[0], long, swapped(long)], max_length=16).cut == 2


def test_references_are_the_log_likelihoods_of_the_answers(model):
    data = known(model, encoded(PAIRS[:3]))
    for example, pair in zip(data, PAIRS, strict=False):
        expected = [log_likelihood(model, pair["prompt"], pair[name]) for name in ("chosen", "rejected")]
        assert example.references.tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "settings",
    [{}, {"beta": 0.5}, {"loss": "hinge"}, {"loss": "ipo", "beta": 0.3}],
    ids=str,
)
def test_the_loss_of_dpo_is_trls(model, other, tmp_path, settings):
    trls = {"loss_type" if name == "loss" else name: value for name, value in settings.items()}
    expected = Trl("DPOTrainer", "DPOConfig").loss(tmp_path, other, PAIRS[:6], model, **trls)
    data = known(model, encoded(PAIRS[:6]))
    objective = DirectPreference(other, Dpo(**settings))
    layout = prepared(objective)
    found = objective(objective.collate(list(data), layout.packed, CPU)).loss / 6
    assert found.item() == pytest.approx(expected, rel=1e-4)


def answers(likelihood, tokens, reference=0.0) -> Answers:
    return Answers(*(torch.tensor([float(value)]) for value in (likelihood, tokens, reference)))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_losses_equal_their_closed_forms():
    chosen, rejected = answers(-6.0, 3, -7.0), answers(-8.0, 2, -6.0)

    def worth(kind, settings):
        found = kind(torch.nn.Identity(), settings).worth(chosen, rejected)
        return found.losses.item(), found.chosen.item(), found.rejected.item()

    assert worth(DirectPreference, Dpo()) == pytest.approx((-math.log(sigmoid(0.3)), 0.1, -0.2))
    smoothed = -0.9 * math.log(sigmoid(0.3)) - 0.1 * math.log(sigmoid(-0.3))
    assert worth(DirectPreference, Dpo(label_smoothing=0.1)) == pytest.approx((smoothed, 0.1, -0.2))
    assert worth(DirectPreference, Dpo(loss="hinge")) == pytest.approx((0.7, 0.1, -0.2))
    assert worth(DirectPreference, Dpo(loss="ipo", beta=0.5)) == pytest.approx(((1 / 3 + 1 - 1) ** 2, 0.5, -1.0))
    simple = -math.log(sigmoid(2.0 * (-2.0 + 4.0) - 1.0))
    assert worth(SimplePreference, Simpo()) == pytest.approx((simple, -4.0, -8.0))
    one, two = math.exp(-2.0), math.exp(-4.0)
    odds = (one / (1 - one)) / (two / (1 - two))
    ratio = 2.0 - 0.1 * math.log(sigmoid(math.log(odds)))
    assert worth(OddsRatioPreference, Orpo()) == pytest.approx((ratio, -0.2, -0.4))


def test_the_odds_ratio_and_the_simple_loss_are_trls():
    pytest.importorskip("trl")
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    told = SimpleNamespace(
        accelerator=SimpleNamespace(device=CPU), alpha=0.0, beta=2.5, simpo_gamma=0.7, loss_type="simpo"
    )
    told.label_smoothing = 0.0
    chosen, rejected = answers(-6.0, 3), answers(-8.0, 2)
    expected, *_ = CPOTrainer.cpo_loss(told, chosen.averages, rejected.averages)
    found = SimplePreference(torch.nn.Identity(), Simpo(beta=2.5, gamma=0.7)).worth(chosen, rejected)
    torch.testing.assert_close(found.losses, expected)
    expected, *_ = ORPOTrainer.odds_ratio_loss(told, chosen.averages, rejected.averages)
    found = OddsRatioPreference(torch.nn.Identity(), Orpo(beta=2.5)).worth(chosen, rejected)
    torch.testing.assert_close(found.losses, -chosen.averages - expected)


def gradients(objective, examples, packed):
    """(loss, gradients)"""
    found = objective(objective.collate(examples, packed, CPU))
    found.loss.backward()
    made = {name: p.grad.clone() for name, p in objective.model.named_parameters()}
    objective.model.zero_grad()
    return found.loss.item(), made


@pytest.mark.parametrize(
    "kind",
    [(DirectPreference, Dpo()), (OddsRatioPreference, Orpo()), (SimplePreference, Simpo())],
    ids=lambda kind: kind[0].__name__,
)
def test_every_layout_and_every_cut_has_the_same_loss_and_gradients(model, other, kind):
    data = list(known(model, encoded(PAIRS[:6])))
    objective = kind[0](other, kind[1])
    prepared(objective, Layout(packed=False, headless=False))
    expected, reference = gradients(objective, data, packed=False)
    assert prepared(objective) == Layout(packed=True, headless=True)
    for parts in ([data], [data[:2], data[2:]], [[one] for one in reversed(data)]):
        found = [gradients(objective, part, packed=True) for part in parts]
        assert sum(loss for loss, _ in found) == pytest.approx(expected, rel=1e-5)
        for name, gradient in reference.items():
            together = sum(made[name] for _, made in found)
            torch.testing.assert_close(
                together, gradient, rtol=1e-3, atol=1e-4, msg=lambda told, n=name: f"{n}: {told}"
            )


def test_measures_equal_closed_forms(model, other):
    data = known(model, encoded(PAIRS[:8]))
    objective = DirectPreference(other, Dpo(beta=0.2))
    layout = prepared(objective)
    recipe = DpoRecipe(SimpleNamespace(method=Method()), SimpleNamespace())
    found = recipe.metrics(evaluate(objective, data, Cut(layout.packed, 64), CPU, lambda _: None))
    rewards = [
        [
            0.2
            * (log_likelihood(other, pair["prompt"], pair[name]) - log_likelihood(model, pair["prompt"], pair[name]))
            for name in ("chosen", "rejected")
        ]
        for pair in PAIRS[:8]
    ]
    margins = [one - two for one, two in rewards]
    expected = {
        "preference_accuracy": sum(margin > 0 for margin in margins) / 8,
        "reward_margin": sum(margins) / 8,
        "reward_chosen": sum(one for one, _ in rewards) / 8,
        "reward_rejected": sum(two for _, two in rewards) / 8,
        "eval_loss": sum(-math.log(sigmoid(margin)) for margin in margins) / 8,
    }
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert next(iter(found)) == "preference_accuracy"


def test_a_model_that_is_its_own_reference_prefers_neither_answer(model):
    """To the bit, whatever the layout: half of the pairs right, the loss that of tossing a coin."""
    recipe = DpoRecipe(SimpleNamespace(method=Method()), SimpleNamespace())
    for packed in (False, True):
        layout = DirectPreference(model, Dpo()).choose_layout() if packed else Layout(packed, headless=True)
        data = known(model, encoded(PAIRS[:8]), layout)
        objective = DirectPreference(model, Dpo())
        cut = Cut(prepared(objective, layout).packed, 256)
        found = recipe.metrics(evaluate(objective, data, cut, CPU, lambda _: None))
        assert (found["preference_accuracy"], found["reward_margin"]) == (0.5, 0.0)
        assert found["eval_loss"] == pytest.approx(math.log(2), rel=1e-6)


def test_likelihoods_of_one_are_no_infinite_odds():
    chosen, rejected = answers(-0.0, 3), answers(-2.0, 2)
    chosen.likelihoods.requires_grad_()
    loss = OddsRatioPreference(torch.nn.Identity(), Orpo()).worth(chosen, rejected).losses.sum()
    loss.backward()
    assert math.isfinite(loss.item())
    assert math.isfinite(chosen.likelihoods.grad.item())


LEARN = {"maxSteps": 12, "learningRate": 1e-2, "maxLength": 64, "batchSize": 8}


@pytest.mark.parametrize("objective", ["dpo", "orpo", "simpo"])
def test_a_model_learns_which_answers_are_preferred(trainer, s3, objective):
    """And from the same pairs the other way round, that the others are."""
    found = {}
    held_out = [{"uri": s3.put(f"data/{objective}.jsonl", tiny.json_lines(*PAIRS[:10]))}]
    for name, pairs in (("as they are", PAIRS), ("swapped", [swapped(pair) for pair in PAIRS])):
        train = trainer.data(tiny.json_lines(*pairs), f"{name}.jsonl")["train"]
        ended = trainer.run(
            method={"objective": objective},
            data={"train": train, "validation": held_out},
            training=LEARN,
            outputPrefix=f"s3://team-a/out/{objective}/{name.replace(' ', '-')}/",
        )
        assert ended.code == 0, ended.result.error
        found[name] = ended
    accuracy, base = found["as they are"].metric("preference_accuracy")
    assert (accuracy, base <= 0.7) == (1.0, True)
    assert found["swapped"].metric("preference_accuracy")[0] == 0.0
    assert found["as they are"].metric("reward_margin")[0] > 0 > found["swapped"].metric("reward_margin")[0]
    loss, base_loss = found["as they are"].metric("eval_loss")
    assert loss < min(base_loss, found["swapped"].metric("eval_loss")[0])
