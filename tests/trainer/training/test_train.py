"""The loop itself, where a whole run would not show it."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.optim.swa_utils import AveragedModel

from finetune_api.run import ExitCode
from finetune_api.spec import EarlyStopping, Lora, Method, Plateau, RestoreBest, Training
from finetune_trainer.errors import Stopped, TrainerError
from finetune_trainer.models.adapter import put_on
from finetune_trainer.models.adapters import adapter_of
from finetune_trainer.models.head import LANGUAGE_MODEL
from finetune_trainer.models.linear import speed_up
from finetune_trainer.models.model import load_model
from finetune_trainer.models.modelfiles import ModelFiles
from finetune_trainer.preparation.encoder import Encoder
from finetune_trainer.preparation.record import Record
from finetune_trainer.progress import StepDone
from finetune_trainer.recipes.language_modeling import LanguageModeling
from finetune_trainer.training.batches import Cut, plan_batches
from finetune_trainer.training.judging import Judge
from finetune_trainer.training.layout import try_layout
from finetune_trainer.training.loop import Loop
from finetune_trainer.training.memory import Fit
from finetune_trainer.training.noise import add_noise
from finetune_trainer.training.snapshot import Snapshot, TrainingState
from finetune_trainer.training.train import train
from tests import tiny


@pytest.fixture
def accelerator():
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=True)


@pytest.fixture
def model(model_directory):
    return load_model(ModelFiles(model_directory, "the-base"), LANGUAGE_MODEL, False, "fp32")


@pytest.fixture(scope="module")
def examples():
    records = [Record(f"line {n}", prompt="say " * (n + 1), completion=" one" * (9 - n)) for n in range(8)]
    return Encoder(tiny.tokenizer(), 64).encode(records)


@dataclass
class Memory:
    """Keeps snapshots of every so many steps, and what it was asked for at the end."""

    every: int | None = None
    kept: list[Snapshot] = field(default_factory=list)

    def before_training(self, training: Loop) -> None:
        """Nothing."""

    def after_step(self, training: Loop) -> None:
        if self.every and training.state.step % self.every == 0:
            self.kept.append(training.snapshot())

    def before_the_end(self, training: Loop) -> None:
        self.kept.append(training.snapshot())

    def newest(self) -> Snapshot | None:
        return self.kept[-1] if self.kept else None


def begin(model, examples, accelerator, rate=1e-3, adapt=lambda model: model, **settings) -> Loop:
    training = Training(**{"schedule": "constant", "warmup_fraction": 0, "batch_size": 4, "max_steps": 3} | settings)
    layout = try_layout(model.eval())
    fit = Fit(tokens=64, recompute=False)
    return Loop(
        objective=LanguageModeling(adapt(model), layout.headless),
        examples=examples,
        plan=plan_batches(examples.lengths, training.batch_size, None, training.max_steps, 0),
        cut=Cut(layout.packed, fit.tokens, training.micro_batch_size),
        settings=training,
        rate=rate,
        accelerator=accelerator,
        state=TrainingState(fit=fit),
    )


def run(loop, saver=None, asked_to_stop=lambda: False, rewinds=False, on_step=lambda done: None, every=None, **kwargs):
    """``every``: steps between measurements, by ``measure``."""
    judge = Judge(loop.settings, every, loop.plan.total_steps, ("eval_loss",))
    measure = kwargs.get("measure", lambda asked_to_stop: {})
    train(loop, saver or Memory(), asked_to_stop, rewinds, on_step, judge, measure)
    return loop.state.history


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("micro_batch_size", [2, 3, None])
def test_a_step_is_that_of_the_whole_batch_by_hand(model, examples, accelerator, model_directory, micro_batch_size):
    """Against AdamW on the mean over the learned tokens of the effective batch, however it is cut."""
    reference = load_model(ModelFiles(model_directory, "the-base"), LANGUAGE_MODEL, False, "fp32").train()
    settings = {"batch_size": 8, "max_steps": 1, "max_grad_norm": 0.5}
    run(begin(model, examples, accelerator, micro_batch_size=micro_batch_size, **settings))
    language = LanguageModeling(reference, headless=False)
    batch = language.collate(list(examples), False, torch.device("cpu"))
    loss = language(batch).loss / sum(examples.units)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.5)
    torch.optim.AdamW(reference.parameters(), lr=1e-3, weight_decay=0.0).step()
    for name, expected in reference.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], expected, rtol=0, atol=1e-5)


def test_decay_touches_matrices_only(model, examples, accelerator):
    before = weights(model)
    for parameter in model.parameters():
        parameter.register_hook(torch.zeros_like)  # no gradient: what changes, changes by decay
    run(begin(model, examples, accelerator, max_steps=1, rate=0.1, weight_decay=0.5))
    for name, parameter in model.named_parameters():
        shrunk = 0.95 if parameter.ndim >= 2 else 1.0
        torch.testing.assert_close(parameter, before[name] * shrunk)


def spoil(model, broken: str) -> None:
    if broken == "loss":
        model.lm_head.register_forward_hook(lambda module, args, out: out * float("nan"))
    else:
        model.lm_head.weight.register_hook(lambda gradient: gradient * float("inf"))


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_training_that_diverges_ends_before_the_weights_are_spoilt(model, examples, accelerator, broken):
    kept = []

    def after(done: StepDone) -> None:
        if done.step == 2:
            kept.append(weights(model))
            spoil(model, broken)

    with pytest.raises(TrainerError, match="at step 3") as caught:
        run(begin(model, examples, accelerator, max_steps=9), on_step=after)
    assert caught.value.code is ExitCode.DIVERGED
    assert "Lower spec.training.learningRate" in caught.value.message
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, kept[0][name])


def test_a_rewind_goes_on_from_the_last_snapshot_with_half_the_rate(model, examples, accelerator):
    told: list[StepDone] = []
    hooks = []

    def after(done: StepDone) -> None:
        told.append(done)
        if len(told) == 5:
            hooks.append(model.lm_head.register_forward_hook(lambda module, args, out: out * float("nan")))

    class Mended(Memory):
        def newest(self):
            hooks[0].remove()
            return super().newest()

    history = run(begin(model, examples, accelerator, max_steps=8), Mended(every=4), rewinds=True, on_step=after)
    assert [done.step for done in told] == [1, 2, 3, 4, 5, 5, 6, 7, 8]
    assert told[4].loss == told[5].loss
    assert [done.learning_rate for done in told] == [1e-3] * 5 + [5e-4] * 4
    assert [step.step for step in history.steps] == list(range(1, 9))


def test_a_training_that_diverges_again_and_again_is_given_up(model, examples, accelerator):
    loop = begin(model, examples, accelerator, max_steps=8)
    saver = Memory(kept=[loop.snapshot()])
    spoil(model, "loss")
    with pytest.raises(TrainerError, match="after 3 rewinds"):
        run(loop, saver, rewinds=True)


def test_every_step_is_told_as_it_happens(model, examples, accelerator):
    told = []
    history = run(begin(model, examples, accelerator, max_steps=3), on_step=told.append)
    assert told == history.steps
    assert [(done.step, done.total, done.epoch) for done in told] == [(1, 3, 0.5), (2, 3, 1.0), (3, 3, 1.5)]
    assert told[0].tokens + told[1].tokens == examples.tokens
    assert history.tokens == sum(done.tokens for done in told)


def test_whoever_is_asked_to_stop_within_a_step_has_not_begun_it(model, examples, accelerator):
    loop = begin(model, examples, accelerator, micro_batch_size=1, max_steps=5)
    before, chance = weights(model), torch.get_rng_state()
    asked = iter([False, False, True])
    with pytest.raises(Stopped):
        run(loop, asked_to_stop=lambda: next(asked))
    assert loop.state.step == 0
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(model).items())
    assert torch.equal(torch.get_rng_state(), chance)


STATES: dict[str, dict[str, Any]] = {
    "momentum": {"optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 0.1},
    "rmsprop": {"optimizer": "rmsprop", "momentum": 0.5, "l1": 1e-4},
    "adafactor": {"optimizer": "adafactor", "weight_decay": 0.1},
    "8 bits": {"optimizer": "adamw8bit"},
    "average": {"ema_decay": 0.5},
    "noise": {},
    "average, plateau, best": {
        "ema_decay": 0.5,
        "schedule": "plateau",
        "plateau": Plateau(metric="worse_loss", patience=1),
        "restore_best": RestoreBest(metric="eval_loss"),
    },
}
"""Trainings that have more to remember than weights and AdamW's moments."""


@pytest.mark.parametrize("at", [1, 4, 6])
@pytest.mark.parametrize("kind", ["full", "LoRA with dropout", "activations twice", *STATES])
def test_a_training_that_goes_on_from_a_snapshot_ends_in_the_same_bits(
    model_directory, examples, accelerator, kind, at
):
    files = ModelFiles(model_directory, "the-base")

    def adapt(model):
        if kind == "full" or kind in STATES:
            return model
        lora = Lora(rank=4, alpha=8, dropout=0.3 if kind == "LoRA with dropout" else 0.0)
        adapted = put_on(model, adapter_of(Method(lora=lora)), LANGUAGE_MODEL, files)
        speed_up(adapted)
        if kind == "activations twice":
            adapted.activation_checkpointing_enable()
        return adapted

    def fresh() -> Loop:
        torch.manual_seed(7)
        model = load_model(files, LANGUAGE_MODEL, False, "fp32")
        loop = begin(model, examples, accelerator, adapt=adapt, **{"max_steps": 7} | settings)
        if kind == "noise":
            add_noise(loop.bare, 5.0)
        return loop

    def measured(loop: Loop) -> dict[str, Any]:
        """Loss and a value that gets worse, whenever a training may need it."""
        batch = loop.bare.collate(list(examples), True, torch.device("cpu"))

        def measure(_) -> dict[str, float]:
            with torch.no_grad():
                return {"eval_loss": float(loop.bare.eval()(batch).loss), "worse_loss": float(loop.state.step)}

        return {"every": 2, "measure": measure}

    settings = STATES.get(kind, {})
    whole, saver = fresh(), Memory(every=at)
    run(whole, saver, **measured(whole))
    torch.manual_seed(99)  # as in another process, where other things were drawn before
    resumed = fresh()
    resumed.restore(saver.kept[0])
    assert resumed.state.step == at
    run(resumed, **measured(resumed))
    assert resumed.state.history == whole.state.history
    for name, parameter in whole.trained.items():
        assert torch.equal(parameter, resumed.trained[name]), name
    ends = whole.snapshot(), resumed.snapshot()
    assert ends[0].state == ends[1].state
    assert sorted(ends[0].copies) == [name for name in ("average", "best") if name in kind]
    assert any(tensor.dtype is torch.uint8 for tensor in ends[0].optimizer.values()) == (kind == "8 bits")
    pairs = [(ends[0].copies[name], ends[1].copies[name]) for name in ends[0].copies]
    for one, other in [(ends[0].optimizer, ends[1].optimizer), *pairs]:
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in one)
    assert torch.equal(torch.get_rng_state(), ends[1].random[0]["cpu"])


def test_the_l1_term_is_a_part_of_the_gradient_and_not_of_the_loss_that_is_told(model, examples, accelerator):
    """Against autograd on the whole sum, with a rate at which plain SGD shows the gradient itself."""
    settings = {"batch_size": 8, "max_steps": 1, "optimizer": "sgd", "learning_rate": 1.0, "momentum": 0.0}
    before = weights(model)
    loop = begin(model, examples, accelerator, rate=1.0, l1=0.01, max_grad_norm=1000, **settings)
    (done,) = run(loop).steps
    after = weights(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(before[name])
    batch = loop.bare.collate(list(examples), True, torch.device("cpu"))
    loss = LanguageModeling(model, headless=False)(batch).loss / sum(examples.units)
    penalty = 0.01 * sum(parameter.abs().sum() for parameter in model.parameters())
    model.zero_grad()
    (loss + penalty).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(before[name] - after[name], parameter.grad, rtol=1e-4, atol=1e-6)
    assert (done.loss, done.penalty) == pytest.approx((loss.item(), penalty.item()), rel=1e-5)


def test_the_average_is_that_of_torch_with_a_decay_that_rises(model, examples, accelerator):
    """torch's AveragedModel, updated after each step; its first update copies, so it begins before the first."""
    decays = iter([None, *(min(0.2, (1 + n) / (10 + n)) for n in range(5))])
    theirs = AveragedModel(
        model,
        multi_avg_fn=lambda means, news, _: torch._foreach_lerp_(means, news, 1 - next(decays)),
        use_buffers=False,
    )
    theirs.update_parameters(model)
    next(decays)
    loop = begin(model, examples, accelerator, max_steps=5, ema_decay=0.2)
    last: dict[str, Any] = {}

    def after(_: StepDone) -> None:
        theirs.update_parameters(model)
        last.update(weights(model))

    run(loop, on_step=after)
    for name, parameter in model.named_parameters():
        expected = theirs.module.get_parameter(name)
        torch.testing.assert_close(parameter, expected, rtol=0, atol=1e-7)
        assert not torch.equal(parameter, last[name])


def test_it_is_measured_by_the_average_and_trained_by_the_weights(model, examples, accelerator, model_directory):
    """A training that is measured after each step takes the very steps of one that is not."""
    bare = load_model(ModelFiles(model_directory, "the-base"), LANGUAGE_MODEL, False, "fp32")
    plain = run(begin(bare, examples, accelerator, max_steps=4, ema_decay=0.9))
    loop, seen = begin(model, examples, accelerator, max_steps=4, ema_decay=0.9), []

    def measure(_):
        seen.append(weights(model))
        loop.bare.eval()
        return {"eval_loss": 1.0}

    history = run(loop, every=1, measure=measure)
    assert [done.loss for done in history.steps] == [done.loss for done in plain.steps]
    assert [each.step for each in history.evaluations] == [1, 2, 3]
    for name, parameter in bare.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name))  # both are the average of the end
        assert not torch.equal(seen[0][name], seen[2][name])


@pytest.mark.parametrize("restore", [True, False])
def test_a_training_stops_when_its_patience_is_over_and_ends_with_the_best_weights_if_asked_to(
    model, examples, accelerator, restore
):
    values = {2: 3.0, 4: 1.0, 6: 2.0, 8: 1.5}
    at = {}
    settings = {"early_stopping": EarlyStopping(patience=2)} | ({"restore_best": RestoreBest()} if restore else {})
    loop = begin(model, examples, accelerator, max_steps=20, **settings)

    def measure(_):
        at[loop.state.step] = weights(model)
        return {"eval_loss": values[loop.state.step]}

    saver = Memory(every=1)
    history = run(loop, saver, every=2, measure=measure)
    assert (history.last.step, loop.state.standing.stopped, loop.over) == (8, True, True)
    assert [(each.step, each.metrics["eval_loss"]) for each in history.evaluations] == list(values.items())
    kept = at[4 if restore else 8]
    assert all(torch.equal(tensor, kept[name]) for name, tensor in weights(model).items())
    assert [snapshot.step for snapshot in saver.kept] == list(range(1, 9))
    assert TrainingState.of_dict(saver.kept[-1].state).standing.stopped  # whoever goes on from here takes no step


def test_the_last_step_counts_among_those_of_which_the_best_is_taken(model, examples, accelerator):
    loop = begin(model, examples, accelerator, max_steps=3, restore_best=RestoreBest())
    history = run(loop, every=2, measure=lambda _: {"eval_loss": 5.0 - loop.state.step})
    assert [each.step for each in history.evaluations] == [2, 3]
    assert loop.state.standing.best.step == 3


def test_whoever_is_asked_to_stop_while_it_measures_measures_again_when_it_goes_on(model, examples, accelerator):
    loop = begin(model, examples, accelerator, max_steps=4, ema_decay=0.5)
    saver = Memory()
    with pytest.raises(Stopped):
        run(loop, saver, every=2, measure=lambda _: None)
    assert [(snapshot.step, snapshot.state["standing"]["measured_at"]) for snapshot in saver.kept] == [(2, 0)]
    for name, parameter in loop.trained.items():
        assert torch.equal(parameter, saver.kept[0].weights[name])  # and not the average
    history = run(loop, every=2, measure=lambda _: {"eval_loss": 1.0})
    assert [each.step for each in history.evaluations] == [2]


def test_what_is_no_number_when_it_is_measured_is_a_divergence(model, examples, accelerator):
    loop = begin(model, examples, accelerator, max_steps=4)
    with pytest.raises(TrainerError, match="eval_loss on the validation records became nan") as caught:
        run(loop, every=2, measure=lambda _: {"eval_loss": float("nan")})
    assert caught.value.code is ExitCode.DIVERGED


def test_a_rewind_takes_average_and_verdicts_back_too(model, examples, accelerator):
    loop = begin(model, examples, accelerator, max_steps=6, ema_decay=0.9, early_stopping=EarlyStopping(patience=3))
    values = iter([1.0, 2.0, float("nan"), 2.0, 3.0])
    saver = Memory(every=2)
    history = run(loop, saver, rewinds=True, every=1, measure=lambda _: {"eval_loss": next(values)})
    assert [each.metrics["eval_loss"] for each in history.evaluations] == [1.0, 2.0, 2.0, 3.0]
    assert (loop.state.rewinds, loop.state.standing.stopped, history.last.step) == (1, True, 4)
