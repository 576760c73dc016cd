"""Which records train and which measure: fetches the files, reads them through once, draws the split.

Records are never held. A set of them is read anew from the files on this machine whenever it is gone through, so that
data may be larger than memory. What is wrong with a record is found here, before anything else is done with the data.
"""

import random
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from finetune_api.run import ExitCode
from finetune_api.spec import Data, DataSource
from finetune_trainer.errors import TrainerError
from finetune_trainer.preparation.formats import Format
from finetune_trainer.preparation.given import Given, declared_format, given_templates, template_for, unused
from finetune_trainer.preparation.labels import in_order, read_through
from finetune_trainer.preparation.records import find_format, read_records
from finetune_trainer.preparation.setnames import set_names
from finetune_trainer.storage.store import Store


@dataclass(frozen=True)
class SourceFile:
    """A data file as it was read, for the record."""

    uri: str
    sha256: str
    """Of its bytes, in hex."""
    records: int


@dataclass(frozen=True)
class DataFile:
    """A data file on this machine, read through and found sound."""

    path: Path
    source: SourceFile
    format: Format
    set: str = "data"
    """Name of the set that it belongs to."""
    weight: float = 1.0
    """Times that an epoch sees each of its records."""
    labels: frozenset[str] = frozenset()
    """Of its records, where they have any."""
    template: Given | None = None
    """By which its records are written, where it is one of the job's."""


class RecordSet:
    """Some of the records of some files, in the order of the files: what the readers of their formats return. Each
    iteration reads the files anew."""

    def __init__(self, files: Sequence[DataFile], chosen: bytes | None = None) -> None:
        """``chosen``: for each record of all files 1 where it belongs to the set, else 0; None: all do."""
        self._files = files
        self._chosen = b"\1" * sum(file.source.records for file in files) if chosen is None else chosen

    def __len__(self) -> int:
        return self._chosen.count(1)

    def __iter__(self) -> Iterator[Any]:
        first = 0
        for file in self._files:
            chosen = self._chosen[first : first + file.source.records]
            yield from read_records(file.path, file.source.uri, file.format, chosen)
            first += file.source.records

    @property
    def parts(self) -> "list[tuple[DataFile, RecordSet]]":
        """The records of each file by themselves, where there are any."""
        first, parts = 0, []
        for file in self._files:
            chosen = self._chosen[first : first + file.source.records]
            parts.append((file, RecordSet([file], chosen)))
            first += file.source.records
        return [(file, records) for file, records in parts if len(records)]


@dataclass(frozen=True)
class Dataset:
    """Records to train on and records to measure with; no record is in both."""

    train: RecordSet
    validation: RecordSet
    files: tuple[SourceFile, ...]
    labels: tuple[str, ...] = ()
    """Of the training files, in the order of a head's outputs."""
    formats: Set[Format] = frozenset()
    """Of all files."""


def load(data: Data, formats: Sequence[Format], seed: int, store: Store, directory: Path) -> Dataset:
    """Downloads and reads the files of ``spec.data``, whose records are of ``formats``; the split is drawn by ``seed``
    alone."""
    fetch = partial(_fetch_all, formats, store)
    templates, held_templates = given_templates(data)
    train = fetch(data.train, templates, directory / "train")
    sources, labels = tuple(file.source for file in train), frozenset[str]().union(*(file.labels for file in train))
    names, found = in_order(labels), {file.format for file in train}
    if data.template and not any(file.template and not file.template.own for file in train):
        raise unused(data)
    if data.validation is not None:
        held = fetch(data.validation, held_templates, directory / "validation", labels or None)
        sources += tuple(file.source for file in held)
        return Dataset(RecordSet(train), RecordSet(held), sources, names, found | {file.format for file in held})
    held_out = hold_out(sum(source.records for source in sources), data.validation_fraction or 0.0, seed)
    kept = held_out.translate(bytes((1, 0)) + bytes(254))
    return Dataset(RecordSet(train, kept), RecordSet(train, held_out), sources, names, found)


def _fetch_all(
    formats: Sequence[Format],
    store: Store,
    sources: Sequence[DataSource],
    templates: Sequence[Given | None],
    directory: Path,
    known: frozenset[str] | None = None,
) -> list[DataFile]:
    found = []
    for number, (source, given, name) in enumerate(zip(sources, templates, set_names(sources), strict=True)):
        path = directory / str(number)
        declared = declared_format(source, given, formats)
        digest = store.download(source.uri, path)
        format_ = find_format(path, source.uri, declared, formats)
        template = template_for(source, format_, given)
        count, labels = read_through(read_records(path, source.uri, format_, formats=formats), known)
        file = SourceFile(source.uri, digest, count)
        found.append(DataFile(path, file, format_, name, source.weight or 1.0, labels, template))
    return found


def hold_out(records: int, fraction: float, seed: int) -> bytes:
    """For each of ``records`` records 1 where it is to measure with, 0 where it is to train on.

    The share is rounded to whole records. Drawn one by one with constant memory: selection sampling, Algorithm S of
    Knuth, The Art of Computer Programming, 3.4.2.

    Raises:
        TrainerError: DATA_INVALID, if either side would be empty.
    """
    count = int(records * fraction + 0.5)
    if not 0 < count < records:
        raise TrainerError(
            ExitCode.DATA_INVALID,
            f"spec.data.validationFraction {fraction:g} of {records} record(s) leaves {count} to measure with and "
            f"{records - count} to train on; each needs at least one. Add records, choose another fraction, or "
            "name a file in spec.data.validation instead.",
        )
    chance = random.Random(seed)  # noqa: S311 - a draw, not a secret
    held_out = bytearray(records)
    for index in range(records):
        if (records - index) * chance.random() < count:
            held_out[index] = 1
            count -= 1
    return bytes(held_out)
