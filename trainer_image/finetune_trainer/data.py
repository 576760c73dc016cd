"""Which records train and which measure: fetches the files, reads them, draws the split."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from finetune_api.run import ExitCode
from finetune_api.spec import Data, DataSource
from finetune_trainer.errors import TrainerError
from finetune_trainer.records import Record, read_records
from finetune_trainer.storage import Store

T = TypeVar("T")


@dataclass(frozen=True)
class SourceFile:
    """A data file as it was read, for the record."""

    uri: str
    sha256: str
    """Of its bytes, in hex."""
    records: int


@dataclass(frozen=True)
class Dataset:
    """Records to train on and records to measure with; no record is in both."""

    train: tuple[Record, ...]
    validation: tuple[Record, ...]
    files: tuple[SourceFile, ...]


def load(data: Data, seed: int, store: Store, directory: Path) -> Dataset:
    """Downloads and reads the files of ``spec.data``; the split is drawn by ``seed`` alone."""
    train, files = _read(data.train, store, directory / "train")
    if data.validation is not None:
        validation, more = _read(data.validation, store, directory / "validation")
        return Dataset(tuple(train), tuple(validation), tuple(files + more))
    kept, held_out = hold_out(train, data.validation_fraction or 0.0, seed)
    return Dataset(tuple(kept), tuple(held_out), tuple(files))


def _read(sources: tuple[DataSource, ...], store: Store, directory: Path) -> tuple[list[Record], list[SourceFile]]:
    records: list[Record] = []
    files = []
    for number, source in enumerate(sources):
        path = directory / str(number)
        digest = store.download(source.uri, path)
        declared = None if source.format == "auto" else source.format
        found = read_records(path, source.uri, declared)
        files.append(SourceFile(source.uri, digest, len(found)))
        records += found
    return records, files


def hold_out(records: Sequence[T], fraction: float, seed: int) -> tuple[list[T], list[T]]:
    """(to train on, to measure with), both in their old order; the share is rounded to whole records.

    Raises:
        TrainerError: DATA_INVALID, if either side would be empty.
    """
    count = int(len(records) * fraction + 0.5)
    if not 0 < count < len(records):
        raise TrainerError(
            ExitCode.DATA_INVALID,
            f"spec.data.validationFraction {fraction:g} of {len(records)} record(s) leaves {count} to measure with and "
            f"{len(records) - count} to train on; each needs at least one. Add records, choose another fraction, or "
            "name a file in spec.data.validation instead.",
        )
    chosen = set(random.Random(seed).sample(range(len(records)), count))  # noqa: S311 - a draw, not a secret
    return (
        [record for index, record in enumerate(records) if index not in chosen],
        [record for index, record in enumerate(records) if index in chosen],
    )
