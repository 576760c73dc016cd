"""Which examples go into which optimizer step, and how a step is cut into forward passes. Decided before the run.

A plan depends on the lengths, the settings and the seed alone: equal runs see equal batches, the number of steps is
known from the start, and any step can be found again by its number.
"""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_BUCKET = 50
"""Steps whose records are sorted by length together, so that a batch holds records of about one length."""


@dataclass(frozen=True)
class BatchPlan:
    """The steps of a run."""

    lengths: tuple[int, ...]
    """Tokens of each example."""
    batch_size: int
    """Examples a step; the last step of an epoch may have fewer."""
    total_steps: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every example is seen once."""
        return math.ceil(len(self.lengths) / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        """For each step the indices of its examples, longest first."""
        for step in range(0, self.total_steps, self.steps_per_epoch):
            epoch = self._epoch(step // self.steps_per_epoch)
            yield from epoch[: self.total_steps - step]

    @property
    def total_tokens(self) -> int:
        """Tokens of all steps, repetitions counted, padding not."""
        whole, rest = divmod(self.total_steps, self.steps_per_epoch)
        last = sum(self.lengths[index] for step in self._epoch(whole)[:rest] for index in step) if rest else 0
        return whole * sum(self.lengths) + last

    def _epoch(self, number: int) -> list[list[int]]:
        chance = random.Random(f"{self.seed}/{number}")  # noqa: S311 - an order, not a secret
        order = list(range(len(self.lengths)))
        chance.shuffle(order)
        steps = []
        for start in range(0, len(order), self.batch_size * _BUCKET):
            bucket = sorted(order[start : start + self.batch_size * _BUCKET], key=lambda i: -self.lengths[i])
            steps += [bucket[at : at + self.batch_size] for at in range(0, len(bucket), self.batch_size)]
        chance.shuffle(steps)
        return steps


def plan_batches(
    lengths: Sequence[int], batch_size: int, epochs: float | None, max_steps: int | None, seed: int
) -> BatchPlan:
    """The plan for ``max_steps`` steps, or for ``epochs`` passes (absent: 3), rounded up to whole steps."""
    per_epoch = math.ceil(len(lengths) / batch_size)
    total = max_steps or math.ceil(round((epochs or 3) * per_epoch, 6))
    return BatchPlan(tuple(lengths), batch_size, total, seed)


def token_budget(vocabulary: int) -> int:
    """Padded tokens of one forward pass where ``microBatchSize`` is absent.

    Logits are the largest tensor of a small model: 2^29 of them take 2 GiB in fp32. Bounded to 1,024 to 16,384 tokens.
    """
    return min(16_384, max(1_024, 2**29 // vocabulary))


def micro_batches(step: Sequence[int], lengths: Sequence[int], size: int | None, budget: int) -> list[list[int]]:
    """Cuts one step, whose examples come longest first, into forward passes.

    Each has ``size`` examples, or, if that is None, as many as fit into ``budget`` padded tokens, but at least one.
    """
    parts: list[list[int]] = []
    for index in step:
        part = parts[-1] if parts else []
        room = size or max(1, budget // lengths[part[0]] if part else 1)
        if part and len(part) < room:
            part.append(index)
        else:
            parts.append([index])
    return parts
