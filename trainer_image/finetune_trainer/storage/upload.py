"""One file into one object, in such a way that what lies there afterwards is known to be what was sent.

Every piece travels with its MD5 (Content-MD5), by which servers refuse what was garbled on the way. Where the ETag that
they answer is an MD5, too, it is compared, for servers that do not look. In the end the object itself is asked for its
size and ETag.

All of it releases Python's lock, for half a mebibyte and more at a time, so that the training loop goes on beside it.
"""

import base64
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from finetune_api.run import ExitCode
from finetune_trainer.errors import TrainerError
from finetune_trainer.storage.parallel import Group, in_parallel
from finetune_trainer.storage.s3 import S3
from finetune_trainer.storage.storage_errors import MISSING, Garbled, code_of

_HASHED = 4 << 20
_SENT = 1 << 20
"""Bytes in one call of the network, which must be through within ``Patience.connect_seconds``."""
_MOST_PARTS = 10_000
"""S3's limit for a multipart upload."""
_STARTS = 3
_MD5 = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Sent:
    """What was uploaded, and lies there."""

    size: int
    """Bytes."""
    sha256: str
    """In hex."""


class _Lost(Exception):
    """The server knows nothing of a multipart upload any more."""


@dataclass(frozen=True)
class Upload:
    """One file on its way into one object."""

    s3: S3
    path: Path
    bucket: str
    key: str
    piece: int
    """Bytes of a part; a smaller file is sent by one request."""
    width: int
    """Parts at a time."""

    @property
    def uri(self) -> str:
        """``s3://bucket/key``."""
        return f"s3://{self.bucket}/{self.key}"

    def run(self, group: Group) -> Sent:
        """Sends the file, and returns when the object is there as it must be.

        Raises:
            TrainerError: as :meth:`S3.call`; STORAGE_UNAVAILABLE where what lies there is not what was sent.
            OSError: the file cannot be read.
        """
        with self.path.open("rb", buffering=0) as file:
            pieces = _Pieces(file.fileno(), self.piece)
            etag = self._whole(pieces, group) if pieces.size <= self.piece else self._in_parts(pieces, group)
        self._call(lambda api: self._require(api, pieces.size, etag), group)
        return Sent(pieces.size, pieces.sha256.hexdigest())

    def _call(self, work: Any, group: Group) -> Any:
        return self.s3.call("write", self.uri, work, group)

    def _whole(self, pieces: "_Pieces", group: Group) -> str:
        [piece] = pieces

        def put(api: Any) -> str:
            body, md5 = _Body(piece, group), piece.content_md5
            return _etag(api.put_object(Bucket=self.bucket, Key=self.key, Body=body, ContentMD5=md5), piece)

        return str(self._call(put, group))

    def _in_parts(self, pieces: "_Pieces", group: Group) -> str:
        for _ in range(_STARTS):
            with suppress(_Lost):
                return self._multipart(pieces, group)
        raise TrainerError(
            ExitCode.STORAGE_UNAVAILABLE,
            f"Cannot write {self.uri}: the server lost the multipart upload {_STARTS} times. Look at the S3 server's "
            "health, and for whatever removes unfinished uploads.",
        )

    def _multipart(self, pieces: "_Pieces", group: Group) -> str:
        target = {"Bucket": self.bucket, "Key": self.key}
        begun = self._call(lambda api: api.create_multipart_upload(**target), group)
        target["UploadId"] = begun["UploadId"]
        try:
            parts = in_parallel(pieces, partial(self._part, target), self.width, group)
            return str(self._call(lambda api: self._complete(api, target, parts, pieces.size), group))
        except BaseException:
            with suppress(TrainerError):
                self._call(lambda api: api.abort_multipart_upload(**target), Group())
            raise

    def _part(self, target: dict[str, str], piece: "_Piece", group: Group) -> dict[str, Any]:
        def put(api: Any) -> str:
            body, md5 = _Body(piece, group), piece.content_md5
            with _noticing_loss():
                return _etag(api.upload_part(**target, PartNumber=piece.number, Body=body, ContentMD5=md5), piece)

        return {"PartNumber": piece.number, "ETag": self._call(put, group)}

    def _complete(self, api: Any, target: dict[str, str], parts: list[dict[str, Any]], size: int) -> str:
        """The object's ETag; empty where the server does not tell, as Ceph's answers nothing but spaces for a while.

        Where the answer to an earlier try got lost, the upload is gone and the object is there.
        """
        try:
            with _noticing_loss():
                answer = api.complete_multipart_upload(**target, MultipartUpload={"Parts": parts})
            return str(answer.get("ETag", ""))
        except _Lost:
            there = self._there(api)
            if there is None or there[0] != size:
                raise
            return there[1]

    def _require(self, api: Any, size: int, etag: str) -> None:
        length, found = self._there(api) or (None, "")
        if length != size or etag not in ("", found):
            there = "nothing" if length is None else f"{length} bytes with ETag {found}"
            raise Garbled(f"{size} bytes with ETag {etag or 'unknown'} were sent, {there} is there")

    def _there(self, api: Any) -> tuple[int, str] | None:
        """(bytes, ETag) of the object."""
        from botocore.exceptions import ClientError  # type: ignore[import-untyped]

        try:
            content = api.head_object(Bucket=self.bucket, Key=self.key)
        except ClientError as error:
            if code_of(error) in MISSING:
                return None
            raise
        return content["ContentLength"], content.get("ETag", "")


@contextmanager
def _noticing_loss() -> Iterator[None]:
    from botocore.exceptions import ClientError

    try:
        yield
    except ClientError as error:
        if code_of(error) == "NoSuchUpload":
            raise _Lost from error
        raise


def _etag(answer: Any, piece: "_Piece") -> str:
    """The ETag of an answer. It is the MD5 of what arrived, unless a key of the user's own encrypts it."""
    etag = str(answer.get("ETag", ""))
    keyed = str(answer.get("ServerSideEncryption", "")).startswith("aws:") or "SSECustomerAlgorithm" in answer
    arrived = etag.strip('"')
    if not keyed and _MD5.fullmatch(arrived) and arrived != piece.md5.hex():
        raise Garbled(f"MD5 {piece.md5.hex()} was sent, {arrived} arrived")
    return etag


@dataclass(frozen=True)
class _Piece:
    """A section of a file."""

    file: int
    number: int
    """From 1."""
    start: int
    length: int
    """Bytes."""
    md5: bytes

    @property
    def content_md5(self) -> str:
        """As the header wants it."""
        return base64.b64encode(self.md5).decode()


class _Pieces:
    """The pieces of a file, hashed as they are taken. After the last of them ``sha256`` is that of the file."""

    def __init__(self, file: int, length: int) -> None:
        self._file = file
        self.size = os.fstat(file).st_size
        self._length = max(length, -(-self.size // _MOST_PARTS))
        self._view = memoryview(bytearray(_HASHED))
        self.sha256 = hashlib.sha256()

    def __iter__(self) -> Iterator[_Piece]:
        self.sha256 = hashlib.sha256()
        for number, start in enumerate(range(0, max(self.size, 1), self._length), 1):
            length = min(self._length, self.size - start)
            yield _Piece(self._file, number, start, length, self._hashed(start, start + length))

    def _hashed(self, position: int, stop: int) -> bytes:
        md5 = hashlib.md5(usedforsecurity=False)
        while position < stop:
            count = os.preadv(self._file, [self._view[: stop - position]], position)
            if not count:
                raise OSError(f"a file became shorter while it was uploaded: {position} bytes of {self.size}")
            md5.update(self._view[:count])
            self.sha256.update(self._view[:count])
            position += count
        return md5.digest()


class _Body:
    """A piece, as the file that botocore sends. It may give more than is asked for: http.client asks for 16 KiB.

    What it gives is valid until it is asked again. Freeing a mebibyte takes Python's lock longer than filling one.
    """

    def __init__(self, piece: _Piece, group: Group) -> None:
        self._piece = piece
        self._group = group
        self._position = 0
        self._view = memoryview(bytearray(min(_SENT, piece.length)))

    def read(self, size: int | None = None) -> memoryview:
        """The next bytes, a mebibyte at most; raises Abandoned where they are no longer wanted."""
        self._group.require()
        wanted = self._view[: self._piece.length - self._position]
        count = os.preadv(self._piece.file, [wanted], self._piece.start + self._position) if wanted else 0
        self._group.spend(count)
        self._position += count
        return wanted[:count]

    def tell(self) -> int:
        """Bytes from the piece's start."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As for any file."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._piece.length}[whence]
        self._position = base + offset
        return self._position
