"""S3: objects in, objects out, and what its errors mean to a user. boto3 is imported with the first call.

Credentials come from the environment or the pod's identity, as boto3 finds them.
"""

import functools
import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.run import ExitCode
from finetune_api.spec import Storage
from finetune_trainer.errors import TrainerError, one_line

_CHUNK = 1 << 20
_ATTEMPTS = 3
_CONNECT_SECONDS, _READ_SECONDS = 4, 8
"""A server that does not answer costs at most attempts × (connect or read) plus 3 s of back-off: under 30 s."""
_PARALLEL = 4

_MISSING = {"NoSuchKey", "404", "NotFound"}
_TAKEN = {"PreconditionFailed", "412"}
_CONTENDED = {"ConditionalRequestConflict", "OperationAborted", "409"}
_NO_CONDITIONS = {"NotImplemented", "501"}
_NETWORK = {
    "ConnectionError",  # botocore's: no such host, connection refused or timed out, TLS, proxy
    "HTTPClientError",  # closed connections, read time-outs, broken streams
    "IncompleteReadError",
}


@dataclass(frozen=True)
class Stored:
    """One object below a prefix."""

    name: str
    """Key, relative to the prefix."""
    size: int
    """Bytes."""


class Store:
    """One S3 account. All locations are URIs (``s3://bucket/key``); all methods may be called from several threads.

    Every method raises TrainerError: STORAGE_REFUSED where the server said no (bucket or key missing, access denied),
    STORAGE_UNAVAILABLE where it could not be reached or kept failing.
    """

    def __init__(self, settings: Storage) -> None:
        self._settings = settings

    @functools.cached_property
    def _client(self) -> Any:
        import boto3  # type: ignore[import-untyped]
        from botocore.config import Config  # type: ignore[import-untyped]

        settings = self._settings
        fallback = "WhenRequired" if settings.endpoint_url else "WhenSupported"
        checksums = {"WhenRequired": "when_required", "WhenSupported": "when_supported"}[settings.checksums or fallback]
        return boto3.session.Session().client(
            "s3",
            endpoint_url=settings.endpoint_url,
            region_name=settings.region or "us-east-1",
            config=Config(
                connect_timeout=_CONNECT_SECONDS,
                read_timeout=_READ_SECONDS,
                retries={"total_max_attempts": _ATTEMPTS, "mode": "standard"},
                max_pool_connections=4 * _PARALLEL,
                request_checksum_calculation=checksums,
                response_checksum_validation=checksums,
            ),
        )

    def read(self, uri: str) -> bytes:
        """The whole of a small object."""
        bucket, key = split(uri)
        with self._explained(uri, "read"):
            return bytes(self._client.get_object(Bucket=bucket, Key=key)["Body"].read())

    def read_if_there(self, uri: str) -> bytes | None:
        """The whole of a small object, or None where there is none. A missing bucket is an error."""
        from botocore.exceptions import ClientError  # type: ignore[import-untyped]

        bucket, key = split(uri)
        with self._explained(uri, "read"):
            try:
                return bytes(self._client.get_object(Bucket=bucket, Key=key)["Body"].read())
            except ClientError as error:
                if _code(error) in _MISSING:
                    return None
                raise

    def download(self, uri: str, path: Path) -> str:
        """Fetches an object into the file ``path``, which appears only when it is whole. Returns its SHA-256 in hex."""
        path.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._download_once(uri, path)
            except TrainerError as error:
                if error.code is not ExitCode.STORAGE_UNAVAILABLE or not _broke_off(error) or attempt == _ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    def _download_once(self, uri: str, path: Path) -> str:
        bucket, key = split(uri)
        digest = hashlib.sha256()
        part = path.with_name(path.name + ".part")
        with self._explained(uri, "read"), part.open("wb") as file:
            body = self._client.get_object(Bucket=bucket, Key=key)["Body"]
            for chunk in body.iter_chunks(_CHUNK):
                digest.update(chunk)
                file.write(chunk)
        part.rename(path)
        return digest.hexdigest()

    def objects(self, prefix: str) -> list[Stored]:
        """The objects below a prefix that ends in ``/``, by name."""
        bucket, key = split(prefix)
        with self._explained(prefix, "list"):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key)
            return [
                Stored(entry["Key"].removeprefix(key), entry["Size"])
                for page in pages
                for entry in page.get("Contents", ())
                if not entry["Key"].endswith("/")
            ]

    def download_all(self, prefix: str, names: list[str], directory: Path) -> dict[str, str]:
        """Fetches the objects ``names`` below ``prefix`` into ``directory``, several at a time.

        Returns the SHA-256 of each, in hex, by name.
        """
        return _in_parallel(names, lambda name: self.download(f"{prefix}{name}", directory / name))

    def upload_all(self, directory: Path, names: list[str], prefix: str) -> None:
        """Writes the files ``names`` of ``directory`` below ``prefix``, several at a time."""
        _in_parallel(names, lambda name: self._upload(directory / name, f"{prefix}{name}"))

    def _upload(self, path: Path, uri: str) -> None:
        bucket, key = split(uri)
        with self._explained(uri, "write"):
            self._client.upload_file(str(path), bucket, key)

    def create(self, uri: str, content: bytes) -> bool:
        """Writes an object if there is none of that name yet. Returns whether it was this call that wrote it.

        A request that was carried out but whose answer got lost is repeated, and then finds its own object: a caller
        that gets False must look whether what lies there is its own.
        """
        from botocore.exceptions import ClientError

        bucket, key = split(uri)
        with self._explained(uri, "write"):
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    self._client.put_object(
                        Bucket=bucket, Key=key, Body=content, IfNoneMatch="*", ContentType="application/json"
                    )
                    return True
                except ClientError as error:
                    if _code(error) in _TAKEN:
                        return False
                    if _code(error) not in _CONTENDED or attempt == _ATTEMPTS:
                        raise
        raise AssertionError("unreachable")

    def remove_all(self, uris: list[str]) -> None:
        """Deletes objects."""

        def remove(uri: str) -> None:
            bucket, key = split(uri)
            with self._explained(uri, "delete"):
                self._client.delete_object(Bucket=bucket, Key=key)

        _in_parallel(uris, remove)

    @contextmanager
    def _explained(self, uri: str, action: str) -> Iterator[None]:
        """Turns botocore's errors into sentences."""
        from boto3.exceptions import Boto3Error  # type: ignore[import-untyped]
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            raise _refusal(error, uri, action) from error
        except Boto3Error as error:  # s3transfer's uploads wrap the cause
            cause = error.__context__
            if isinstance(cause, ClientError):
                raise _refusal(cause, uri, action) from error
            raise self._unavailable(error, uri, action) from error
        except BotoCoreError as error:
            if any(kind.__name__ in _NETWORK for kind in type(error).__mro__):
                raise self._unavailable(error, uri, action) from error
            raise TrainerError(
                ExitCode.STORAGE_REFUSED,
                f"Cannot {action} {uri}: {one_line(error)}. Check spec.storage and its credentials Secret.",
            ) from error

    def _unavailable(self, error: Exception, uri: str, action: str) -> TrainerError:
        server = self._settings.endpoint_url or "AWS S3"
        return TrainerError(
            ExitCode.STORAGE_UNAVAILABLE,
            f"Cannot {action} {uri}: {server} could not be reached or broke off ({one_line(error, 200)}). Check "
            "spec.storage.endpointUrl and the network between the training pod and the server.",
        )


def _broke_off(error: TrainerError) -> bool:
    """Whether a transfer ended in the middle, which botocore does not retry by itself."""
    return type(error.__cause__).__name__ in ("ResponseStreamingError", "IncompleteReadError")


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


_MENDS = {
    "NoSuchBucket": "The bucket does not exist: correct the URI or create the bucket.",
    "AccessDenied": "Access is denied: the credentials of spec.storage.credentials, or the pod's identity, need "
    "s3:ListBucket on the bucket and s3:GetObject, s3:PutObject and s3:DeleteObject on the prefix.",
    "InvalidAccessKeyId": "The server does not know this access key: correct the Secret of spec.storage.credentials.",
    "SignatureDoesNotMatch": "The secret key does not belong to the access key: correct the Secret of "
    "spec.storage.credentials.",
}
_MENDS |= dict.fromkeys(_MISSING, "The object does not exist: correct the URI or upload the object.")
_MENDS |= dict.fromkeys(("403", "Forbidden", "AllAccessDisabled"), _MENDS["AccessDenied"])
_MENDS |= dict.fromkeys(
    _NO_CONDITIONS,
    "The server has no conditional writes (If-None-Match), without which a result cannot be published safely: upgrade "
    "it or use another server.",
)


def _refusal(error: Any, uri: str, action: str) -> TrainerError:
    """What a server's answer means: refused for good, or a trouble that may pass (5xx, throttling)."""
    code, status = _code(error), int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code not in _MENDS and (status >= 500 or status == 429 or code in ("SlowDown", "Throttling", "RequestTimeout")):
        return TrainerError(
            ExitCode.STORAGE_UNAVAILABLE,
            f"Cannot {action} {uri}: the server kept answering {status or ''} {code}. Look at the S3 server's health.",
        )
    mend = _MENDS.get(code, "Correct the URI or spec.storage.")
    return TrainerError(ExitCode.STORAGE_REFUSED, f"Cannot {action} {uri} ({code}). {mend}")


def split(uri: str) -> tuple[str, str]:
    """``s3://bucket/key`` → (bucket, key)."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def _in_parallel(names: list[str], work: Callable[[str], Any]) -> dict[str, Any]:
    pool = ThreadPoolExecutor(_PARALLEL)
    try:
        return dict(zip(names, pool.map(work, names), strict=True))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # whoever is told to stop does not wait for transfers
