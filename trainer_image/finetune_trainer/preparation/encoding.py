"""Examples: token ids, which of them are learned, and what else there is to learn. Kept in files, so that a set may be
larger than memory."""

import os
import tempfile
import weakref
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
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

    extra: "array[int]" = field(default_factory=lambda: array("i"))
    """int32 numbers whose meaning is the recipe's: a label, lengths of parts …"""
    units: float = -1.0
    """What it counts in the loss. Left out: its learned tokens."""
    positions: int | None = None
    """Of the longest text in it; None: it is one text of all its tokens."""
    references: "array[float]" = field(default_factory=lambda: array("f"))
    """What the model made of it before its first step, where the objective asks for that; fp32."""
    cut: bool = False
    """Whether its record had more tokens, which are lost. Told once, as a set is written down."""

    def __post_init__(self) -> None:
        if self.units < 0:
            object.__setattr__(self, "units", float(self.learned.count(1)))


class Encoded:
    """A sequence of examples. In memory it takes 28 bytes an example: the tokens lie in files, five bytes each.

    The files are in the directory for temporary files (TMPDIR), have no name, and vanish with the set. They are read,
    and not mapped: the memory that the system spends to keep them at hand is its own, to be taken back at any time.
    """

    def __init__(self, examples: Iterable[Example], dropped: int = 0, cut: int = 0, two_sided: bool = False) -> None:
        """Writes down ``examples``, which are gone through once and not kept.

        Args:
            examples: of a set.
            dropped: records that gave none.
            cut: records that were cut, where ``examples`` do not tell.
            two_sided: an example's learned tokens are a row of their own, a target beside its source.

        Raises:
            TrainerError: DISK_FULL.
        """
        self.lengths = array("i")
        """Tokens of each example."""
        self.units = array("d")
        """What each example counts in the loss."""
        self.targets = array("i") if two_sided else None
        """Tokens of each example's target; None: an example is one row."""
        extras = array("i")
        self.dropped = dropped
        """Records that were left out, since nothing to learn was left of them after cutting."""
        self.cut = cut
        """Records that were cut, and kept for what was left of them."""
        self._longest = 0
        self._references = array("f")
        with (
            writing("the data as tokens", Path(tempfile.gettempdir())),
            tempfile.TemporaryFile(buffering=_BUFFER) as ids,
            tempfile.TemporaryFile(buffering=_BUFFER) as learned,
            tempfile.TemporaryFile(buffering=_BUFFER) as extra,
        ):
            for example in examples:
                ids.write(example.ids)
                learned.write(example.learned)
                extra.write(example.extra)
                self.lengths.append(len(example.ids))
                self.units.append(example.units)
                if self.targets is not None:
                    self.targets.append(example.learned.count(1))
                self._longest = max(self._longest, example.positions or len(example.ids))
                self.cut += example.cut
                extras.append(len(example.extra))
            for file in (ids, learned, extra):
                file.flush()
            self._files = tuple(os.dup(file.fileno()) for file in (ids, learned, extra))
        self._extra_starts = array("q", accumulate(extras, initial=0))
        self._prepare()

    def _prepare(self) -> None:
        for file in self._files:
            weakref.finalize(self, os.close, file)
        self._starts = array("q", accumulate(self.lengths, initial=0))

    def __getstate__(self) -> dict[str, Any]:
        """For another process of this machine: where it can open the files as long as this one has them."""
        kept = {name: value for name, value in vars(self).items() if name not in ("_files", "_starts")}
        return kept | {"places": [f"/proc/{os.getpid()}/fd/{file}" for file in self._files]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._files = tuple(os.open(place, os.O_RDONLY) for place in state.pop("places"))
        vars(self).update(state)
        self._prepare()

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Example:
        if index not in range(len(self)):
            raise IndexError(index)
        start, length = self._starts[index], self.lengths[index]
        ids, learned, extra = self._files
        first, behind = self._extra_starts[index : index + 2]
        each = len(self._references) // len(self)
        return Example(
            _numbers(ids, start, length),
            os.pread(learned, length, start),
            _numbers(extra, first, behind - first) if behind > first else array("i"),
            self.units[index],
            references=self._references[index * each : (index + 1) * each],
        )

    def know(self, references: "array[float]") -> None:
        """From here on examples have these ``references``, equally many each: those of all, one after the other."""
        self._references = references

    @property
    def longest_row(self) -> int:
        """Tokens of the longest row that a model gets."""
        if self.targets is None:
            return self._longest
        sides = zip(self.lengths, self.targets, strict=True)
        return max(max(length - target, target) for length, target in sides)

    @property
    def tokens(self) -> int:
        """Tokens in all, not counting padding."""
        return self._starts[-1]


def _numbers(file: int, start: int, count: int) -> "array[int]":
    """``count`` int32 numbers of a file, from number ``start``."""
    numbers = array("i")
    numbers.frombytes(os.pread(file, count * numbers.itemsize, start * numbers.itemsize))
    return numbers
