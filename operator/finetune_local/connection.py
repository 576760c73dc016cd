"""How to reach a running local mode: what ``up`` leaves for ``run`` in its directory."""

import fcntl
import json
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from finetune_local.client import ApiClient
from finetune_local.cluster import LocalCluster
from finetune_local.operator_process import write_private
from finetune_local.s3 import Bucketeer

_FILE = "up.json"
_ANSWER_SECONDS = 2.0


@dataclass(frozen=True)
class Addresses:
    """Where API server and S3 listen, and the credentials for both."""

    pid: int
    server: str
    token: str
    ca_pem: str
    endpoint_url: str
    access_key: str
    secret_key: str

    @classmethod
    def of(cls, cluster: LocalCluster) -> "Addresses":
        """Of a cluster of this process."""
        api, s3 = cluster.api_server, cluster.s3
        return cls(os.getpid(), api.url, api.admin_token, api.ca_pem, s3.endpoint_url, s3.access_key, s3.secret_key)

    def bucketeer(self) -> Bucketeer:
        """For files in and out of the S3."""
        return Bucketeer(self.endpoint_url, self.access_key, self.secret_key)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[ApiClient]:
        """A client of the API server, with an administrator's rights."""
        async with ApiClient(self.server, self.token, self.ca_pem) as client:
            yield client


class AlreadyRuns(Exception):
    """Another ``up`` holds the directory; ``str()`` says which and what to do."""


@contextmanager
def claimed(directory: Path) -> Iterator[None]:
    """Holds a directory for one ``up``, from before it writes anything there until it ends, however it ends."""
    with (directory / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            running = discover(directory)
            which = f" (process {running.pid})" if running else ""
            told = f"local mode runs in {directory} already{which}: stop it, or name another --data-dir"
            raise AlreadyRuns(told) from None
        yield


def publish(directory: Path, addresses: Addresses) -> Path:
    """Leaves the addresses in a file that only the owner may read; the file."""
    file = directory / _FILE
    write_private(file, json.dumps(asdict(addresses)))
    return file


def discover(directory: Path) -> Addresses | None:
    """The addresses of the local mode that runs in a directory, if one does.

    A file that a killed ``up`` left behind counts for nothing, even where another process has its number by now.
    """
    try:
        addresses = Addresses(**json.loads((directory / _FILE).read_text(encoding="utf-8")))
        os.kill(addresses.pid, 0)
        server = urlsplit(addresses.server)
        socket.create_connection((server.hostname, server.port), _ANSWER_SECONDS).close()
    except (OSError, ValueError, TypeError):
        return None
    return addresses
