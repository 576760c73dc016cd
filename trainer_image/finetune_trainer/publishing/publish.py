"""Publishes a result so that it is there whole or not at all.

Below the job's prefix each process writes into a folder with a random name, so that two pods of one job never write the
same object. Last comes the manifest, by a conditional write that only the first of them wins. The other one
takes over what was published, and removes its own files.
"""

import logging
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from finetune_api.run import ExitCode, RunConfig, RunResult
from finetune_api.status import Result
from finetune_trainer.errors import TrainerError
from finetune_trainer.preparation.data import SourceFile
from finetune_trainer.storage.manifest import MANIFEST_NAME, Ancestor, Manifest, PublishedFile, UsedFile, digest_of
from finetune_trainer.storage.store import Store

logger = logging.getLogger(__name__)


def find_published(config: RunConfig, store: Store) -> RunResult | None:
    """The result that another pod of this job, of whichever attempt, has already published, if one has."""
    content = store.read_if_there(f"{config.output_prefix}{MANIFEST_NAME}")
    return _result(content, config) if content is not None else None


def _result(content: bytes, config: RunConfig) -> RunResult:
    """A manifest's result, completed by the manifest's own digest."""
    try:
        manifest = Manifest.model_validate_json(content)
    except ValueError as error:
        raise _foreign(config, "is not a manifest of ours") from error
    if manifest.job.uid != config.job.uid:
        raise _foreign(config, f"belongs to job {manifest.job.namespace}/{manifest.job.name}")
    published = (manifest.result.result or Result()).model_copy(update={"digest": digest_of(content)})
    return manifest.result.model_copy(update={"result": published})


def _foreign(config: RunConfig, what: str) -> TrainerError:
    return TrainerError(
        ExitCode.STORAGE_REFUSED,
        f"{config.output_prefix}{MANIFEST_NAME} {what} and is left untouched. Remove it or choose another "
        "spec.output.uri.",
    )


@dataclass(frozen=True)
class Publication:
    """A folder of files on its way to S3."""

    config: RunConfig
    store: Store
    location: str
    """``s3://…/``, nobody else's."""

    @classmethod
    def begin(cls, config: RunConfig, store: Store) -> "Publication":
        """A folder of this process alone; nothing is written yet."""
        return cls(config, store, f"{config.output_prefix}{secrets.token_hex(4)}/")

    def publish(
        self, directory: Path, data: tuple[SourceFile, ...], result: RunResult, lineage: tuple[Ancestor, ...] = ()
    ) -> RunResult:
        """Uploads the files of ``directory`` and publishes them, or takes over what another pod has published.

        Args:
            lineage: the jobs whose results went into this one.

        Returns:
            the result that is now published, with its manifest's digest.
        """
        names = sorted(path.name for path in directory.iterdir())
        try:
            sent = self.store.upload_all(directory, names, self.location)
        except BaseException:
            self._remove(names)
            raise
        manifest = Manifest(
            job=self.config.job,
            attempt=self.config.attempt,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            location=self.location,
            files=tuple(PublishedFile(path=name, size=sent[name].size, sha256=sent[name].sha256) for name in names),
            data=tuple(UsedFile(uri=file.uri, sha256=file.sha256, records=file.records) for file in data),
            lineage=lineage,
            result=result,
        )
        # From here on the files stay when something goes wrong: the write may have been carried out all the same.
        content = manifest.to_bytes()
        uri = f"{self.config.output_prefix}{MANIFEST_NAME}"
        if self.store.create(uri, content):
            return _result(content, self.config)
        present = self.store.read(uri)
        published = _result(present, self.config)
        if present != content:
            logger.info("another pod of this job has already published; its result stands")
            self._remove(names)
        return published

    def _remove(self, names: list[str]) -> None:
        """Tidies up; what cannot be removed stays, and means nothing without a manifest."""
        try:
            self.store.remove_all([f"{self.location}{name}" for name in names])
        except TrainerError as error:
            logger.warning("files without a manifest are left behind: %s", error.message)
