"""Whole runs in several processes, as a pod with several GPUs makes them; here they compute on the CPU."""

import contextlib
import signal
import time

import psutil
import pytest

from finetune_api.run import ExitCode
from finetune_local.operator_process import free_port
from tests.trainer.test_resume import result

TRAINING = {"maxSteps": 8, "learningRate": 1e-2, "maxLength": 64, "batchSize": 6}
LONG = {"maxSteps": 1_000_000, "maxLength": 64}
DROPOUT = {"lora": {"rank": 4, "dropout": 0.2}}


def run(trainer, **changes):
    """Two processes, to their end."""
    config = trainer.config(**{"training": TRAINING, "processes": 2} | changes)
    return trainer.finish(trainer.start(config), config)


def test_two_processes_publish_what_one_does_and_speak_with_one_voice(s3, trainer):
    alone = trainer.run(training=TRAINING, outputPrefix=f"s3://team-a/alone/{trainer.directory.name}/")
    both = run(trainer)
    assert (both.code, both.err) == (0, "")
    assert s3.names(both.location) == s3.names(alone.location)
    for name in ("eval_loss", "perplexity", "token_accuracy"):
        assert both.metric(name) == pytest.approx(alone.metric(name), rel=1e-5)
    losses = [[step["loss"] for step in s3.report(ended.location)["steps"]] for ended in (both, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert "2 processes share the work, and each holds all weights (DDP)" in both.out
    assert both.out.count("step 8/8") == 1
    assert list((trainer.directory / "scratch").glob("tmp*")) == []


@pytest.mark.long
def test_a_gang_that_is_stopped_and_gone_on_with_ends_in_the_same_bits(s3, trainer, await_line):
    changes = {"method": DROPOUT, "training": TRAINING | {"maxSteps": 120}}
    whole = run(trainer, outputPrefix=f"s3://team-a/whole/{trainer.directory.name}/", **changes)
    config = trainer.config(processes=2, **changes)
    process = trainer.start(config)
    await_line(process, "step 1/")
    process.send_signal(signal.SIGTERM)
    stopped = trainer.finish(process, config)
    assert stopped.code == ExitCode.PREEMPTED, stopped.err
    assert "is saved in s3://" in stopped.message
    (manifest,) = [name for name in s3.names(config.output_prefix) if name.endswith("manifest.json")]
    folder = manifest.removesuffix("manifest.json")
    assert {f"{folder}random-{rank}.safetensors" for rank in range(2)} <= set(s3.names(config.output_prefix))

    again = trainer.finish(trainer.start(config), config)
    assert (again.code, "resumed at step" in again.out) == (0, True), again.err
    assert result(s3, again) == result(s3, whole)


@pytest.mark.long
def test_what_two_processes_have_saved_one_does_not_go_on_with(s3, trainer, await_line):
    config = trainer.config(processes=2, training=TRAINING | {"maxSteps": 200}, checkpoint={"everySteps": 1})
    process = trainer.start(config)
    await_line(process, "is saved in s3://")
    process.send_signal(signal.SIGTERM)
    assert trainer.finish(process, config).code == ExitCode.PREEMPTED
    other = config.model_copy(update={"processes": 1})
    ended = trainer.finish(trainer.start(other), other)
    assert ended.code == 0
    assert "was made before the run file and the number of processes changed" in ended.out


@pytest.mark.long
@pytest.mark.parametrize("rank", [0, 1])
def test_where_one_process_is_killed_the_others_end_at_once(trainer, await_line, rank):
    config = trainer.config(training=LONG, processes=2)
    process = trainer.start(config)
    await_line(process, "step 1/")
    children = {child.environ()["RANK"]: child for child in psutil.Process(process.pid).children()}
    killed = time.monotonic()
    children[str(rank)].kill()
    ended = trainer.finish(process, config)
    assert time.monotonic() - killed < 5
    assert (ended.code, ended.result.error.reason) == (128 + signal.SIGKILL, "TrainerKilled")
    assert f"Process {rank} of the training was killed by SIGKILL" in ended.message
    assert not any(child.is_running() for child in children.values())


LITTLE_MEMORY = """
import os, resource
if os.environ.get("RANK") == "1":
    resource.setrlimit(resource.RLIMIT_AS, (600 << 20,) * 2)
"""


@pytest.mark.long
def test_a_fault_of_one_process_is_the_fault_of_all(trainer, tmp_path):
    """Process 1 has no memory: it can import torch no more."""
    (tmp_path / "sitecustomize.py").write_text(LITTLE_MEMORY)
    config = trainer.config(training=LONG, processes=2)
    ended = trainer.finish(trainer.start(config, PYTHONPATH=str(tmp_path)), config)
    assert (ended.code, ended.result.error.reason) == (ExitCode.OUT_OF_MEMORY, "OutOfMemory")


@pytest.mark.long
def test_a_users_mistake_is_told_once(trainer):
    ended = run(trainer, data=trainer.data(b'{"prompt": "a"}\n'))
    assert (ended.code, ended.result.error.reason) == (ExitCode.DATA_INVALID, "DataInvalid")
    assert len(ended.err.splitlines()) == 1


@pytest.mark.long
def test_two_nodes_train_as_one(s3, trainer, tmp_path):
    """A launcher for each, with one process; they know the first by name, as pods do."""
    alone = trainer.run(training=TRAINING, outputPrefix=f"s3://team-a/alone/{trainer.directory.name}/")
    meeting = {"NNODES": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port()), "GLOO_SOCKET_IFNAME": "lo"}
    config = trainer.config(training=TRAINING)
    with contextlib.ExitStack() as logs:
        second = trainer.start(config, NODE_RANK="1", FINETUNE_TERMINATION_LOG=str(tmp_path / "second"), **meeting)
        logs.callback(second.kill)
        first = trainer.finish(trainer.start(config, NODE_RANK="0", **meeting), config)
        assert second.wait(20) == 0
    assert (first.code, first.err) == (0, "")
    assert first.metric("eval_loss") == pytest.approx(alone.metric("eval_loss"), rel=1e-5)
    assert "2 processes share the work" in first.out
