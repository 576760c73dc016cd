"""Which examples go into which optimizer step, and how a step is cut into forward passes. Decided before the run.

A plan depends on the lengths, the settings and the seed alone: equal runs see equal batches, the number of steps is
known from the start, and any step can be found again by its number.

**Weights.** A part of n examples and weight w gives every epoch as many examples: n w, rounded, at least one. They are
the next ones of an endless row of shuffled copies of the part (permutations drawn by the seed), in which each epoch
begins where the one before ended. So a whole weight gives every example as often in each epoch, a fractional one gives
no example twice before all were given once, and after any number of epochs no example of a part was given more than
once oftener than another. What all parts give is then shuffled together: a step has of each part what chance brings, on
average its share.
"""

import functools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from finetune_trainer.training.alike import alike

_PASS = 32
"""What a padded forward pass costs beside its tokens, as a share of those that it may hold: where two save more padding
than that, they are two. For translations and summaries on a CPU a share of 16 makes a twentieth fewer passes and pads
3.3 % instead of 2.9 %, one of 64 is slower by a quarter."""
_TOGETHER = 512
"""Records of a padded forward pass, at most."""
_BUCKET = 50
"""Steps whose records are put together by length where records are padded, so that those of a step are about as
long."""
_BUCKET_OF_TWO = 200
"""The same where an example has two lengths, which takes more examples to find some that are alike in both: of
translations and summaries 97 % is text with 200 steps, and 95 % with 50."""


@dataclass(frozen=True)
class Source:
    """Examples that follow one another and have one weight."""

    first: int
    """Number of the first one."""
    count: int
    per_epoch: int
    """Examples that it gives each epoch."""
    seed: str

    def given(self, epoch: int) -> list[int]:
        """The examples that it gives an epoch; in no order where they are all of them."""
        begin, end = epoch * self.per_epoch, (epoch + 1) * self.per_epoch
        given: list[int] = []
        while begin < end:
            copy, within = divmod(begin, self.count)
            taken = min(self.count - within, end - begin)
            given += self._copy(copy)[within : within + taken] if taken < self.count else self._all
            begin += taken
        return given

    def times_before(self, epoch: int) -> tuple[int, list[int]]:
        """How often every example is given before an epoch, and which are given once more."""
        copy, within = divmod(epoch * self.per_epoch, self.count)
        return copy, self._copy(copy)[:within] if within else []

    @property
    def _all(self) -> range:
        return range(self.first, self.first + self.count)

    def _copy(self, number: int) -> list[int]:
        return random.Random(f"{self.seed}/{number}").sample(self._all, self.count)  # noqa: S311 - an order, not a secret


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
    sources: Sequence[Source]
    """Of all examples."""
    targets: Sequence[int] | None = None
    """How many tokens of each example are a row of their own, which is padded for itself."""

    @property
    def examples_per_epoch(self) -> int:
        """Examples that an epoch sees, repetitions counted: as many as there are, where no weight says otherwise."""
        return sum(source.per_epoch for source in self.sources)

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every example is seen as often as its weight says."""
        return math.ceil(self.examples_per_epoch / self.batch_size)

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
        for source in self.sources:
            times, once_more = source.times_before(whole)
            last += times * sum(self.lengths[source.first : source.first + source.count])
            last += sum(self.lengths[index] for index in once_more)
        return int(last)

    @functools.lru_cache(maxsize=2)  # noqa: B019 - a plan lives as long as its run
    def _epoch(self, number: int) -> list[list[int]]:
        chance = random.Random(f"{self.seed}/{number}")  # noqa: S311 - an order, not a secret
        order = [index for source in self.sources for index in source.given(number)]
        chance.shuffle(order)
        window = self.batch_size * (1 if not self.bucketed else _BUCKET_OF_TWO if self.targets else _BUCKET)
        steps = []
        for start in range(0, len(order), window):
            steps += alike(order[start : start + window], self.batch_size, self.lengths, self.targets)
        chance.shuffle(steps)
        return steps


def plan_batches(
    lengths: Sequence[int],
    batch_size: int,
    epochs: float | None,
    max_steps: int | None,
    seed: int,
    bucketed: bool = False,
    weights: Sequence[tuple[int, float]] | None = None,
    targets: Sequence[int] | None = None,
) -> BatchPlan:
    """The plan for ``max_steps`` steps, or for ``epochs`` passes (absent: 3), rounded up to whole steps.

    Args:
        weights: for each part of the examples, in their order, how many they are and how often an epoch sees each of
            them; absent: all once.
        targets: as in :class:`BatchPlan`.
    """
    parts = weights or [(len(lengths), 1.0)]
    starts = accumulate((count for count, _ in parts), initial=0)
    sources = tuple(
        Source(first, count, max(1, math.floor(weight * count + 0.5)), f"{seed}/part {number}")
        for number, (first, (count, weight)) in enumerate(zip(starts, parts, strict=False))
    )
    plan = BatchPlan(lengths, batch_size, 0, seed, bucketed, sources, targets)
    steps = math.ceil(round((epochs or 3) * plan.steps_per_epoch, 6)) if max_steps is None else max_steps
    return replace(plan, total_steps=steps)


@dataclass(frozen=True)
class Cut:
    """How the examples of a step become forward passes."""

    packed: bool
    """Records one after the other in one row, without padding; else one a row, padded to the longest."""
    tokens: int
    """Of a forward pass, padding counted; a longer record has one to itself."""
    records: int | None = None
    """Of a forward pass; counts instead of ``tokens`` where the user asked for it."""
    virtual: int = 0
    """Tokens before each record that are in no data."""

    def micro_batches(
        self, step: Sequence[int], lengths: Sequence[int], targets: Sequence[int] | None = None
    ) -> list[list[int]]:
        """Cuts one step, whose examples come longest first.

        Args:
            step: numbers of examples.
            lengths: tokens of each example.
            targets: how many of them are a row of their own, which is padded for itself.
        """
        if targets is not None:  # they are about equally long altogether, so that those of one source have one target
            step = sorted(step, key=lambda index: (targets[index] - lengths[index], -targets[index]))
        if self.records:
            return [list(step[at : at + self.records]) for at in range(0, len(step), self.records)]
        return self._first_fit(step, lengths) if self.packed else self._least_padding(step, lengths, targets)

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

    def _least_padding(
        self, step: Sequence[int], lengths: Sequence[int], targets: Sequence[int] | None
    ) -> list[list[int]]:
        """In their order, cut where tokens, padding and passes cost least together: by dynamic programming."""
        least = [0.0]  # cost of the first so many examples
        begins = [0]  # where the last pass of the first so many examples begins
        for end in range(1, len(step) + 1):
            best, begin, first, second = math.inf, end - 1, 0, 0
            for start in range(end - 1, max(-1, end - 1 - _TOGETHER), -1):
                index = step[start]
                target = 0 if targets is None else int(targets[index])
                first, second = max(first, int(lengths[index]) - target), max(second, target)
                taken = (end - start) * (first + second + self.virtual)
                if taken > self.tokens and start < end - 1:
                    break
                cost = least[start] + taken + self.tokens / _PASS
                if cost < best:
                    best, begin = cost, start
            least.append(best)
            begins.append(begin)
        parts: list[list[int]] = []
        end = len(step)
        while end:
            parts.append(list(step[begins[end] : end]))
            end = begins[end]
        return parts[::-1]
