"""Several sets of examples in one run: how they lie one after the other. Needs no torch."""

from array import array
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

from finetune_api.run import ExitCode
from finetune_trainer.errors import TrainerError
from finetune_trainer.preparation.encoding import Encoded, Example
from finetune_trainer.preparation.given import Given


@dataclass(frozen=True)
class Part:
    """The examples of one file."""

    set: str
    """Name of the set that it belongs to."""
    examples: Encoded
    weight: float = 1.0
    """Times that an epoch sees each of them."""
    source: str = ""
    """URI of the file."""
    template: Given | None = None
    """By which its records are written, where it is one of the job's."""


class Sets:
    """The examples of all parts, one part after the other, numbered through. Reads like :class:`Encoded`."""

    def __init__(self, parts: Iterable[Part]) -> None:
        self.parts = tuple(parts)
        self.lengths, self.units = array("i"), array("d")
        targets = array("i")
        for part in self.parts:
            self.lengths += part.examples.lengths
            self.units += part.examples.units
            targets += part.examples.targets or array("i")
        self.targets = targets if any(part.examples.targets for part in self.parts) else None
        """As in :class:`Encoded`."""
        self._starts = [0, *accumulate(len(part.examples) for part in self.parts)]

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> Example:
        if index not in range(len(self)):
            raise IndexError(index)
        number = bisect_right(self._starts, index) - 1
        return self.parts[number].examples[index - self._starts[number]]

    @property
    def dropped(self) -> int:
        """Records of which nothing to learn was left."""
        return sum(part.examples.dropped for part in self.parts)

    @property
    def cut(self) -> int:
        """Records that lost their end."""
        return sum(part.examples.cut for part in self.parts)

    @property
    def longest_row(self) -> int:
        """Tokens of the longest row that a model gets."""
        return max(part.examples.longest_row for part in self.parts if len(part.examples))

    def know(self, references: "array[float]") -> None:
        """From here on examples have these ``references``: see :meth:`Encoded.know`."""
        each = len(references) // len(self)
        for part, start in zip(self.parts, self._starts, strict=False):
            part.examples.know(references[start * each : (start + len(part.examples)) * each])

    @property
    def tokens(self) -> int:
        """Tokens in all, not counting padding."""
        return sum(part.examples.tokens for part in self.parts)

    def require_learned(self, what: str, every: bool, max_length: int) -> None:
        """Refuses examples of which there are none: none at all, or none of one file where ``every`` file counts.

        Raises:
            TrainerError: DATA_INVALID. ``what`` names them there.
        """
        empty = [part for part in self.parts if not len(part.examples)]
        if len(empty) == len(self.parts) or (every and empty):
            where = f" of {empty[0].source}" if len(self.parts) > 1 and every else ""
            records = sum(part.examples.dropped for part in (empty[:1] if where else empty))
            raise TrainerError(
                ExitCode.DATA_INVALID,
                f"None of the {records} {what} records{where} has anything to learn within its first {max_length} "
                "tokens. Raise spec.training.maxLength or shorten the prompts.",
            )

    @property
    def by_name(self) -> dict[str, list[int]]:
        """The numbers of the examples of each set."""
        return self.first(len(self))

    def first(self, count: int) -> dict[str, list[int]]:
        """The numbers of the first ``count`` examples of each set, of those that have any."""
        numbers: dict[str, list[int]] = {}
        for part, start in zip(self.parts, self._starts, strict=False):
            if len(part.examples):
                of_set = numbers.setdefault(part.set, [])
                of_set += range(start, start + min(len(part.examples), count - len(of_set)))
        return numbers
