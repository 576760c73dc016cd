"""Everything that may go wrong in a way we understand."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune_api.run import ExitCode

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_DISK_FULL_WORDS = ("No space left on device", "Disk quota exceeded")
"""Libraries written in Rust (safetensors, tokenizers, hf_xet) raise exceptions of their own with the system's words."""
_NO_MEMORY_TYPES = {"MemoryError", "OutOfMemoryError"}
_NO_MEMORY_WORDS = (
    "can't allocate memory",  # torch's allocator on the CPU
    "Cannot allocate memory",  # ENOMEM in the words of mmap, fork and Rust
    "failed to map segment from shared object",  # importing a library
    "CUDA error: out of memory",
    "ALLOC_FAILED",  # CUBLAS_STATUS_…, CUDNN_STATUS_…, CUSOLVER_STATUS_…
    "can't start new thread",  # no memory for its stack, or the pod's limit of processes
    "std::bad_alloc",
)

MAKE_ROOM = "Free room on the node (it is the pod's ephemeral storage), or choose a smaller model or data set."


class TrainerError(Exception):
    """An expected fault: the code says whose it is, the message names the cause and the mend in a sentence or two."""

    def __init__(self, code: ExitCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Stopped(BaseException):
    """SIGTERM arrived. Not an ``Exception``, so that no library's ``except Exception`` can swallow it.

    ``str()`` says what the next pod begins with.
    """

    def __init__(self, outlook: str = "The next pod goes on from the newest checkpoint, if there is one.") -> None:
        super().__init__(outlook)


def one_line(error: object, limit: int = 600) -> str:
    """What an exception of a library says, fit for the inside of a sentence: one line, bounded, printable."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(error)[: 4 * limit]).split())
    text = text or type(error).__name__
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the CPU or on a GPU. Needs no torch."""
    named = {kind.__name__ for kind in type(error).__mro__}
    return bool(named & _NO_MEMORY_TYPES) or any(words in str(error) for words in _NO_MEMORY_WORDS)


def is_peer_lost(error: BaseException) -> bool:
    """Whether another process of this training is gone, or does not answer. Needs no torch."""
    named = {kind.__name__ for kind in type(error).__mro__}
    return "DistError" in named or ("RuntimeError" in named and "gloo" in str(error))


def is_disk_full(error: BaseException) -> bool:
    """Whether a file could not be written because the disk, or a quota on it, is full."""
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        return True
    return any(words in str(error) for words in _DISK_FULL_WORDS)


def is_panic(error: BaseException) -> bool:
    """Whether a library written in Rust broke on what it was given. Its panics are no ``Exception``."""
    return type(error).__name__ == "PanicException"


@contextmanager
def writing(what: str, directory: Path) -> Iterator[None]:
    """Says what was being written into ``directory`` where the disk is full.

    Raises:
        TrainerError: DISK_FULL.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, TrainerError) or not is_disk_full(error):
            raise
        raise disk_full(what, directory) from error


def disk_full(what: str, directory: Path, needed: int | None = None) -> TrainerError:
    """The disk of ``directory`` has no room for ``what``, which takes ``needed`` bytes where that is known."""
    room = shutil.disk_usage(next(path for path in (directory, *directory.absolute().parents) if path.exists()))
    takes = f", and it takes {_size(needed)}" if needed is not None else ""
    return TrainerError(
        ExitCode.DISK_FULL,
        f"The disk has no room for {what}: {_size(room.free)} of {_size(room.total)} are free at {directory}{takes}. "
        f"{MAKE_ROOM}",
    )


def _size(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.1f} MiB"
