"""Which examples go into which optimizer step, and how a step is cut into forward passes. Decided before the run.

A plan depends on the lengths, the settings and the seed alone: equal runs see equal batches, the number of steps is
known from the start, and any step can be found again by its number.
"""

import functools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_BUCKET = 50
"""Steps whose records are sorted by length together where records are padded, so that those of a step are about as
long."""


@dataclass(frozen=True, eq=False)
class BatchPlan:
    """The steps of a run."""

    lengths: Sequence[int]
    """Tokens of each example."""
    batch_size: int
    """Examples a step; the last step of an epoch may have fewer."""
    total_steps: int
    seed: int
    bucketed: bool
    """Whether the examples of a step are of about one length, because they are going to be padded."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every example is seen once."""
        return math.ceil(len(self.lengths) / self.batch_size)

    def step(self, number: int) -> list[int]:
        """The examples of step ``number``, from 0, longest first."""
        epoch, within = divmod(number, self.steps_per_epoch)
        return self._epoch(epoch)[within]

    def __iter__(self) -> Iterator[list[int]]:
        """For each step the indices of its examples."""
        return (self.step(number) for number in range(self.total_steps))

    @property
    def total_tokens(self) -> int:
        """Tokens of all steps, repetitions counted, padding not."""
        whole, rest = divmod(self.total_steps, self.steps_per_epoch)
        last = sum(self.lengths[index] for step in self._epoch(whole)[:rest] for index in step) if rest else 0
        return whole * int(sum(self.lengths)) + int(last)

    @functools.lru_cache(maxsize=2)  # noqa: B019 - a plan lives as long as its run
    def _epoch(self, number: int) -> list[list[int]]:
        chance = random.Random(f"{self.seed}/{number}")  # noqa: S311 - an order, not a secret
        order = list(range(len(self.lengths)))
        chance.shuffle(order)
        window = self.batch_size * (_BUCKET if self.bucketed else 1)
        steps = []
        for start in range(0, len(order), window):
            ranked = sorted(order[start : start + window], key=lambda i: -self.lengths[i])
            steps += [ranked[at : at + self.batch_size] for at in range(0, len(ranked), self.batch_size)]
        chance.shuffle(steps)
        return steps


def plan_batches(
    lengths: Sequence[int],
    batch_size: int,
    epochs: float | None,
    max_steps: int | None,
    seed: int,
    bucketed: bool = False,
) -> BatchPlan:
    """The plan for ``max_steps`` steps, or for ``epochs`` passes (absent: 3), rounded up to whole steps."""
    per_epoch = math.ceil(len(lengths) / batch_size)
    total = max_steps or math.ceil(round((epochs or 3) * per_epoch, 6))
    return BatchPlan(lengths, batch_size, total, seed, bucketed)


@dataclass(frozen=True)
class Cut:
    """How the examples of a step become forward passes."""

    packed: bool
    """Records one after the other in one row, without padding; else one a row, padded to the longest."""
    tokens: int
    """Of a forward pass, padding counted; a longer record has one to itself."""
    records: int | None = None
    """Of a forward pass; counts instead of ``tokens`` where the user asked for it."""

    def micro_batches(self, step: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
        """Cuts one step, whose examples come longest first."""
        if self.records:
            return [list(step[at : at + self.records]) for at in range(0, len(step), self.records)]
        return self._first_fit(step, lengths) if self.packed else self._in_order(step, lengths)

    def _first_fit(self, step: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
        """First-fit decreasing: each record goes into the first pass that has room for it."""
        parts: list[list[int]] = []
        room: list[int] = []
        for index in step:
            length = int(lengths[index])
            number = next((number for number, left in enumerate(room) if left >= length), len(parts))
            if number == len(parts):
                parts.append([])
                room.append(self.tokens)
            parts[number].append(index)
            room[number] -= length
        return parts

    def _in_order(self, step: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
        parts: list[list[int]] = []
        for index in step:
            if parts and (len(parts[-1]) + 1) * lengths[parts[-1][0]] <= self.tokens:
                parts[-1].append(index)
            else:
                parts.append([index])
        return parts
