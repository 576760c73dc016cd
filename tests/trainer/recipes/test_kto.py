"""Tuning by feedback: losses against TRL's and closed forms, the KL term of a whole step, and whole runs that learn."""

import math
from types import SimpleNamespace

import pytest
import torch

from finetune_api.spec import Kto, Method
from finetune_trainer.evaluation.evaluate import evaluate
from finetune_trainer.preparation.encoding import Encoded
from finetune_trainer.preparation.preferences import feedback
from finetune_trainer.recipes.kto import FeedbackEncoder, FeedbackTuning, KtoRecipe
from finetune_trainer.scaling.ranks import ALONE
from finetune_trainer.training.batches import Cut
from finetune_trainer.training.layout import Layout
from finetune_trainer.training.passes import refer, sets_of, survey
from tests import tiny
from tests.trainer.recipes.trls import Trl, log_likelihood

CPU = torch.device("cpu")
FEEDBACK = tuple(
    {
        "prompt": "say it " * (n % 3) + f"say {n % 5}",
        "completion": f" {n % 5} it is" + " yes" * (n % 4) if n % 2 else f" {(n + 1) % 5} it is not",
        "label": bool(n % 2),
    }
    for n in range(40)
)


def swapped(record):
    return record | {"label": not record["label"]}


def encoded(records, max_length=64) -> Encoded:
    read = [feedback(record, f"line {number}") for number, record in enumerate(records)]
    return FeedbackEncoder(tiny.tokenizer(), max_length).encode(read)


def known(model, examples, layout=None) -> Encoded:
    """With their references by ``model``."""
    objective = FeedbackTuning(model, Kto())
    layout = layout or objective.choose_layout()
    objective.use(layout)
    examples.know(refer(objective, examples, Cut(layout.packed, 256), CPU, lambda _: None))
    return examples


def step(objective, data, cut) -> float:
    """The mean loss of all of ``data`` as one step, with gradients."""
    objective.train()
    order = sets_of(data)[""]
    survey(objective, data, order, cut, CPU, ALONE)
    total = 0.0
    for part in cut.micro_batches(order, data.lengths):
        loss = objective(objective.collate([data[index] for index in part], cut.packed, CPU)).loss / len(data)
        loss.backward()
        total += loss.item()
    return total


def ratio(model, reference, prompt, answer) -> float:
    return log_likelihood(model, prompt, answer) - log_likelihood(reference, prompt, answer)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def by_hand(model, reference, records, settings):
    """(losses, ratios, KL) from nothing but log likelihoods."""
    half = len(records) // 2
    ratios = [ratio(model, reference, record["prompt"], record["completion"]) for record in records]
    others = [
        ratio(model, reference, record["prompt"], records[(n - half) % len(records)]["completion"])
        for n, record in enumerate(records)
    ]
    kl = max(0.0, sum(others) / len(others))
    losses = [
        settings.desirable_weight * (1 - sigmoid(settings.beta * (one - kl)))
        if record["label"]
        else settings.undesirable_weight * (1 - sigmoid(settings.beta * (kl - one)))
        for one, record in zip(ratios, records, strict=True)
    ]
    return losses, ratios, kl


def test_an_example_has_another_records_answer_beside_its_own():
    tokenizer = tiny.tokenizer()
    data = list(encoded(FEEDBACK[:4]))
    for number, example in enumerate(data):
        record, other = FEEDBACK[number], FEEDBACK[(number - 2) % 4]
        prompt, end = tokenizer(record["prompt"]).input_ids, tokenizer.eos_token_id
        answer = [*tokenizer(other["completion"]).input_ids, end]
        assert example.ids.tolist() == [*prompt, *tokenizer(record["completion"]).input_ids, end]
        assert example.extra.tolist() == [len(prompt), record["label"], *answer, *[1] * len(answer)]
        assert example.units == 1.0


def test_nothing_is_longer_than_asked_for():
    data = encoded([FEEDBACK[0], FEEDBACK[1] | {"completion": " one" * 40}], max_length=16)
    assert data.cut == 1
    for example in data:
        assert len(example.ids) <= 16
        assert example.extra[0] + (len(example.extra) - 2) // 2 <= 16


def test_the_loss_is_trls(model, other, tmp_path):
    """Of three records, among which the mismatched answers are those that TRL takes."""
    settings = {"beta": 0.3, "desirable_weight": 1.5, "undesirable_weight": 0.7}
    expected = Trl("KTOTrainer", "KTOConfig").loss(tmp_path, model, FEEDBACK[1:4], other, **settings)
    data = known(other, encoded(FEEDBACK[1:4]))
    objective = FeedbackTuning(model, Kto(**settings))
    layout = objective.choose_layout()
    objective.use(layout)
    assert step(objective, data, Cut(layout.packed, 256)) == pytest.approx(expected, rel=1e-4)
    _, _, kl = by_hand(model, other, FEEDBACK[1:4], Kto(**settings))
    assert kl > 0.01, "the KL term would not be seen"


def test_neither_layout_nor_micro_batches_change_the_loss_or_its_gradient(model, other):
    """The KL term is that of the step, however it is cut."""
    settings = Kto(beta=0.3)
    data = known(other, encoded(FEEDBACK[:8]))
    losses, _, kl = by_hand(model, other, FEEDBACK[:8], settings)
    expected = None
    for packed, records in ((False, None), (True, None), (True, 1), (True, 3)):
        objective = FeedbackTuning(model, settings)
        objective.use(objective.choose_layout() if packed and records is None else Layout(packed, True))
        model.zero_grad()
        assert step(objective, data, Cut(packed, 256, records)) == pytest.approx(sum(losses) / 8, rel=1e-4)
        assert objective._kl == pytest.approx(kl, rel=1e-3)
        assert kl > 0.01
        found = {name: p.grad.clone() for name, p in model.named_parameters()}
        expected = expected or found
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5)


def test_measures_equal_closed_forms(model, other):
    settings = Kto(beta=0.2, desirable_weight=2.0)
    recipe = KtoRecipe(SimpleNamespace(method=Method(objective="kto", kto=settings)), SimpleNamespace())
    data = known(model, encoded(FEEDBACK[:8]))
    objective = FeedbackTuning(other, settings)
    layout = objective.choose_layout()
    objective.use(layout)
    found = recipe.metrics(evaluate(objective, data, Cut(layout.packed, 64), CPU, lambda _: None))
    losses, ratios, kl = by_hand(other, model, FEEDBACK[:8], settings)
    good, bad = ratios[1::2], ratios[::2]
    expected = {
        "feedback_accuracy": (sum(one > 0 for one in good) + sum(one < 0 for one in bad)) / 8,
        "reward_margin": 0.2 * (sum(good) - sum(bad)) / 4,
        "reward_desirable": 0.2 * sum(good) / 4,
        "reward_undesirable": 0.2 * sum(bad) / 4,
        "kl": kl,
        "eval_loss": sum(losses) / 8,
    }
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert next(iter(found)) == "feedback_accuracy"


def test_a_model_that_is_its_own_reference_has_changed_nothing(model):
    """To the bit: no reward, no KL, and half of the verdicts right."""
    recipe = KtoRecipe(SimpleNamespace(method=Method(objective="kto")), SimpleNamespace())
    data = known(model, encoded(FEEDBACK[:8]), FeedbackTuning(model, Kto()).choose_layout())
    objective = FeedbackTuning(model, Kto())
    objective.use(Layout(packed=True, headless=True))
    found = recipe.metrics(evaluate(objective, data, Cut(True, 256), CPU, lambda _: None))
    assert found == {
        "feedback_accuracy": 0.5,
        "reward_margin": 0.0,
        "reward_desirable": 0.0,
        "reward_undesirable": 0.0,
        "kl": 0.0,
        "eval_loss": 0.5,
    }


def test_records_of_one_verdict_alone_are_measured_by_what_there_is(model):
    recipe = KtoRecipe(SimpleNamespace(method=Method(objective="kto")), SimpleNamespace())
    totals = SimpleNamespace(predictions={0: (0.5, 0.1, True), 1: (-0.5, -0.3, True)})
    assert set(recipe.metrics(totals)) == {"feedback_accuracy", "reward_desirable", "kl", "eval_loss"}
    assert recipe.metrics(totals)["kl"] == 0.0


def test_a_model_learns_which_answers_are_good(trainer, s3):
    """And from the same answers with all verdicts turned round, that the others are."""
    found = {}
    held_out = [{"uri": s3.put("data/feedback.jsonl", tiny.json_lines(*FEEDBACK[:10]))}]
    for name, records in (("as-they-are", FEEDBACK), ("swapped", [swapped(record) for record in FEEDBACK])):
        ended = trainer.run(
            method={"objective": "kto"},
            data={"train": trainer.data(tiny.json_lines(*records), f"{name}.jsonl")["train"], "validation": held_out},
            training={"maxSteps": 15, "learningRate": 1e-2, "maxLength": 64, "batchSize": 8},
            outputPrefix=f"s3://team-a/out/kto/{name}/",
        )
        assert ended.code == 0, ended.result.error
        found[name] = ended
    assert found["as-they-are"].metric("feedback_accuracy") == (1.0, 0.5)
    assert found["swapped"].metric("feedback_accuracy") == (0.0, 0.5)
    assert found["as-they-are"].metric("reward_margin")[0] > 0 > found["swapped"].metric("reward_margin")[0]
