"""The object store of local mode: moto's S3 server, on loopback, in a process of its own.

In a process of its own it starts beside the API server instead of before it, keeps its work and the objects it holds
(it holds them in memory) out of the control plane, and is gone with it.
"""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

REGION = "us-east-1"
_SERVE = "--serve"


class S3Server:
    """An S3 server that forgets everything when it stops. It accepts any credentials; hand out these.

    ``start`` returns at once, so that the server comes up beside others; ``endpoint_url`` waits until it listens.
    """

    def __init__(self) -> None:
        self.access_key = "local"
        self.secret_key = secrets.token_hex(16)
        self._process: subprocess.Popen[str] | None = None
        self._endpoint_url: str | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Starts the process."""
        command = [sys.executable, "-m", "finetune_local.s3", _SERVE]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True)  # noqa: S603

    def stop(self) -> None:
        """Ends the process, and all objects with it."""
        if self._process is None:
            return
        self._process.kill()
        self._process.communicate()
        self._process, self._endpoint_url = None, None

    @property
    def endpoint_url(self) -> str:
        """``http://127.0.0.1:<port>``.

        Raises:
            RuntimeError: the server was not started, or did not come up.
        """
        if self._endpoint_url is None:
            if self._process is None or self._process.stdout is None:
                raise RuntimeError("the S3 server was not started")
            line = self._process.stdout.readline().strip()
            if not line:
                raise RuntimeError(f"the S3 server ended with exit code {self._process.wait()} before it listened")
            self._endpoint_url = line
        return self._endpoint_url


class Bucketeer:
    """Puts files into an S3 server and gets them out, with boto3, which is imported by the first of them.

    Args:
        endpoint_url: the server.
        access_key, secret_key: credentials.
    """

    def __init__(self, endpoint_url: str, access_key: str, secret_key: str) -> None:
        import boto3  # type: ignore[import-untyped]
        from botocore.config import Config  # type: ignore[import-untyped]

        self._client: Any = boto3.client(
            "s3",
            endpoint_url=endpoint_url,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            region_name=REGION,
            config=Config(request_checksum_calculation="when_required", response_checksum_validation="when_required"),
        )

    def create_bucket(self, bucket: str) -> None:
        """Makes a bucket; one that exists stays as it is."""
        self._client.create_bucket(Bucket=bucket)

    def put_file(self, uri: str, file: Path) -> None:
        """Uploads a file to ``s3://bucket/key``."""
        bucket, key = _split(uri)
        self._client.upload_file(str(file), bucket, key)

    def put_directory(self, uri: str, directory: Path) -> None:
        """Uploads all files of a directory below ``s3://bucket/prefix/``."""
        for file in sorted(path for path in directory.rglob("*") if path.is_file()):
            self.put_file(f"{uri.rstrip('/')}/{file.relative_to(directory).as_posix()}", file)

    def get_directory(self, uri: str, directory: Path) -> list[Path]:
        """Downloads every object below ``s3://bucket/prefix/``; the files written.

        Raises:
            ValueError: a key leads out of the directory.
        """
        bucket, prefix = _split(f"{uri.rstrip('/')}/")
        written = []
        for key in self._keys(bucket, prefix):
            target = directory / key.removeprefix(prefix)
            if not target.resolve().is_relative_to(directory.resolve()):
                raise ValueError(f"s3://{bucket}/{key} leads out of {directory}")
            target.parent.mkdir(parents=True, exist_ok=True)
            self._client.download_file(bucket, key, str(target))
            written.append(target)
        return written

    def _keys(self, bucket: str, prefix: str) -> Iterator[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        for page in pages:
            for entry in page.get("Contents") or ():
                if not entry["Key"].endswith("/"):
                    yield entry["Key"]


def _split(uri: str) -> tuple[str, str]:
    parts = urlsplit(uri)
    return parts.netloc, parts.path.removeprefix("/")


def _serve() -> None:
    """The server's own process: tells its address, and ends with its parent, whose end closes standard input."""
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    print(f"http://{host}:{port}", flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__" and sys.argv[1:] == [_SERVE]:
    _serve()
