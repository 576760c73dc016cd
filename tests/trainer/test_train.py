"""The loop itself, where a whole run would not show it."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from finetune_api.run import ExitCode
from finetune_api.spec import Method, Training
from finetune_trainer.batches import plan_batches
from finetune_trainer.encoder import Encoder
from finetune_trainer.errors import TrainerError
from finetune_trainer.losses import collate, token_loss
from finetune_trainer.model import load_model
from finetune_trainer.modelfiles import ModelFiles
from finetune_trainer.records import Record
from finetune_trainer.train import train
from tests import tiny


@pytest.fixture
def accelerator():
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=True)


@pytest.fixture
def model(model_directory):
    return load_model(ModelFiles(model_directory, "the-base"), Method(adapter="none"), "fp32")


@pytest.fixture(scope="module")
def examples():
    records = [Record(f"line {n}", prompt="say " * (n + 1), completion=" one" * (9 - n)) for n in range(8)]
    return Encoder(tiny.tokenizer(), 64).encode(records, "training")


def run(model, examples, accelerator, on_step=lambda done: None, rate=1e-3, **settings):
    training = Training(**{"schedule": "constant", "warmup_fraction": 0, "batch_size": 4, "max_steps": 3} | settings)
    lengths = [len(example.ids) for example in examples.examples]
    plan = plan_batches(lengths, training.batch_size, None, training.max_steps, 0)
    return train(model, examples, plan, training, rate, accelerator, on_step)


def test_a_step_is_that_of_the_whole_batch_by_hand(model, examples, accelerator, model_directory):
    """Against AdamW on the mean over the learned tokens of the effective batch, which is cut into four here."""
    reference = load_model(ModelFiles(model_directory, "the-base"), Method(adapter="none"), "fp32").train()
    run(model, examples, accelerator, batch_size=8, micro_batch_size=2, max_steps=1, max_grad_norm=0.5)
    batch = collate(examples.examples, torch.device("cpu"))
    loss = token_loss(reference, batch).loss / sum(example.labels for example in examples.examples)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.5)
    torch.optim.AdamW(reference.parameters(), lr=1e-3, weight_decay=0.0).step()
    for name, expected in reference.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], expected, rtol=0, atol=1e-5)


def test_decay_touches_matrices_only(model, examples, accelerator):
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.register_hook(torch.zeros_like)  # no gradient: what changes, changes by decay
    run(model, examples, accelerator, max_steps=1, rate=0.1, weight_decay=0.5)
    for name, parameter in model.named_parameters():
        shrunk = 0.95 if parameter.ndim >= 2 else 1.0
        torch.testing.assert_close(parameter, before[name] * shrunk)


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_training_that_diverges_ends_before_the_weights_are_spoilt(model, examples, accelerator, broken):
    kept = []

    def spoil(done):
        if done.step != 2:
            return
        kept.append({name: parameter.detach().clone() for name, parameter in model.named_parameters()})
        if broken == "loss":
            model.lm_head.register_forward_hook(lambda module, args, out: out * float("nan"))
        else:
            model.lm_head.weight.register_hook(lambda gradient: gradient * float("inf"))

    with pytest.raises(TrainerError, match="at step 3") as caught:
        run(model, examples, accelerator, on_step=spoil, max_steps=9)
    assert caught.value.code is ExitCode.DIVERGED
    assert "Lower spec.training.learningRate" in caught.value.message
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, kept[0][name])


def test_every_step_is_told_as_it_happens(model, examples, accelerator):
    told = []
    trained = run(model, examples, accelerator, on_step=told.append, max_steps=3)
    assert tuple(told) == trained.steps
    assert [(done.step, done.total, done.epoch) for done in told] == [(1, 3, 0.5), (2, 3, 1.0), (3, 3, 1.5)]
    assert told[0].tokens + told[1].tokens == examples.tokens
    assert trained.tokens == sum(done.tokens for done in told)
