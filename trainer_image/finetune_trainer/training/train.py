"""A training from where it stands to its end: steps, snapshots, the way back after a divergence, a request to stop."""

import logging
from collections.abc import Callable

from finetune_api.run import ExitCode
from finetune_trainer.errors import Stopped, TrainerError
from finetune_trainer.progress import StepDone
from finetune_trainer.training.judging import Judge, Measure
from finetune_trainer.training.loop import Diverged, Loop
from finetune_trainer.training.saving import Saver, SharedSaver
from finetune_trainer.training.snapshot import Snapshot

logger = logging.getLogger(__name__)

_REWINDS = 3
"""Times that a training goes back before it is given up."""


def train(
    loop: Loop,
    saver: Saver | None,
    asked_to_stop: Callable[[], bool],
    rewinds: bool,
    on_step: Callable[[StepDone], None],
    judge: Judge,
    measure: Measure,
) -> None:
    """Takes the steps that are left, and measures between them where that is due.

    Args:
        saver: the first rank's.
        rewinds: whether a training that diverged goes back and on with a lower learning rate, or ends.
        on_step: is called after every optimizer step.
        judge: knows when to measure, and what follows from it.
        measure: is called between steps.

    Raises:
        Stopped: it was asked to stop, and the state is saved.
        TrainerError: DIVERGED.
    """
    loop.objective.train()
    shared = SharedSaver(saver, loop.ranks)
    shared.before_training(loop)
    while not loop.ranks.any(asked_to_stop()):
        due = judge.due(loop.state.step, loop.state.standing)  # also where a process before was stopped in it
        if loop.over and not due:
            loop.finish()
            return
        try:
            if due:
                if not loop.measured(lambda: measure(asked_to_stop), judge):
                    break
            else:
                done = loop.step(asked_to_stop)
                if done is None:
                    break
                on_step(done)
        except Diverged as fault:
            _go_back(loop, shared.newest() if rewinds else None, fault)
            continue
        if not judge.due(loop.state.step, loop.state.standing):
            shared.after_step(loop)
    shared.before_the_end(loop)
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
