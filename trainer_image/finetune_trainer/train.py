"""The training loop, on Accelerate: its device, its precision, its backward pass and its clipping.

A step's loss is the mean over the learned tokens of the whole effective batch, however it is cut into forward passes:
every token counts the same, and micro-batches change nothing but memory and time. Everything that a step depends on is
in :class:`TrainingState`, the weights, the optimizer and the random state: a snapshot of them, taken between any two
steps, is where a training goes on as if it had never stopped.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]

from finetune_api.run import ExitCode
from finetune_api.spec import Training
from finetune_trainer.batches import BatchPlan, Cut
from finetune_trainer.encoding import Encoded
from finetune_trainer.errors import Stopped, TrainerError
from finetune_trainer.objective import collate
from finetune_trainer.progress import StepDone
from finetune_trainer.schedule import Schedule
from finetune_trainer.snapshot import Snapshot, TrainingState, put_back, random_state, set_random_state, take

logger = logging.getLogger(__name__)

_REWINDS = 3
"""Times that a training goes back before it is given up."""


class Diverged(Exception):
    """A step that must not be taken: what is wrong with it."""


class Saver(Protocol):
    """Where snapshots go."""

    def before_training(self, training: "Loop") -> None:
        """Before the first step of this process."""

    def after_step(self, training: "Loop") -> None:
        """Between two steps: takes a snapshot if it is time for one."""

    def before_the_end(self, training: "Loop") -> None:
        """The process is asked to stop: saves what there is, and returns once it is safe."""

    def newest(self) -> Snapshot | None:
        """The last snapshot that was taken; None: there is none, and no way back."""


@dataclass
class Loop:
    """A model in training."""

    objective: Any
    """[batch → TokenLoss], prepared by Accelerate; its parameters that require gradients are trained in place."""
    examples: Encoded
    plan: BatchPlan
    cut: Cut
    settings: Training
    rate: float
    """The highest learning rate."""
    accelerator: Accelerator
    state: TrainingState

    def __post_init__(self) -> None:
        self.schedule = Schedule(
            self.rate, self.settings.schedule, self.plan.total_steps, self.settings.warmup_fraction
        )
        self.trained = {name: p for name, p in self.objective.named_parameters() if p.requires_grad}
        self.optimizer = self.accelerator.prepare_optimizer(_adamw(self.trained.values(), self.settings.weight_decay))

    def step(self, asked_to_stop: Callable[[], bool]) -> StepDone | None:
        """Takes the next optimizer step; None: it was asked to stop before that, and nothing has changed.

        Raises:
            Diverged: before a step that would have spoilt the weights.
        """
        number, chance = self.state.step, random_state(self.accelerator.device)
        indices = self.plan.step(number)
        labels = sum(self.examples.labels[index] for index in indices)
        loss = torch.zeros((), device=self.accelerator.device)
        for part in self.cut.micro_batches(indices, self.plan.lengths):
            if asked_to_stop():
                self.optimizer.zero_grad()
                set_random_state(chance, self.accelerator.device)
                return None
            batch = collate([self.examples[index] for index in part], self.cut.packed, self.accelerator.device)
            share = self.objective(batch).loss / labels
            self.accelerator.backward(share)
            loss += share.detach()
        norm = self.accelerator.clip_grad_norm_(self.trained.values(), self.settings.max_grad_norm)
        if fault := self.state.watch.fault(float(loss), float(norm)):
            self.optimizer.zero_grad()
            raise Diverged(fault)
        rate = self.schedule.rate(number) * self.state.rate_factor
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        done = StepDone(
            step=number + 1,
            total=self.plan.total_steps,
            epoch=(number + 1) / self.plan.steps_per_epoch,
            loss=float(loss),
            learning_rate=rate,
            tokens=sum(self.plan.lengths[index] for index in indices),
        )
        self.state.advance(done)
        return done

    def snapshot(self, lent: bool = False) -> Snapshot:
        """What the steps to come depend on, on the CPU; ``lent`` to whoever is done with it before the next step."""
        return take(self.trained, self.optimizer, self.state, self.accelerator.device, lent)

    def restore(self, snapshot: Snapshot) -> None:
        """Goes on from ``snapshot``."""
        self.state = put_back(snapshot, self.trained, self.optimizer, self.accelerator.device)


def train(
    loop: Loop, saver: Saver, asked_to_stop: Callable[[], bool], rewinds: bool, on_step: Callable[[StepDone], None]
) -> None:
    """Takes the steps that are left.

    Args:
        rewinds: whether a training that diverged goes back and on with a lower learning rate, or ends.
        on_step: is called after every optimizer step.

    Raises:
        Stopped: it was asked to stop, and the state is saved.
        TrainerError: DIVERGED.
    """
    loop.objective.train()
    saver.before_training(loop)
    while not asked_to_stop():
        if loop.state.step == loop.plan.total_steps:
            return
        try:
            done = loop.step(asked_to_stop)
        except Diverged as fault:
            _go_back(loop, saver.newest() if rewinds else None, fault)
            continue
        if done is None:
            break
        on_step(done)
        saver.after_step(loop)
    saver.before_the_end(loop)
    raise Stopped


def _go_back(loop: Loop, snapshot: Snapshot | None, fault: Diverged) -> None:
    """To the last snapshot and on with half the learning rate, or to an end."""
    number, rate, rewinds = loop.state.step, loop.schedule.rate(loop.state.step), loop.state.rewinds
    if snapshot is None or rewinds >= _REWINDS:
        raise TrainerError(
            ExitCode.DIVERGED,
            f"The {fault} at step {number + 1} (learning rate {rate * loop.state.rate_factor:.2e}"
            f"{f', after {rewinds} rewinds' if rewinds else ''}). Lower spec.training.learningRate or "
            "spec.training.maxGradNorm, or raise spec.training.warmupFraction.",
        ) from fault
    factor, resumed_at = loop.state.rate_factor / 2, loop.state.resumed_at
    loop.restore(snapshot)
    loop.state.resumed_at = resumed_at
    loop.state.rate_factor, loop.state.rewinds = factor, rewinds + 1
    logger.warning("the %s at step %d; back to step %d with half the rate", fault, number + 1, loop.state.step)


def _adamw(parameters: Any, decay: float) -> torch.optim.AdamW:
    """AdamW whose decay touches matrices only: norms and biases have no scale to keep small."""
    parameters = list(parameters)
    matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
    others = [parameter for parameter in parameters if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], fused=True)
