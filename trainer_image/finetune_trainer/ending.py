"""The one place where an end is turned into exit code, termination message and a line on standard error."""

import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from finetune_api.conditions import Reason
from finetune_api.run import ExitCode, RunError, RunResult
from finetune_trainer.errors import Stopped, TrainerError, is_out_of_memory, one_line

logger = logging.getLogger(__name__)

CRASHED = 1
"""Exit code of a fault that nobody foresaw; the contract names no code for it."""


def run_to_end(story: Callable[[], RunResult], log: Path) -> int:
    """Runs ``story``, writes what it came to into the termination message ``log``, and returns the exit code."""
    try:
        code, result = int(ExitCode.SUCCEEDED), story()
    except BaseException as error:
        code, fault = _classify(error)
        if code == CRASHED:
            logger.exception("unexpected error")
        result = RunResult(outcome="Failed", error=fault)
        print(f"{fault.reason}: {fault.message}", file=sys.stderr, flush=True)
    try:
        log.write_text(result.termination_message(), encoding="utf-8")
    except OSError as error:
        logger.warning("the termination message cannot be written to %s: %s", log, error.strerror)
    return code


def _classify(error: BaseException) -> tuple[int, RunError]:
    if isinstance(error, TrainerError):
        return int(error.code), RunError(reason=error.code.reason, message=error.message)
    if isinstance(error, Stopped | KeyboardInterrupt):
        message = "The training pod was asked to stop before it had finished; nothing was published."
        return _of(ExitCode.PREEMPTED, message)
    if is_out_of_memory(error):
        return _of(
            ExitCode.OUT_OF_MEMORY,
            f"Memory ran out: {one_line(error, 300)}. Lower spec.training.microBatchSize or maxLength, choose a "
            "smaller model, or raise spec.resources.memory.",
        )
    what = f"The trainer met an error that it does not know: {type(error).__name__}: {one_line(error, 400)}"
    message = f"{what.rstrip('.')}. The pod's log has the details; report it if they do not help."
    return CRASHED, RunError(reason=Reason.TRAINER_CRASHED, message=message)


def _of(code: ExitCode, message: str) -> tuple[int, RunError]:
    return int(code), RunError(reason=code.reason, message=message)


def stop_on_sigterm() -> None:
    """Makes SIGTERM raise Stopped in the main thread; a second one ends the process at once."""
    asked = False

    def stop(_signal: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            os._exit(ExitCode.PREEMPTED)
        asked = True
        raise Stopped

    signal.signal(signal.SIGTERM, stop)


def ignore_sigterm() -> None:
    """From here on the end is known, and what is left to do takes no longer than a pod's grace."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
