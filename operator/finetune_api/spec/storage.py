"""``spec.storage``, ``spec.checkpoint`` and ``spec.output``: where things lie."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import Model
from finetune_api.spec.fields import PLAIN, SecretName, Uri


class Storage(Model):
    """The S3 account that holds data and output. Absent: AWS, with the pod's own identity."""

    endpoint_url: Annotated[str, Field(max_length=1024, pattern=r"^https?://[^/]+.*$")] | None = None
    """The server, if it is not AWS: `https://minio.example.com:9000`."""
    region: Annotated[str, Field(max_length=64, pattern=r"^[a-z0-9-]+$")] | None = None
    """Region. Absent: `us-east-1`."""
    credentials: SecretName | None = None
    """Secret with the keys `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` (and `AWS_SESSION_TOKEN`).
    Absent: the identity of the pod's ServiceAccount."""
    checksums: Literal["WhenSupported", "WhenRequired"] | None = None
    """Whether the S3 client adds its own checksums to every transfer. Absent: `WhenSupported` on AWS,
    `WhenRequired` where endpointUrl is given, because some servers refuse them."""


class Checkpoint(Model):
    """Checkpoints, from which the next pod goes on where one was evicted or killed. They lie below output.uri and are
    removed once the result is published."""

    every_steps: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Optimizer steps between two checkpoints. Absent: one every ten minutes, so that a run of a few minutes writes
    none. Whichever it is, a pod that is asked to stop writes one."""
    keep: Annotated[int, Field(ge=1, le=100)] = 2
    """Checkpoints to keep, the newest ones. With two, there is another one where the newest was damaged."""


class Output(Model):
    """Where the result goes."""

    uri: Annotated[Uri, Field(pattern=r"^s3://[^/]+(/.*)?$")]
    """S3 prefix to publish under; every job writes below a prefix of its own: `s3://team-a/adapters/`."""
    merge_adapter: bool = False
    """Publish the base with the adapter merged into it, in the number format of its files, instead of the adapter
    alone. The metrics are those of both side by side, of which a merged weight is a rounding."""

    rules = PLAIN
