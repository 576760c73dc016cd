"""Reward models: the loss against TRL's and a closed form, and whole runs that learn which answers are better."""

import math

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from finetune_trainer.models.quantized import keep_bits
from finetune_trainer.preparation.preferences import preference
from finetune_trainer.recipes.pairs import PairEncoder
from finetune_trainer.recipes.reward import RewardModeling
from tests import tiny
from tests.trainer.cards import load_by_card
from tests.trainer.recipes.test_preference import PAIRS, swapped
from tests.trainer.recipes.trls import Trl

CPU = torch.device("cpu")
PADDING = tiny.SPECIAL_TOKENS.index("<|endoftext|>")


@pytest.fixture
def model(model_directory):
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_pretrained(
        model_directory, dtype=torch.float32, num_labels=1, pad_token_id=PADDING
    ).eval()


def encoded(pairs):
    records = [preference(pair, f"line {number}") for number, pair in enumerate(pairs)]
    return list(PairEncoder(tiny.tokenizer(), 64).encode(records))


def rewards(model, pairs):
    """Of the two answers of each pair, one text at a time."""
    tokenizer = tiny.tokenizer()

    def reward(text):
        ids = [*tokenizer(text).input_ids, tokenizer.eos_token_id]
        with torch.no_grad():
            return model(input_ids=torch.tensor([ids])).logits.item()

    return [[reward(pair["prompt"] + pair[name]) for name in ("chosen", "rejected")] for pair in pairs]


def test_loss_and_measures_are_those_of_each_answer_alone(model):
    objective = RewardModeling(model, PADDING)
    with torch.no_grad():
        found = objective(objective.collate(encoded(PAIRS[:6]), False, CPU))
    both = rewards(model, PAIRS[:6])
    expected = sum(math.log(1 + math.exp(rejected - chosen)) for chosen, rejected in both)
    assert found.loss.item() == pytest.approx(expected, rel=1e-4)
    assert found.sums["chosen"].item() == pytest.approx(sum(chosen for chosen, _ in both), rel=1e-3)
    assert found.sums["right"].item() == sum(chosen > rejected for chosen, rejected in both)


def test_the_loss_is_trls(model, tmp_path):
    expected = Trl("RewardTrainer", "RewardConfig").loss(tmp_path, model, PAIRS[:6])
    objective = RewardModeling(model.eval(), PADDING)
    found = objective(objective.collate(encoded(PAIRS[:6]), False, CPU)).loss / 6
    assert found.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("adapter", "merged"), [("lora", False), ("lora", True), ("qlora", False)])
def test_what_the_model_card_loads_gives_the_rewards_that_were_measured(
    s3, trainer, model_directory, tmp_path, monkeypatch, adapter, merged
):
    """To a merged model, too, its end-of-text token says where an answer ends."""
    held_out = [{"uri": s3.put("data/card-rewards.jsonl", tiny.json_lines(*PAIRS[:10]))}]
    ended = trainer.run(
        method={"objective": "reward", "adapter": adapter},
        mergeAdapter=merged,
        data={"train": trainer.data(tiny.json_lines(*PAIRS))["train"], "validation": held_out},
        training={"maxSteps": 5, "learningRate": 1e-2, "maxLength": 64, "batchSize": 8},
    )
    assert ended.code == 0, ended.result.error
    model, _ = load_by_card(s3, ended.location, model_directory, tmp_path, monkeypatch)
    keep_bits(model)
    means = [sum(column) / 10 for column in zip(*rewards(model, PAIRS[:10]), strict=True)]
    told = [ended.metric(f"reward_{name}")[0] for name in ("chosen", "rejected")]
    assert means == pytest.approx(told, rel=1e-3)
    assert means[0] > means[1] + 1


@pytest.mark.parametrize("adapter", ["lora", "none"])
def test_a_head_learns_which_answers_are_better_and_is_published(
    trainer, s3, model_directory, tmp_path, monkeypatch, adapter
):
    found = {}
    held_out = [{"uri": s3.put("data/rewards.jsonl", tiny.json_lines(*PAIRS[:10]))}]
    for name, pairs in (("as-they-are", PAIRS), ("swapped", [swapped(pair) for pair in PAIRS])):
        ended = trainer.run(
            method={"objective": "reward", "adapter": adapter},
            data={"train": trainer.data(tiny.json_lines(*pairs), f"{name}.jsonl")["train"], "validation": held_out},
            training={"maxSteps": 15, "learningRate": 1e-2, "maxLength": 64, "batchSize": 8},
            outputPrefix=f"s3://team-a/out/reward/{adapter}/{name}/",
        )
        assert ended.code == 0, ended.result.error
        found[name] = ended
    assert found["as-they-are"].metric("preference_accuracy")[0] == 1.0
    assert found["swapped"].metric("preference_accuracy")[0] == 0.0
    published, _ = load_by_card(s3, found["as-they-are"].location, model_directory, tmp_path, monkeypatch)
    assert published.config.num_labels == 1
    margins = [chosen - rejected for chosen, rejected in rewards(published, PAIRS[:10])]
    told = found["as-they-are"].metric("reward_margin")[0]
    assert sum(margins) / 10 == pytest.approx(told, rel=1e-3)
