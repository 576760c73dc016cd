"""What an example needs: its small models, an S3 server, and trainers that start in a moment."""

import os
from collections.abc import Iterator

import pytest

from examples import models
from finetune_local.run.documents import BUCKET
from finetune_local.s3 import Bucketeer, S3Server
from tests.trainer import zygote as zygotes


@pytest.fixture(scope="session")
def small_models() -> None:
    models.prepare()


@pytest.fixture(scope="session")
def object_store() -> Iterator[tuple[str, Bucketeer]]:
    """An S3 server's address, and what brings files there."""
    with S3Server() as server:
        os.environ |= {"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key}
        bucketeer = Bucketeer(server.endpoint_url, server.access_key, server.secret_key)
        bucketeer.create_bucket(BUCKET)
        yield server.endpoint_url, bucketeer


@pytest.fixture(scope="session")
def zygote(object_store: object) -> Iterator[zygotes.Zygote]:
    """With the credentials of the S3 server."""
    with zygotes.started() as process:
        yield process
