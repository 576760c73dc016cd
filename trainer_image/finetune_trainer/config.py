"""Reads the run file and the environment."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from finetune_api import run
from finetune_api.run import CONTRACT_VERSION, ExitCode, RunConfig
from finetune_trainer.errors import TrainerError
from finetune_trainer.scaling.machine import keep_freed_memory


def read_run(path: Path) -> RunConfig:
    """The run file at ``path``; the contract version is looked at first, because it decides what the rest means.

    Raises:
        TrainerError: CONTRACT_MISMATCH for another contract version, CONFIGURATION_INVALID for anything else.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise _invalid(f"the run file {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise _invalid(f"the run file {path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise _invalid(f"the run file {path} holds a JSON {type(content).__name__}; an object is expected")
    version = content.get("contract")
    if version != CONTRACT_VERSION:
        raise TrainerError(
            ExitCode.CONTRACT_MISMATCH,
            f"The run file speaks contract version {version!r}, this trainer image version {CONTRACT_VERSION}: "
            "install operator and trainer image of one release.",
        )
    try:
        return RunConfig.model_validate(content)
    except ValidationError as error:
        faults = "; ".join(f"{_path(fault['loc'])}: {fault['msg']}" for fault in error.errors())
        raise _invalid(f"the run file {path} is not valid: {faults}") from error


def process_count(path: Path) -> int:
    """Processes that the run file at ``path`` asks for on each node; 1 where it cannot be read, which is then said by
    whoever reads it."""
    try:
        return read_run(path).processes
    except TrainerError:
        return 1


def _path(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "the whole"


def _invalid(what: str) -> TrainerError:
    mend = "install operator and trainer image of one release, or correct the file if you wrote it yourself"
    return TrainerError(ExitCode.CONFIGURATION_INVALID, f"{what[0].upper()}{what[1:]}; {mend}.")


@dataclass(frozen=True)
class Surroundings:
    """What the pod's environment gives a trainer beside the run file."""

    scratch: Path
    """A writable directory for downloads and caches."""
    termination_log: Path
    reports_url: str | None
    """Where progress is POSTed; None: nowhere."""
    reports_token: Path | None
    """File of the bearer token, renewed from outside."""
    reports_ca: Path | None
    """File of the certificate authority (PEM) that signed the endpoint's certificate."""

    @classmethod
    def of_environment(cls) -> Self:
        """As the environment variables of the contract say."""
        token, authority = os.environ.get(run.ENV_REPORTS_TOKEN), os.environ.get(run.ENV_REPORTS_CA)
        return cls(
            scratch=Path(os.environ.get(run.ENV_SCRATCH) or run.SCRATCH_PATH),
            termination_log=Path(os.environ.get(run.ENV_TERMINATION_LOG) or run.TERMINATION_LOG),
            reports_url=os.environ.get(run.ENV_REPORTS_URL) or None,
            reports_token=Path(token) if token else None,
            reports_ca=Path(authority) if authority else None,
        )


def prepare_libraries(config: RunConfig, scratch: Path) -> None:
    """Settings that torch and the Hugging Face libraries read once, as they are imported, and the allocator's."""
    keep_freed_memory()
    # OpenMP threads that wait for one another spin for milliseconds by default. Where another process wants the same
    # processors (measured: two, one of them busy) that makes a step of a small model two to nine times slower.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # Both keep what they once used: oneDNN a kernel and its room for every shape, MKL its buffers (measured: 40 MiB).
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")
    os.environ.setdefault("MKL_DISABLE_FAST_MM", "1")
    os.environ["HF_HOME"] = str(scratch / "hub")
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    if not config.model.uri.startswith("hf://"):
        os.environ["HF_HUB_OFFLINE"] = "1"
