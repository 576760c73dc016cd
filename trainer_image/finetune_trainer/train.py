"""The training loop, on Accelerate: its device, its precision, its backward pass and its clipping.

A step's loss is the mean over the learned tokens of the whole effective batch, however it is cut into forward passes:
every token counts the same, and micro-batches change nothing but memory and time.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from torch import nn

from finetune_api.run import ExitCode
from finetune_api.spec import Training
from finetune_trainer.batches import BatchPlan, micro_batches, token_budget
from finetune_trainer.encoding import Encoded
from finetune_trainer.errors import TrainerError
from finetune_trainer.losses import collate, token_loss
from finetune_trainer.progress import StepDone
from finetune_trainer.schedule import Schedule

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """What a training came to."""

    steps: tuple[StepDone, ...]

    @property
    def tokens(self) -> int:
        """Tokens trained on, padding not counted, repetitions counted."""
        return sum(step.tokens for step in self.steps)


def train(
    model: Any,
    examples: Encoded,
    plan: BatchPlan,
    settings: Training,
    rate: float,
    accelerator: Accelerator,
    on_step: Callable[[StepDone], None],
) -> Trained:
    """Trains the parameters of ``model`` that require gradients, in place.

    Args:
        rate: the highest learning rate.
        on_step: is called after every optimizer step.

    Raises:
        TrainerError: DIVERGED, before a step that would have spoilt the weights.
    """
    schedule = Schedule(rate, settings.schedule, plan.total_steps, settings.warmup_fraction)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = accelerator.prepare_optimizer(_adamw(parameters, settings.weight_decay))
    budget = token_budget(model.config.get_text_config().vocab_size)
    model.train()
    done: list[StepDone] = []
    for number, step in enumerate(plan):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(number)
        labels = sum(examples.examples[index].labels for index in step)
        loss = torch.zeros((), device=accelerator.device)
        for part in micro_batches(step, plan.lengths, settings.micro_batch_size, budget):
            batch = collate([examples.examples[index] for index in part], accelerator.device)
            share = token_loss(model, batch).loss / labels
            accelerator.backward(share)
            loss += share.detach()
        norm = accelerator.clip_grad_norm_(parameters, settings.max_grad_norm)
        _require_finite(float(loss), float(norm), number, schedule.rate(number))
        optimizer.step()
        optimizer.zero_grad()
        done.append(
            StepDone(
                step=number + 1,
                total=plan.total_steps,
                epoch=(number + 1) / plan.steps_per_epoch,
                loss=float(loss),
                learning_rate=schedule.rate(number),
                tokens=sum(plan.lengths[index] for index in step),
            )
        )
        on_step(done[-1])
    return Trained(tuple(done))


def _adamw(parameters: list[nn.Parameter], decay: float) -> torch.optim.AdamW:
    """AdamW whose decay touches matrices only: norms and biases have no scale to keep small."""
    matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
    others = [parameter for parameter in parameters if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]])


def _require_finite(loss: float, norm: float, number: int, rate: float) -> None:
    if not (math.isfinite(loss) and math.isfinite(norm)):
        what = f"loss became {loss}" if not math.isfinite(loss) else f"gradient's norm became {norm}"
        raise TrainerError(
            ExitCode.DIVERGED,
            f"The {what} at step {number + 1} (learning rate {rate:.2e}). Lower spec.training.learningRate or "
            "spec.training.maxGradNorm, or raise spec.training.warmupFraction.",
        )
