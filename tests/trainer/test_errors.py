"""How faults of the machine are recognised, whoever reports them."""

import errno
import os

import pytest
import torch
from safetensors import SafetensorError
from torch.distributed import DistBackendError, TCPStore

from finetune_api.conditions import Retry, retry_of
from finetune_api.run import ExitCode
from finetune_trainer.errors import TrainerError, is_disk_full, is_out_of_memory, is_peer_lost, one_line, writing


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded", "/scratch/model.safetensors"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("Data processing error: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_recognised_in_every_library_s_words(error):
    assert is_disk_full(error)
    assert not is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried …"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("can't start new thread"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        SafetensorError("Error while deserializing header: Cannot allocate memory (os error 12)"),
    ],
)
def test_full_memory_is_recognised_in_every_library_s_words(error):
    assert is_out_of_memory(error)
    assert not is_disk_full(error)


def of_a_store_whose_process_is_gone() -> BaseException:
    """What torch raises."""
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    client = TCPStore("127.0.0.1", server.port, is_master=False, wait_for_workers=False)
    del server
    with pytest.raises(RuntimeError) as caught:
        client.add("anything", 1)
    return caught.value


@pytest.mark.parametrize(
    "error",
    [
        of_a_store_whose_process_is_gone(),
        DistBackendError("NCCL error: remote process exited or there was a network error"),
        RuntimeError(
            "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]"
        ),
    ],
)
def test_a_process_that_is_gone_is_recognised_however_it_was_spoken_to(error):
    assert is_peer_lost(error)
    assert not is_out_of_memory(error)


def test_another_error_is_none_of_them():
    error = OSError(errno.ECONNRESET, "Connection reset by peer")
    assert not is_disk_full(error)
    assert not is_out_of_memory(error)
    assert not is_peer_lost(error)


def test_a_full_disk_is_told_with_what_was_written_and_how_much_room_there_is(tmp_path):
    with (
        pytest.raises(TrainerError, match=r"no room for the model: [0-9.]+ .iB of [0-9.]+ .iB are free at /") as caught,
        writing("the model", tmp_path / "not" / "there"),
        open("/dev/full", "wb") as file,
    ):
        file.write(b"x")
    assert caught.value.code is ExitCode.DISK_FULL
    assert retry_of(caught.value.code.reason) is Retry.COUNTED


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "denied"), TrainerError(ExitCode.DATA_INVALID, "Bad.")])
def test_what_is_no_full_disk_goes_on_as_it_is(tmp_path, error):
    with pytest.raises(type(error)) as caught, writing("the model", tmp_path):
        raise error
    assert caught.value is error


def test_what_a_library_says_becomes_one_printable_bounded_line():
    assert one_line(ValueError("a\n\tb \x1b[31mred\0 \ud800c")) == "a b [31mred c"
    assert one_line(ValueError()) == "ValueError"
    assert len(one_line(ValueError("x" * 10**6), 100)) == 100
