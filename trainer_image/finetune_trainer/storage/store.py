"""S3: objects in, objects out.

What is behind it: the connection with its credentials and retries (``s3``), what errors mean to a user
(``storage_errors``), and the transfers (``download``, ``upload``).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from finetune_api.plain import odd_in_uri
from finetune_api.run import ExitCode
from finetune_api.spec import Storage
from finetune_trainer.errors import TrainerError, one_line
from finetune_trainer.storage.download import Download
from finetune_trainer.storage.parallel import Group, in_parallel
from finetune_trainer.storage.patience import Patience
from finetune_trainer.storage.s3 import S3
from finetune_trainer.storage.storage_errors import MISSING, TAKEN, code_of
from finetune_trainer.storage.upload import Sent, Upload

PIECE = 64 << 20
_WIDTH = 4
"""Objects at a time, and pieces of one object."""
SMALL = 64 << 20
"""Bytes that an object which is read into memory may have: manifests and the like."""
T = TypeVar("T")


@dataclass(frozen=True)
class Stored:
    """One object below a prefix."""

    name: str
    """Key, relative to the prefix."""
    size: int
    """Bytes."""
    etag: str
    """Another one once the object was overwritten with other bytes."""


class Store:
    """One S3 account. All locations are URIs (``s3://bucket/key``); all methods may be called from several threads.

    Every method raises TrainerError: STORAGE_REFUSED where the server said no (bucket or key missing, access denied),
    STORAGE_UNAVAILABLE where it could not be reached or kept failing. Every request is repeated with growing pauses
    until ``patience`` is at its end: under half a minute for a server that never answered, under three minutes for one
    that did. A thread that is interrupted in a transfer (SIGTERM) takes the transfer down with it.

    Args:
        settings: endpoint, region and checksums. Credentials come from the environment or the pod's identity.
        patience: time-outs and pauses.
        piece: bytes that are moved by one request. Larger objects go in several, four at a time.
    """

    def __init__(self, settings: Storage, patience: Patience | None = None, piece: int = PIECE) -> None:
        self._s3 = S3(settings, patience or Patience())
        self._piece = piece

    def read(self, uri: str) -> bytes:
        """The whole of a small object."""
        bucket, key = split(uri)
        return self._s3.call("read", uri, lambda api: _whole(api.get_object(Bucket=bucket, Key=key), uri))

    def read_if_there(self, uri: str) -> bytes | None:
        """The whole of a small object, or None where there is none. A missing bucket is an error."""
        bucket, key = split(uri)

        def read(api: Any) -> bytes | None:
            answer = _unless(MISSING, lambda: api.get_object(Bucket=bucket, Key=key))
            return None if answer is None else _whole(answer, uri)

        return self._s3.call("read", uri, read)

    def download(self, uri: str, path: Path, sha256: str | None = None) -> str:
        """Fetches an object into the file ``path``, which appears only when it is whole. Returns its SHA-256 in hex.

        A transfer that broke off leaves ``<path>.part``, with which the next call goes on.

        Raises:
            WrongBytes: it has not the digest ``sha256``, where one is given, not even when it is fetched again.
            OSError: of the disk, ENOSPC for instance.
        """
        return str(self._download(uri, path, sha256, True, Group()))

    def _download(self, uri: str, path: Path, sha256: str | None, hashed: bool, group: Group) -> str | None:
        return Download(self._s3, *split(uri), path, self._piece, _WIDTH).run(sha256, hashed, group)

    def objects(self, prefix: str) -> list[Stored]:
        """The objects below a prefix that ends in ``/``, by name."""
        bucket, key = split(prefix)

        def listed(api: Any) -> list[Stored]:
            pages = api.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key)
            return [
                Stored(entry["Key"].removeprefix(key), entry["Size"], entry["ETag"])
                for page in pages
                for entry in page.get("Contents", ())
                if not entry["Key"].endswith("/")
            ]

        return self._s3.call("list", prefix, listed)

    def download_all(
        self, prefix: str, names: list[str], directory: Path, sha256: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """Fetches the objects ``names`` below ``prefix`` into ``directory``, several at a time.

        Returns the SHA-256 of each, in hex, by name. Raises as :meth:`download`, for the digests ``sha256`` by name.
        """
        known = sha256 or {}

        def fetch(name: str, group: Group) -> str:
            return str(self._download(f"{prefix}{name}", directory / name, known.get(name), True, group))

        return dict(zip(names, in_parallel(names, fetch, _WIDTH), strict=True))

    def fetch_all(self, prefix: str, names: list[str], directory: Path) -> None:
        """:meth:`download_all` for objects of which nobody wants a digest: for half the processor time."""

        def fetch(name: str, group: Group) -> None:
            self._download(f"{prefix}{name}", directory / name, None, False, group)

        in_parallel(names, fetch, _WIDTH)

    def upload_all(self, directory: Path, names: list[str], prefix: str, above: Group | None = None) -> dict[str, Sent]:
        """Writes the files ``names`` of ``directory`` below ``prefix``, several at a time.

        Returns, by name, what lies there now: the digests are those of the bytes that were sent, every piece arrived
        with the digest it was sent with, and every object was found in its place and size. **A manifest over these
        digests may be written.** Where that cannot be said of all of them, TrainerError is raised; then some of the
        objects may exist, but no unfinished multipart upload.

        Args:
            directory, names, prefix: from where, which, and to where.
            above: whom the uploads belong to; once that is abandoned, Abandoned is raised.
        """

        def send(name: str, group: Group) -> Sent:
            return self._upload(directory / name, f"{prefix}{name}", group)

        return dict(zip(names, in_parallel(names, send, _WIDTH, above), strict=True))

    def _upload(self, path: Path, uri: str, group: Group) -> Sent:
        return Upload(self._s3, path, *split(uri), self._piece, _WIDTH).run(group)

    def create(self, uri: str, content: bytes) -> bool:
        """Writes an object if there is none of that name yet. Returns whether it was this call that wrote it.

        A request that was carried out but whose answer got lost is repeated, and then finds its own object: a caller
        that gets False must look whether what lies there is its own.
        """
        bucket, key = split(uri)
        written = {"Bucket": bucket, "Key": key, "Body": content, "ContentType": "application/json"}

        def create(api: Any) -> bool:
            return _unless(TAKEN, lambda: api.put_object(**written, IfNoneMatch="*")) is not None

        return self._s3.call("write", uri, create)

    def remove_all(self, uris: list[str]) -> None:
        """Deletes objects."""
        in_parallel(uris, self._remove, _WIDTH)

    def _remove(self, uri: str, group: Group) -> None:
        bucket, key = split(uri)
        self._s3.call("delete", uri, lambda api: api.delete_object(Bucket=bucket, Key=key), group)


def _unless(codes: set[str], request: Callable[[], T]) -> T | None:
    """The answer to a request, or None where the server answers with one of the error ``codes``."""
    from botocore.exceptions import ClientError  # type: ignore[import-untyped]

    try:
        return request()
    except ClientError as error:
        if code_of(error) in codes:
            return None
        raise


def _whole(answer: Mapping[str, Any], uri: str) -> bytes:
    """The body of an answer, which is not read where it is too large for memory."""
    if answer["ContentLength"] > SMALL:
        raise TrainerError(
            ExitCode.STORAGE_REFUSED,
            f"{uri} has {answer['ContentLength']} bytes, and no manifest is that large. Remove it or choose another "
            "URI.",
        )
    return bytes(answer["Body"].read())


def split(uri: str) -> tuple[str, str]:
    """``s3://bucket/key`` → (bucket, key).

    Raises:
        TrainerError: STORAGE_REFUSED where a server might take the key for another place than it shows.
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if odd_in_uri(uri) or {".", ".."} & {bucket, *key.split("/")}:
        raise TrainerError(
            ExitCode.STORAGE_REFUSED,
            f"{one_line(ascii(uri), 200)} is no plain place in S3: it has a part . or .., a backslash, an escape such "
            "as %2e, or a character that does not show as what it is. Rename the object.",
        )
    return bucket, key
