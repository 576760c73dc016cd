"""The training loop at its beginning, or where a snapshot left it."""

import gc
import math
from array import array
from collections.abc import Callable

import torch

from finetune_api.run import ExitCode, RunConfig
from finetune_trainer.errors import TrainerError, is_out_of_memory, one_line
from finetune_trainer.scaling.machine import give_back_freed_memory, tidy_memory
from finetune_trainer.scaling.ranks import Ranks
from finetune_trainer.training.batches import BatchPlan, Cut, plan_batches
from finetune_trainer.training.fitting import find_fit
from finetune_trainer.training.loop import Loop
from finetune_trainer.training.memory import Fit
from finetune_trainer.training.passes import refer
from finetune_trainer.training.snapshot import Snapshot, TrainingState
from finetune_trainer.tuning.materials import Materials
from finetune_trainer.tuning.placement import Placed, Subject


def plan_of(config: RunConfig, materials: Materials, placed: Placed) -> BatchPlan:
    """Which examples each step is of."""
    settings = config.training
    return plan_batches(
        materials.train.lengths,
        settings.batch_size,
        settings.epochs,
        settings.max_steps,
        settings.seed,
        bucketed=not placed.layout.packed,
        weights=[(len(part.examples), part.weight) for part in materials.train.parts],
        targets=materials.train.targets,
    )


def begin(
    config: RunConfig, materials: Materials, placed: Placed, plan: BatchPlan, resumed: Snapshot | None, ranks: Ranks
) -> Loop:
    """The loop; how much goes through the model at a time is found out by trying, or is known from ``resumed``.

    Raises:
        TrainerError: CONFIGURATION_INVALID, where the model cannot be trained so.
    """
    settings, subject = config.training, placed.subject
    state = (
        TrainingState.of_dict(resumed.state)
        if resumed
        else TrainingState(fit=_find_fit(config, materials, placed, ranks))
    )
    divisor = config.micro_batch_divisor
    state.fit = fit = state.fit.divided(divisor, materials.longest, settings.activation_checkpointing)
    if fit.recompute:
        _recompute(placed)
    gc.collect()  # what was only tried out
    tidy_memory()
    loop = Loop(
        objective=placed.prepared,
        examples=materials.train,
        plan=plan,
        cut=Cut(
            placed.layout.packed,
            fit.tokens,
            math.ceil(settings.micro_batch_size / divisor) if settings.micro_batch_size else None,
            subject.virtual_tokens,
        ),
        settings=settings,
        rate=_learning_rate(config, materials, subject),
        accelerator=placed.accelerator,
        state=state,
        ranks=ranks,
    )
    if resumed:
        loop.restore(resumed)
        loop.state.fit = fit
        loop.state.resumed_at.append(resumed.step)
    return loop


def know_references(
    loop: Loop,
    materials: Materials,
    placed: Placed,
    resumed: Snapshot | None,
    on_batch: Callable[[int], None],
    ranks: Ranks,
) -> None:
    """What the model makes of all examples before its first step, where the objective must know it: asked once, and
    kept in every snapshot. ``on_batch`` is told the tokens of each batch."""
    if not placed.objective.references:
        return
    if resumed:
        loop.references = resumed.references
    else:
        found = {}
        for name, examples in materials.sets.items():
            numbers = refer(placed.objective, examples, loop.cut, placed.device, on_batch, ranks)
            found[name] = torch.frombuffer(numbers, dtype=torch.float32).view(len(examples), -1)
        loop.references = found
    for name, examples in materials.sets.items():
        examples.know(array("f", loop.references[name].flatten().tolist()))


def _find_fit(config: RunConfig, materials: Materials, placed: Placed, ranks: Ranks) -> Fit:
    packed, longest = placed.layout.packed, materials.longest
    try:
        return find_fit(placed.objective, packed, placed.accelerator, longest, config.training, ranks)
    except Exception as error:
        if not placed.subject.virtual_tokens or is_out_of_memory(error):
            raise
        raise TrainerError(  # the first pass with them: not every architecture takes what PEFT hands it
            ExitCode.CONFIGURATION_INVALID,
            f"{placed.subject.files.name} cannot be given virtual tokens: {one_line(error, 200)}. Set "
            "spec.method.adapter to lora.",
        ) from error


def _recompute(placed: Placed) -> None:
    adapter = placed.subject.adapter
    try:
        if adapter and not adapter.recomputes:
            raise ValueError("it has an adapter that hands its layers what is not computed twice")
        placed.objective.recompute()
    except ValueError as error:
        raise TrainerError(
            ExitCode.CONFIGURATION_INVALID,
            f"spec.training.activationCheckpointing is needed or asked for, but {placed.subject.files.name} cannot do "
            f"it: {one_line(error, 200)}. Set it to never, and spec.training.maxLength lower.",
        ) from error
    give_back_freed_memory()


def _learning_rate(config: RunConfig, materials: Materials, subject: Subject) -> float:
    """The highest learning rate: the user's, or the default of the method."""
    rates, adapter = materials.recipe.rates, subject.adapter
    return config.training.learning_rate or (adapter.rate * rates["adapter"] if adapter else rates["none"])
