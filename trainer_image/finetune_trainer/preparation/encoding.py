"""Examples: token ids, and which of them are learned. Kept in files, so that a set may be larger than memory."""

import os
import tempfile
import weakref
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from finetune_trainer.errors import writing

_BUFFER = 1 << 20


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

    The files are in the directory for temporary files (TMPDIR), have no name, and vanish with the set. They are read,
    and not mapped: the memory that the system spends to keep them at hand is its own, to be taken back at any time.
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
        with (
            writing("the data as tokens", Path(tempfile.gettempdir())),
            tempfile.TemporaryFile(buffering=_BUFFER) as ids,
            tempfile.TemporaryFile(buffering=_BUFFER) as learned,
        ):
            for example in examples:
                ids.write(example.ids)
                learned.write(example.learned)
                self.lengths.append(len(example.ids))
                self.labels.append(example.labels)
            ids.flush()
            learned.flush()
            self._ids, self._learned = os.dup(ids.fileno()), os.dup(learned.fileno())
        self._prepare()

    def _prepare(self) -> None:
        weakref.finalize(self, os.close, self._ids)
        weakref.finalize(self, os.close, self._learned)
        self._starts = array("q", accumulate(self.lengths, initial=0))

    def __getstate__(self) -> dict[str, Any]:
        """For another process of this machine: where it can open the files as long as this one has them."""
        places = [f"/proc/{os.getpid()}/fd/{file}" for file in (self._ids, self._learned)]
        return {"lengths": self.lengths, "labels": self.labels, "dropped": self.dropped, "places": places}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._ids, self._learned = (os.open(place, os.O_RDONLY) for place in state.pop("places"))
        vars(self).update(state)
        self._prepare()

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Example:
        if index not in range(len(self)):
            raise IndexError(index)
        start, length = self._starts[index], self.lengths[index]
        ids = array("i")
        ids.frombytes(os.pread(self._ids, length * ids.itemsize, start * ids.itemsize))
        return Example(ids, os.pread(self._learned, length, start))

    @property
    def tokens(self) -> int:
        """Tokens in all, not counting padding."""
        return self._starts[-1]
