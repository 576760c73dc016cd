"""One object into one file: in pieces, several at a time, going on where a transfer broke off.

Every piece but the very first request is asked for with If-Match, so that all bytes are of one version of the object.
"""

import hashlib
import threading
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from finetune_api.run import ExitCode
from finetune_trainer.errors import TrainerError
from finetune_trainer.storage.parallel import Group, in_parallel
from finetune_trainer.storage.partfile import PartFile
from finetune_trainer.storage.s3 import S3
from finetune_trainer.storage.storage_errors import TAKEN, UNSATISFIABLE, BrokenOff, WrongBytes, code_of
from finetune_trainer.storage.wire import Wire

_HASHED = 4 << 20


class _Changed(Exception):
    """The object is another than the one whose bytes are already there."""


@dataclass(frozen=True)
class Download:
    """One object on its way into one file. The parts of it:

    ``path.part`` with its journal while it is not whole (``partfile``), the connection (``wire``), and a SHA-256 that
    follows behind the first piece that is missing.
    """

    s3: S3
    bucket: str
    key: str
    path: Path
    piece: int
    """Bytes of a piece."""
    width: int
    """Pieces at a time."""

    @property
    def uri(self) -> str:
        """``s3://bucket/key``."""
        return f"s3://{self.bucket}/{self.key}"

    def run(self, expected: str | None, hashed: bool, group: Group) -> str | None:
        """Fetches the object; the file appears only when it is whole.

        Args:
            expected: SHA-256 that it must have, in hex, where it is known.
            hashed: whether the digest is wanted, where none is expected.
            group: whom it belongs to.

        Returns:
            its SHA-256 in hex, if wanted.

        Raises:
            TrainerError: as :meth:`S3.call`; STORAGE_UNAVAILABLE, too, where the object changes time and again.
            WrongBytes: the digest is not the expected one.
            OSError: of the disk, ENOSPC for instance.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = PartFile(self.path, self.piece)
        try:
            return self._fetched(part, expected, hashed, group)
        finally:
            part.close()

    def _fetched(self, part: PartFile, expected: str | None, hashed: bool, group: Group) -> str | None:
        """At most twice: an object that changed meanwhile, and bytes with another digest, are fetched anew once."""
        for last in (False, True):
            digest = _Digest(part) if hashed or expected else None
            try:
                self._fill(part, digest, group)
            except _Changed:
                part.forget()
                if last:
                    raise self._unsteady() from None
                continue
            found = digest.finished() if digest else None
            if expected in (None, found):
                part.finish()
                return found
            part.forget()
        raise WrongBytes(self.uri, str(found), str(expected))

    def _fill(self, part: PartFile, digest: "_Digest | None", group: Group) -> None:
        if part.size is None:
            self._piece(part, digest, 0, group)
        in_parallel(part.missing(), partial(self._piece, part, digest), self.width, group)

    def _piece(self, part: PartFile, digest: "_Digest | None", index: int, group: Group) -> None:
        self.s3.call("read", self.uri, lambda api: self._transfer(api, part, index, group), group)
        part.note(group)
        if digest:
            digest.follow()

    def _transfer(self, api: Any, part: PartFile, index: int, group: Group) -> None:
        """Appends what piece ``index`` lacks; what was appended stays when it breaks off."""
        start, stop = part.rest(index)
        answer = self._asked(api, start, stop, part.etag)
        if part.size is None:
            part.begin(answer.etag, answer.size)
        elif (answer.etag, answer.size) != (part.etag, part.size):
            raise _Changed
        if not answer.size:
            return
        with closing(Wire(answer.body, answer.length, self.s3.patience.silence_seconds).blocks()) as blocks:
            for block in blocks:
                part.append(index, block, group)
        if not part.full(index):
            raise BrokenOff(f"{answer.length} bytes came where {stop - start} were asked for")

    def _asked(self, api: Any, start: int, stop: int, etag: str | None) -> "_Answer":
        from botocore.exceptions import ClientError  # type: ignore[import-untyped]

        condition = {"IfMatch": etag} if etag else {}
        try:
            content = api.get_object(Bucket=self.bucket, Key=self.key, Range=f"bytes={start}-{stop - 1}", **condition)
        except ClientError as error:
            if code_of(error) in TAKEN:
                raise _Changed from error
            if code_of(error) not in UNSATISFIABLE:
                raise
            if start:
                raise _Changed from error
            return _empty(api.get_object(Bucket=self.bucket, Key=self.key))
        return _answer(content, start, stop)

    def _unsteady(self) -> TrainerError:
        return TrainerError(
            ExitCode.STORAGE_UNAVAILABLE,
            f"Cannot read {self.uri}: it was overwritten while it was read, twice. Start again when nothing writes it "
            "any more.",
        )


@dataclass(frozen=True)
class _Answer:
    body: Any
    length: int
    """Bytes of the body."""
    etag: str | None
    size: int
    """Bytes of the object."""


def _answer(content: Any, start: int, stop: int) -> _Answer:
    """Checks that what is answered was asked for, by its ``Content-Range: bytes <start>-<last>/<size>``."""
    told = str(content.get("ContentRange", "no range"))
    span, _, size = told.removeprefix("bytes ").partition("/")
    length = int(content.get("ContentLength") or 0)
    if span.partition("-")[0] != str(start) or not size.isdecimal() or not 0 < length <= stop - start:
        content["Body"].close()
        raise BrokenOff(f"bytes {start}-{stop - 1} were asked for, {length} bytes with {told} came")
    return _Answer(content["Body"], length, content.get("ETag"), int(size))


def _empty(content: Any) -> _Answer:
    """An object of which there is no byte to ask for."""
    if content["Body"].read():
        raise BrokenOff("the server refused a range that it has")
    return _Answer(None, 0, content.get("ETag"), 0)


class _Digest:
    """The SHA-256 of a file that fills up, which follows behind its first gap."""

    def __init__(self, part: PartFile) -> None:
        self._part = part
        self._sha256 = hashlib.sha256()
        self._position = 0
        self._view = memoryview(bytearray(_HASHED))
        self._lock = threading.Lock()

    def follow(self) -> None:
        """Takes in what has become there; at once nothing where another thread is at it, which takes it in instead."""
        if self._lock.acquire(blocking=False):
            try:
                self._take_in()
            finally:
                self._lock.release()

    def finished(self) -> str:
        """In hex, of the whole file."""
        with self._lock:
            self._take_in()
        return self._sha256.hexdigest()

    def _take_in(self) -> None:
        while (left := self._part.contiguous() - self._position) > 0:
            count = self._part.read(self._view[:left], self._position)
            self._sha256.update(self._view[:count])
            self._position += count
