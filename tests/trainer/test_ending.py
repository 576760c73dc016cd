"""Every end has an exit code, a termination message and one line on standard error."""

import errno
import logging

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from finetune_api.conditions import Reason
from finetune_api.run import TERMINATION_LOG_LIMIT, ExitCode, RunResult
from finetune_trainer.ending import CRASHED, run_to_end
from finetune_trainer.errors import Stopped, TrainerError


def broken_by_a_pattern() -> BaseException:
    """What tokenizers raises, which is no Exception, where a pattern takes too many steps."""
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0, "!": 1}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(a+)+$"), "isolated")
    with pytest.raises(BaseException, match="retry-limit-in-match") as caught:
        tokenizer.encode("a" * 100 + "!")
    return caught.value


@pytest.mark.parametrize(
    ("error", "code", "reason", "said"),
    [
        (TrainerError(ExitCode.DIVERGED, "The loss became nan."), ExitCode.DIVERGED, Reason.DIVERGED, "became nan."),
        (Stopped(), ExitCode.PREEMPTED, Reason.PREEMPTED, "asked to stop before it had finished"),
        (KeyboardInterrupt(), ExitCode.PREEMPTED, Reason.PREEMPTED, "asked to stop"),
        (MemoryError(), ExitCode.OUT_OF_MEMORY, Reason.OUT_OF_MEMORY, "Lower spec.training.microBatchSize"),
        (torch.OutOfMemoryError("CUDA out of memory"), ExitCode.OUT_OF_MEMORY, Reason.OUT_OF_MEMORY, "CUDA"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
            ExitCode.OUT_OF_MEMORY,
            Reason.OUT_OF_MEMORY,
            "resources.memory",
        ),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            ExitCode.OUT_OF_MEMORY,
            Reason.OUT_OF_MEMORY,
            "take GPUs with more memory",
        ),
        (RuntimeError("can't start new thread"), ExitCode.OUT_OF_MEMORY, Reason.OUT_OF_MEMORY, "can't start new"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/tmp/cache"),
            ExitCode.DISK_FULL,
            Reason.DISK_FULL,
            "The disk is full: [Errno 28] No space left on device: '/tmp/cache'. Free room on the node",
        ),
        (
            RuntimeError("[/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer"),
            ExitCode.PEERS_LOST,
            Reason.PEERS_LOST,
            "Another process of this training is gone or does not answer",
        ),
        (broken_by_a_pattern(), ExitCode.MODEL_INVALID, Reason.MODEL_INVALID, "retry-limit-in-match over"),
        (
            TrainerError(ExitCode.DATA_INVALID, "s3://b/a\n\0b\ud800: empty."),
            ExitCode.DATA_INVALID,
            Reason.DATA_INVALID,
            "s3://b/a b : empty.",
        ),
        (ZeroDivisionError("by\nzero"), CRASHED, Reason.TRAINER_CRASHED, "ZeroDivisionError: by zero"),
        (ValueError("x" * 10_000), CRASHED, Reason.TRAINER_CRASHED, "The pod's log has the details"),
    ],
)
def test_an_error_becomes_a_code_a_message_and_a_line(tmp_path, capsys, caplog, error, code, reason, said):
    def story():
        raise error

    log = tmp_path / "termination-log"
    assert run_to_end(story, log) == code
    result = RunResult.model_validate_json(log.read_bytes())
    assert (result.outcome, result.error.reason) == ("Failed", reason)
    assert said in result.error.message
    assert log.stat().st_size <= TERMINATION_LOG_LIMIT
    assert capsys.readouterr().err == f"{reason}: {result.error.message}\n"
    tracebacks = [record for record in caplog.records if record.exc_info]
    assert bool(tracebacks) is (code == CRASHED)


def test_a_good_end_says_nothing_on_standard_error(tmp_path, capsys):
    result = RunResult(outcome="Succeeded")
    assert run_to_end(lambda: result, tmp_path / "log") == 0
    assert RunResult.model_validate_json((tmp_path / "log").read_bytes()) == result
    assert capsys.readouterr().err == ""


def test_a_termination_message_that_cannot_be_written_leaves_the_exit_code(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert run_to_end(lambda: RunResult(outcome="Succeeded"), tmp_path / "none" / "log") == 0
    assert "cannot be written" in caplog.text
