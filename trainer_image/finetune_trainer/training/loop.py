"""The training loop, on Accelerate: its device, its precision, its backward pass and its clipping.

A step's loss is the mean over all that counts in the whole effective batch (learned tokens, or records, or pairs: the
objective knows), however it is dealt to processes and cut into forward passes: each unit counts the same, and neither
changes anything but memory and time. Everything that a step depends on is in :class:`TrainingState`, the weights, the
optimizer and the random state: a snapshot of them, taken between any two steps, is where a training goes on as if it
had never stopped.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from torch import Tensor

from finetune_api.spec import Training
from finetune_trainer.preparation.encoding import Encoded
from finetune_trainer.preparation.sets import Sets
from finetune_trainer.progress import StepDone
from finetune_trainer.scaling.ranks import ALONE, Ranks
from finetune_trainer.scaling.sharding import forget_gathered, whole
from finetune_trainer.training.batches import BatchPlan, Cut
from finetune_trainer.training.copies import Copies
from finetune_trainer.training.judging import Judge
from finetune_trainer.training.optimizers import make_optimizer
from finetune_trainer.training.passes import survey
from finetune_trainer.training.schedule import Schedule
from finetune_trainer.training.snapshot import (
    Snapshot,
    TrainingState,
    put_back,
    random_state,
    set_random_state,
    take,
)


class Diverged(Exception):
    """A step that must not be taken: what is wrong with it."""


@dataclass
class Loop:
    """A model in training."""

    objective: Any
    """[batch → Loss], prepared by Accelerate; its parameters that require gradients are trained in place."""
    examples: Encoded | Sets
    plan: BatchPlan
    cut: Cut
    settings: Training
    rate: float
    """The highest learning rate."""
    accelerator: Accelerator
    state: TrainingState
    ranks: Ranks = ALONE
    """Every method is called on all of them at the same step, unless it says otherwise."""
    references: Mapping[str, Tensor] = field(default_factory=dict)
    """What a snapshot keeps of the model before its first step; the same for the whole training."""

    def __post_init__(self) -> None:
        settings = self.settings
        self.schedule = Schedule(
            self.rate, settings.schedule, self.plan.total_steps, settings.warmup_fraction, settings.decay_fraction
        )
        forget_gathered(self.objective)
        self.bare = self.accelerator.unwrap_model(self.objective)
        self.trained = {name: p for name, p in self.bare.named_parameters() if p.requires_grad}
        self.optimizer = self.accelerator.prepare_optimizer(make_optimizer(self.trained.values(), settings))
        self.copies = Copies(self.trained, settings.ema_decay)

    @property
    def over(self) -> bool:
        """Whether there is no step left to take."""
        return self.state.step == self.plan.total_steps or self.state.standing.stopped

    def step(self, asked_to_stop: Callable[[], bool]) -> StepDone | None:
        """Takes the next optimizer step; None: it was asked to stop before that, and nothing has changed.

        Raises:
            Diverged: before a step that would have spoilt the weights.
        """
        number, chance = self.state.step, random_state(self.accelerator.device)
        indices = self.plan.step(number)
        units = sum(self.examples.units[index] for index in indices) / self.ranks.count  # gradients are averaged
        survey(self.bare, self.examples, indices, self.cut, self.accelerator.device, self.ranks)
        own = torch.zeros((), device=self.accelerator.device)
        rounds = self.ranks.rounds(indices, self.plan.lengths, self.cut, self.examples.targets)
        for count, parts in enumerate(rounds, 1):
            if self.ranks.alone and asked_to_stop():  # several must agree first, which they do between two steps
                self.optimizer.zero_grad()
                set_random_state(chance, self.accelerator.device)
                return None
            own += self._learn(parts[self.ranks.rank], indices[-1:], units, last=count == len(rounds))
        loss = self.ranks.sum(float(own))[0] / self.ranks.count
        penalty = self._penalize()
        norm = whole(self.accelerator.clip_grad_norm_(self.trained.values(), self.settings.max_grad_norm))
        if fault := self.state.watch.fault(loss, float(norm)):
            self.optimizer.zero_grad()
            raise Diverged(fault)
        rate = self.schedule.rate(number) * self.state.rate_factor * self.state.standing.rate_factor
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.copies.average(number)
        done = StepDone(
            step=number + 1,
            total=self.plan.total_steps,
            epoch=(number + 1) / self.plan.steps_per_epoch,
            loss=loss,
            learning_rate=rate,
            tokens=sum(self.plan.lengths[index] for index in indices),
            penalty=penalty,
        )
        self.state.advance(done)
        return done

    def _learn(self, part: list[int], stand_in: list[int], units: float, last: bool) -> Tensor:
        """Passes over the examples of ``part`` forward and backward; returns their share of the step's loss.

        A rank that has none passes over ``stand_in``, which counts for nothing: the others need it to take part.
        """
        examples = [self.examples[index] for index in part or stand_in]
        batch = self.bare.collate(examples, self.cut.packed, self.accelerator.device)
        with nullcontext() if last else self.accelerator.no_sync(self.objective):
            share = self.objective(batch).loss / units * bool(part)
            self.accelerator.backward(share)
        return share.detach()  # type: ignore[no-any-return]

    @torch.no_grad()
    def _penalize(self) -> float:
        """Adds the gradient of the L1 term, l1 · Σ|w| over all trained weights, which is their sign; returns the term.
        It is added once, and not shared out like the loss, since it does not depend on the examples."""
        if not self.settings.l1:
            return 0.0
        sums = []
        for parameter in self.trained.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.add_(parameter.sign(), alpha=self.settings.l1)
            sums.append(whole(parameter.abs().sum()))
        return self.settings.l1 * float(torch.stack(sums).sum())

    def measured(self, measure: Callable[[], Mapping[str, float] | None], judge: Judge) -> bool:
        """Measures the model between two steps, by its averaged weights where it has them, and judges it; False:
        whoever measures was asked to stop, and nothing has changed.

        Raises:
            Diverged: what was measured is no number.
            TrainerError: CONFIGURATION_INVALID, where something is watched that is not measured.
        """
        forget_gathered(self.objective)
        try:
            with self.copies.averaged():
                metrics = measure()
                if metrics is None:
                    return False
                judge.require(metrics)
                if wrong := [name for name, value in metrics.items() if not math.isfinite(value)]:
                    raise Diverged(f"{wrong[0]} on the validation records became {metrics[wrong[0]]}")
                if judge.judge(metrics, self.state.step, self.state.standing):
                    self.copies.keep_best()
        finally:
            forget_gathered(self.objective)
            self.objective.train()
        self.state.history.measured(self.state.step, metrics)
        return True

    def finish(self) -> None:
        """Makes the model the one that is published. Nothing is trained after that."""
        forget_gathered(self.objective)
        self.copies.put_in_place()

    def snapshot(self, lent: bool = False) -> Snapshot:
        """All that the steps to come depend on, on the CPU; ``lent`` to whoever is done with it before the next step.

        Taken by the first rank alone, while the others :meth:`assist`.
        """
        self.ranks.any(True)
        return self._take(lent)

    def assist(self) -> None:
        """Has the first rank take its snapshots; that calls this as well, when it has taken as many as it wants."""
        while self.ranks.any(False):
            self._take(lent=True)

    def _take(self, lent: bool) -> Snapshot:
        device = self.accelerator.device
        taken = take(self.trained, self.optimizer, self.copies, self.state, device, lent, self.ranks)
        return replace(taken, references=self.references)

    def restore(self, snapshot: Snapshot) -> None:
        """Goes on from ``snapshot``."""
        forget_gathered(self.objective)
        self.state = put_back(snapshot, self.trained, self.optimizer, self.copies, self.accelerator.device, self.ranks)
