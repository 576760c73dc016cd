"""What a checkpoint is: a folder of safetensors and JSON, and last a manifest, without which it does not exist.

It lies at ``<job's prefix>checkpoints/<step>-<random>/``, where nobody else writes. Nothing in it can run code. The
manifest says whose it is, with what it can be gone on, and what the SHA-256 of every file must be.
"""

import secrets
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError

from finetune_api.base import StatusModel
from finetune_api.run import CHECKPOINT_NAME, CHECKPOINTS, JobIdentity, RunConfig
from finetune_trainer.errors import one_line
from finetune_trainer.preparation.data import SourceFile
from finetune_trainer.storage.manifest import PublishedFile, digest_of

VERSION = 1
"""Raised when an older trainer could misread a checkpoint. Further tensors have room in files of their own."""


class Unusable(Exception):
    """Why a checkpoint cannot be gone on with, as the end of a sentence that begins with its URI."""


class Fingerprint(StatusModel):
    """What must be the same for a training to go on as if it had never stopped."""

    run: str
    """SHA-256 of the run file, in hex, but for what differs between the attempts of a job."""
    data: tuple[str, ...]
    """SHA-256 of each data file, in hex."""
    model: str
    """The base model's version."""
    processes: int
    """That train together."""

    @classmethod
    def of(cls, config: RunConfig, data: tuple[SourceFile, ...], model: str, processes: int = 1) -> Self:
        """That of a run on these data files and this version of the base model.

        Attempts of one job go on from one another's checkpoints; how much goes through the model at a time changes
        nothing but the order of sums.
        """
        run = digest_of(config.model_copy(update={"attempt": 0, "micro_batch_divisor": 1}).to_json().encode())
        return cls(run=run, data=tuple(file.sha256 for file in data), model=model, processes=processes)

    def require(self, other: "Fingerprint") -> None:
        """Raises Unusable where a checkpoint with the fingerprint ``other`` belongs to another training."""
        changes = {
            "the run file": self.run != other.run,
            "the data": self.data != other.data,
            "the base model": self.model != other.model,
            "the number of processes": self.processes != other.processes,
        }
        if changed := [what for what, differs in changes.items() if differs]:
            raise Unusable(f"was made before {' and '.join(changed)} changed")


class _Kind(StatusModel):
    """What every version of a manifest says."""

    kind: Literal["FineTuneCheckpoint"] = "FineTuneCheckpoint"
    version: int
    job: JobIdentity
    attempt: int


class CheckpointManifest(_Kind):
    """A checkpoint that is there, whole."""

    step: int
    """Optimizer steps taken."""
    created: str
    """RFC 3339, UTC."""
    fingerprint: Fingerprint
    files: Annotated[tuple[PublishedFile, ...], Field(min_length=1)]

    def to_bytes(self) -> bytes:
        """The object's content."""
        return self.model_dump_json(by_alias=True, indent=2).encode()

    @classmethod
    def read(cls, content: bytes, config: RunConfig) -> Self:
        """Parses a manifest of the job that ``config`` belongs to, whichever its attempt.

        Raises:
            Unusable: it is none, or not one of this job, or of another version.
        """
        kind = _parsed(_Kind, content)
        if kind.job.uid != config.job.uid:
            raise Unusable(f"belongs to job {kind.job.namespace}/{kind.job.name}")
        if kind.version != VERSION:
            raise Unusable(f"is of format version {kind.version}, this trainer image reads {VERSION}")
        manifest: Self = _parsed(cls, content)
        return manifest


def _parsed(kind: Any, content: bytes) -> Any:
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise Unusable(f"has no manifest that can be read ({one_line(error, 200)})") from error


def new_name(step: int) -> str:
    """A folder's name that sorts by its step, and that no other process chooses."""
    return f"{step:08d}-{secrets.token_hex(4)}"


def step_of(name: str) -> int | None:
    """The step in a folder's name; None where it is no checkpoint's."""
    found = CHECKPOINT_NAME.fullmatch(name)
    return int(found[1]) if found else None


def prefix_of(config: RunConfig) -> str:
    """Below which a job's checkpoints lie."""
    return f"{config.output_prefix}{CHECKPOINTS}"
