"""The file of a download that is not whole yet, and a journal that lets another process go on with it."""

import errno
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from finetune_trainer.storage.parallel import Group

_BOOT = Path("/proc/sys/kernel/random/boot_id")


class PartFile:
    """``<name>.part``, and beside it the journal ``<name>.part.json``.

    An object is cut into pieces of equal length, each filled from its start by one thread at a time. The journal says
    of which version of the object the bytes are, and how many of each piece are there. It is believed only until the
    machine is started again: until then the kernel keeps what a killed process wrote, afterwards it may be lost.

    Whoever writes names the group it writes for: once that is abandoned, nothing of it reaches the file any more.
    """

    def __init__(self, path: Path, piece: int) -> None:
        self.path = path
        self.piece = piece
        self.etag: str | None = None
        self.size: int | None = None
        """Bytes of the object; None until the server has told."""
        self._filled: list[int] = []
        self._lock = threading.RLock()
        self._part = path.with_name(f"{path.name}.part")
        self._journal = path.with_name(f"{path.name}.part.json")
        self._file = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        with suppress(OSError, ValueError, KeyError, TypeError):
            self._resume(json.loads(self._journal.read_bytes()))

    def _resume(self, kept: Any) -> None:
        ends = [index * self.piece + count for index, count in enumerate(kept["filled"]) if count]
        if kept["boot"] == _boot() and kept["piece"] == self.piece and self._length() >= max(ends, default=0):
            self.etag, self.size, self._filled = kept["etag"], kept["size"], kept["filled"]

    def begin(self, etag: str | None, size: int) -> None:
        """Starts anew, with this version of the object."""
        self.forget()
        self.etag, self.size = etag, size
        self._filled = [0] * -(-size // self.piece)

    def forget(self) -> None:
        """What is there is of no use."""
        with self._lock:
            if self._length():
                os.ftruncate(self._file, 0)
            self._journal.unlink(missing_ok=True)
            self.etag, self.size, self._filled = None, None, []

    def rest(self, index: int) -> tuple[int, int]:
        """(first byte that piece ``index`` lacks, byte after its last)."""
        if self.size is None:
            return 0, self.piece
        start = index * self.piece
        return start + self._filled[index], min(start + self.piece, self.size)

    def full(self, index: int) -> bool:
        """Whether piece ``index`` is there."""
        start, stop = self.rest(index)
        return start >= stop

    def missing(self) -> list[int]:
        """The pieces that lack something."""
        return [index for index in range(len(self._filled)) if not self.full(index)]

    def contiguous(self) -> int:
        """Bytes before the first that is missing."""
        gap = next(iter(self.missing()), None)
        return (self.size or 0) if gap is None else self.rest(gap)[0]

    def append(self, index: int, block: memoryview, group: Group) -> None:
        """Writes what follows in piece ``index``. Raises OSError, where the disk is full for instance."""
        with self._writing(group):
            start, written = self.rest(index)[0], 0
            while written < len(block):
                written += os.pwrite(self._file, block[written:], start + written)
            self._filled[index] += len(block)

    def read(self, view: memoryview, offset: int) -> int:
        """Reads into ``view``; the number of bytes, at least one. Raises OSError where the file has lost its end."""
        if not (count := os.preadv(self._file, [view], offset)):
            raise OSError(errno.EIO, f"there is no byte {offset}", str(self._part))
        return count

    def note(self, group: Group) -> None:
        """Writes the journal, if there is something left to go on with."""
        if self.missing():
            with self._writing(group):
                self._save()

    def finish(self) -> None:
        """Gives the file its name."""
        if self._length() != self.size:
            raise OSError(errno.EIO, f"{self._length()} bytes of {self.size} are on the disk", str(self._part))
        self._part.rename(self.path)
        self._journal.unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the file; what may be of use later stays."""
        with self._lock:
            if self.missing():
                with suppress(OSError):
                    self._save()
            elif self.size is None:
                self._part.unlink(missing_ok=True)
            os.close(self._file)

    @contextmanager
    def _writing(self, group: Group) -> Iterator[None]:
        with self._lock:
            group.require()
            yield

    def _save(self) -> None:
        content = {"etag": self.etag, "size": self.size, "piece": self.piece, "filled": self._filled, "boot": _boot()}
        new = self._journal.with_suffix(".new")
        new.write_text(json.dumps(content))
        new.rename(self._journal)

    def _length(self) -> int:
        return os.fstat(self._file).st_size


def _boot() -> str:
    """Another one each time the machine is started; empty where the system does not tell."""
    return _BOOT.read_text().strip() if _BOOT.exists() else ""
