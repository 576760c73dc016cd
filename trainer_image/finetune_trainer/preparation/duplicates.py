"""Records to measure with that are also trained on: what is measured there is memory."""

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np

from finetune_api.run import ExitCode
from finetune_trainer.errors import TrainerError
from finetune_trainer.preparation.data import Dataset

_AT_A_TIME = 1 << 20
"""Records to train on whose digests are held at once; of those to measure with, 8 bytes each are held in any case."""


def count_duplicates(data: Dataset) -> int:
    """How many of the records to measure with are also trained on, to the letter, wherever they are from. Goes by 64
    bits of each: of 10 million records, one in 180,000 such counts is too high by one.

    Raises:
        TrainerError: DATA_INVALID, where it is all of them.
    """
    held = np.fromiter(_digests(data.validation), dtype=np.uint64)
    found = np.zeros(len(held), dtype=bool)
    trained = _digests(data.train)
    while chunk := array("Q", islice(trained, _AT_A_TIME)):
        found |= np.isin(held, np.frombuffer(chunk, dtype=np.uint64))
    count = int(found.sum())
    if count == len(held):
        raise TrainerError(
            ExitCode.DATA_INVALID,
            f"All {count} records to measure with are also among those to train on, so that nothing would be measured "
            "but memory. Remove what the files hold more than once, or name other records in spec.data.validation.",
        )
    return count


def _digests(records: Iterable[Any]) -> Iterator[int]:
    for record in records:
        content = repr(replace(record, source=""))
        yield int.from_bytes(hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=8).digest())
