"""Examples: token ids, and which of them are learned. Kept in files, so that a set may be larger than memory."""

import mmap
import tempfile
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

from finetune_trainer.errors import writing


@dataclass(frozen=True)
class Example:
    """One training sequence of T tokens."""

    ids: "array[int]"
    """[T] int32 token ids."""
    learned: bytes
    """[T] 1 where the token's prediction counts in the loss; 0 at position 0, which nothing predicts."""

    @property
    def labels(self) -> int:
        """Tokens that count."""
        return self.learned.count(1)


class Encoded:
    """A sequence of examples. In memory it takes 16 bytes an example: the tokens lie in files, five bytes each.

    The files are in the directory for temporary files (TMPDIR), have no name, and vanish with their last user.
    """

    def __init__(self, examples: Iterable[Example], dropped: int = 0) -> None:
        """Writes down ``examples``, which are gone through once and not kept.

        Raises:
            TrainerError: DISK_FULL.
        """
        self.lengths = array("i")
        """Tokens of each example."""
        self.labels = array("i")
        """Learned tokens of each example."""
        self.dropped = dropped
        """Records that were left out, since nothing to learn was left of them after cutting."""
        with tempfile.TemporaryFile() as ids, tempfile.TemporaryFile() as learned:
            for example in examples:
                with writing("the data as tokens", Path(tempfile.gettempdir())):
                    ids.write(example.ids)
                    learned.write(example.learned)
                self.lengths.append(len(example.ids))
                self.labels.append(example.labels)
            self._ids, self._learned = _mapped(ids), _mapped(learned)
        self._starts = array("q", accumulate(self.lengths, initial=0))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Example:
        if index not in range(len(self)):
            raise IndexError(index)
        start, end = self._starts[index], self._starts[index + 1]
        ids = array("i")
        ids.frombytes(self._ids[start * ids.itemsize : end * ids.itemsize])
        return Example(ids, self._learned[start:end])

    @property
    def tokens(self) -> int:
        """Tokens in all, not counting padding."""
        return self._starts[-1]


def _mapped(file: BinaryIO) -> mmap.mmap | bytes:
    """The content of a file, as bytes that are read where they are asked for."""
    with writing("the data as tokens", Path(tempfile.gettempdir())):
        file.flush()
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if file.tell() else b""
