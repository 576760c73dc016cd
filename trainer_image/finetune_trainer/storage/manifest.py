"""The manifest of a published result: the one object whose presence means that the result exists.

It lies at ``<job's prefix>manifest.json``, is written once by a conditional write, and names the folder that holds
the files. Files that no manifest names belong to a run that did not end.
"""

import hashlib
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import StatusModel
from finetune_api.run import JobIdentity, RunResult

MANIFEST_NAME = "manifest.json"


class PublishedFile(StatusModel):
    """One file of a result."""

    path: Annotated[str, Field(pattern=r"^[^/\\.][^/\\]*$")]
    """Name below the location."""
    size: int
    """Bytes."""
    sha256: str
    """In hex."""


class UsedFile(StatusModel):
    """One data file that went in."""

    uri: str
    sha256: str
    """In hex."""
    records: int


class Ancestor(StatusModel):
    """A FineTuneJob whose result went into another one."""

    job: JobIdentity
    location: str
    """The folder of its files: ``s3://…/``."""
    digest: str
    """``sha256:…`` of its manifest."""
    base_model: str | None = None
    """What it started from, as its user wrote it."""
    data: tuple[UsedFile, ...] = ()


class Manifest(StatusModel):
    """What was published, and from what."""

    kind: Literal["FineTuneResult"] = "FineTuneResult"
    job: JobIdentity
    attempt: int
    created: str
    """RFC 3339, UTC."""
    location: str
    """The folder of the files: ``s3://…/``."""
    files: tuple[PublishedFile, ...]
    data: tuple[UsedFile, ...]
    lineage: tuple[Ancestor, ...] = ()
    """The jobs whose results went into this one, the first one first."""
    result: RunResult
    """The termination message, but for the manifest's own digest."""

    def to_bytes(self) -> bytes:
        """The object's content."""
        return self.model_dump_json(by_alias=True, exclude_none=True, indent=2).encode()


@dataclass(frozen=True)
class Vouched:
    """A manifest as it was read."""

    manifest: Manifest
    digest: str

    @property
    def lineage(self) -> tuple[Ancestor, ...]:
        """Its job, and before that all that went into it."""
        told, result = self.manifest, self.manifest.result.result
        base = result.base_model if result else None
        own = Ancestor(job=told.job, location=told.location, digest=self.digest, base_model=base, data=told.data)
        return (*told.lineage, own)


def digest_of(content: bytes) -> str:
    """The digest by which ``status.result`` names a manifest."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
