"""The checkpoints of a job in S3: finding the newest that can be gone on with, adding one, removing old ones.

Needs no torch, so that a checkpoint is fetched while torch is imported.
"""

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from finetune_api.run import ExitCode, RunConfig
from finetune_trainer.checkpoints.checkpoint import (
    VERSION,
    CheckpointManifest,
    Fingerprint,
    Unusable,
    prefix_of,
    step_of,
)
from finetune_trainer.errors import TrainerError
from finetune_trainer.storage.manifest import MANIFEST_NAME, PublishedFile
from finetune_trainer.storage.parallel import Group
from finetune_trainer.storage.storage_errors import WrongBytes
from finetune_trainer.storage.store import Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, on this machine, in S3, or in both."""

    step: int
    directory: Path
    """Where its files lie on this machine, or lay."""
    uri: str
    """Where they lie in S3, or will: ``s3://…/``."""


class Checkpoints:
    """Those of one job, whichever its attempt.

    What cannot be used is passed over and left as it is: nobody here knows better than whoever wrote it.
    """

    def __init__(self, config: RunConfig, store: Store) -> None:
        self._config = config
        self._store = store
        self._prefix = prefix_of(config)
        self._passed_over: set[str] = set()

    def find(self, directory: Path, fingerprint: Callable[[], Fingerprint]) -> Checkpoint | None:
        """Fetches the newest checkpoint that is whole, untampered and of this training, below ``directory``.

        Args:
            directory: may not exist yet.
            fingerprint: of this training; called when there is something to compare it with, and may take its time.

        Raises:
            TrainerError: STORAGE_UNAVAILABLE, since what another pod may still find must not be done once more;
                STORAGE_REFUSED where checkpoints cannot even be listed.
        """
        folders = self._complete()
        for name in sorted(folders, reverse=True):
            try:
                return self._fetch(name, folders[name], directory / name, fingerprint)
            except Unusable as why:
                logger.warning("checkpoint %s%s/ is passed over: it %s", self._prefix, name, why)
                shutil.rmtree(directory / name, ignore_errors=True)
                self._passed_over.add(name)
        return None

    def _fetch(
        self, name: str, sizes: Mapping[str, int], directory: Path, fingerprint: Callable[[], Fingerprint]
    ) -> Checkpoint:
        uri = self.uri_of(name)
        manifest = self._manifest(name)
        for file in manifest.files:
            if sizes.get(file.path) != file.size:
                there = f"{sizes[file.path]} of" if file.path in sizes else "none of"
                raise Unusable(f"is not whole: {there} {file.size} bytes of {file.path} are there")
        digests = {file.path: file.sha256 for file in manifest.files}
        try:
            self._store.download_all(uri, list(digests), directory, digests)
        except WrongBytes as error:
            raise Unusable(f"was damaged or tampered with: {error.message}") from error
        except TrainerError as error:
            raise _unusable(error) from error
        fingerprint().require(manifest.fingerprint)
        return Checkpoint(manifest.step, directory, uri)

    def _manifest(self, name: str) -> CheckpointManifest:
        try:
            content = self._store.read(f"{self.uri_of(name)}{MANIFEST_NAME}")
        except TrainerError as error:
            raise _unusable(error) from error
        manifest = CheckpointManifest.read(content, self._config)
        if manifest.step != step_of(name):
            raise Unusable(f"has a manifest of step {manifest.step}")
        return manifest

    def uri_of(self, name: str) -> str:
        """Where the checkpoint of this name lies."""
        return f"{self._prefix}{name}/"

    def add(self, checkpoint: Checkpoint, fingerprint: Fingerprint, group: Group) -> None:
        """Uploads a checkpoint, its manifest last. What was uploaded of one that fails is removed, if possible.

        Raises:
            TrainerError: STORAGE_UNAVAILABLE, STORAGE_REFUSED.
            Abandoned: the group was told to end.
        """
        names = sorted(path.name for path in checkpoint.directory.iterdir())
        try:
            sent = self._store.upload_all(checkpoint.directory, names, checkpoint.uri, group)
        except TrainerError:
            with suppress(TrainerError):
                self._store.remove_all([f"{checkpoint.uri}{name}" for name in names])
            raise
        manifest = CheckpointManifest(
            version=VERSION,
            job=self._config.job,
            attempt=self._config.attempt,
            step=checkpoint.step,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            fingerprint=fingerprint,
            files=tuple(PublishedFile(path=name, size=sent[name].size, sha256=sent[name].sha256) for name in names),
        )
        group.require()
        self._store.create(f"{checkpoint.uri}{MANIFEST_NAME}", manifest.to_bytes())

    def keep_newest(self, count: int) -> None:
        """Removes older ones; those that cannot be removed stay, with a warning."""
        with _tidying_up():
            folders = self._complete()
            usable = sorted(folders.keys() - self._passed_over, reverse=True)
            self._remove({name: folders[name] for name in usable[count:]})

    def remove_all(self) -> None:
        """Once there is a result nobody needs them; those that cannot be removed stay, with a warning."""
        with _tidying_up():
            self._remove(self._folders())

    def _complete(self) -> dict[str, dict[str, int]]:
        """Those with a manifest: for each the bytes of its files by name."""
        return {name: files for name, files in self._folders().items() if MANIFEST_NAME in files}

    def _folders(self) -> dict[str, dict[str, int]]:
        folders: dict[str, dict[str, int]] = {}
        for entry in self._store.objects(self._prefix):
            folder, _, name = entry.name.partition("/")
            if step_of(folder) is not None and name:
                folders.setdefault(folder, {})[name] = entry.size
        return folders

    def _remove(self, folders: Mapping[str, Mapping[str, int]]) -> None:
        """Manifests first: whoever is killed in between leaves none over files that are missing."""
        self._store.remove_all([f"{self.uri_of(name)}{MANIFEST_NAME}" for name in folders])
        self._store.remove_all([f"{self.uri_of(name)}{file}" for name, files in folders.items() for file in files])


@contextmanager
def _tidying_up() -> Iterator[None]:
    try:
        yield
    except TrainerError as error:
        logger.warning("old checkpoints are left behind: %s", error.message)


def _unusable(error: TrainerError) -> Unusable:
    """A file that is not given out, or no longer there. Raises the error itself where another try may find it."""
    if error.code is not ExitCode.STORAGE_REFUSED:
        raise error
    return Unusable(f"cannot be read: {error.message}")
