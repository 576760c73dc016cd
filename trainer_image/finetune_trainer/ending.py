"""The one place where an end is turned into exit code, termination message and a line on standard error."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path

from finetune_api.conditions import Reason
from finetune_api.run import TERMINATION_LOG_LIMIT, ExitCode, RunError, RunResult
from finetune_trainer.errors import (
    MAKE_ROOM,
    Stopped,
    TrainerError,
    is_disk_full,
    is_out_of_memory,
    is_panic,
    is_peer_lost,
    one_line,
)

logger = logging.getLogger(__name__)

CRASHED = 1
"""Exit code of a fault that nobody foresaw; the contract names no code for it."""


def run_to_end(story: Callable[[], RunResult], log: Path) -> int:
    """Runs ``story``, writes what it came to into the termination message ``log``, and returns the exit code."""
    try:
        code, result = int(ExitCode.SUCCEEDED), story()
    except BaseException as error:
        code, fault = classify(error)
        if code == CRASHED:
            logger.exception("unexpected error")
        result = RunResult(outcome="Failed", error=fault)
        print(f"{fault.reason}: {fault.message}", file=sys.stderr, flush=True)
    write_message(result.termination_message(), log)
    return code


def write_message(message: str, log: Path) -> None:
    """Writes the termination message; where that cannot be done, the exit code has to say it."""
    try:
        log.write_text(message, encoding="utf-8")
    except OSError as error:
        logger.warning("the termination message cannot be written to %s: %s", log, error.strerror)


def classify(error: BaseException) -> tuple[int, RunError]:
    """The exit code of an end, and what it is in a user's words."""
    if isinstance(error, TrainerError):
        return _of(error.code, one_line(error.message, TERMINATION_LOG_LIMIT))
    if isinstance(error, Stopped | KeyboardInterrupt):
        message = f"The training pod was asked to stop before it had finished; nothing was published. {error}"
        return _of(ExitCode.PREEMPTED, one_line(message, TERMINATION_LOG_LIMIT))
    if is_disk_full(error):
        return _of(ExitCode.DISK_FULL, f"The disk is full: {one_line(error, 300)}. {MAKE_ROOM}")
    if is_out_of_memory(error):
        return _of(ExitCode.OUT_OF_MEMORY, f"Memory ran out: {one_line(error, 300).rstrip('.')}. {_less_memory(error)}")
    if is_peer_lost(error):
        what = f"Another process of this training is gone or does not answer: {one_line(error, 300).rstrip('.')}"
        return _of(ExitCode.PEERS_LOST, f"{what}. The log of the one that ended first says why.")
    if is_panic(error):
        what = f"The model's files break the library that reads them: {one_line(error, 300).rstrip('.')}"
        return _of(ExitCode.MODEL_INVALID, f"{what}. Choose another model, or mend its tokenizer.")
    what = f"The trainer met an error that it does not know: {type(error).__name__}: {one_line(error, 400)}"
    message = f"{what.rstrip('.')}. The pod's log has the details; report it if they do not help."
    return CRASHED, RunError(reason=Reason.TRAINER_CRASHED, message=message)


def _less_memory(error: BaseException) -> str:
    """What to do, on a GPU and on the CPU."""
    less = "Lower spec.training.microBatchSize or maxLength, choose a smaller model, or"
    gpu = any(word in f"{type(error).__name__} {error}" for word in ("OutOfMemoryError", "CUDA", "CUBLAS", "CUDNN"))
    return f"{less} {'take GPUs with more memory' if gpu else 'raise spec.resources.memory'}."


def _of(code: ExitCode, message: str) -> tuple[int, RunError]:
    return int(code), RunError(reason=code.reason, message=message)
