"""Examples into groups that pad little: those of a group are about equally long."""

from collections.abc import Sequence


def alike(examples: Sequence[int], size: int, lengths: Sequence[int], targets: Sequence[int] | None) -> list[list[int]]:
    """Groups of ``size`` examples, the last one perhaps smaller, each the longest first.

    Args:
        examples: numbers of examples.
        size: of a group.
        lengths: tokens of each example.
        targets: how many of them are a row of their own, which is padded for itself. Where there are two lengths, no
            order is good for both: the examples are halved by one of them, whichever leaves less padding in the two
            halves, and the halves again, as in a k-d tree.
    """
    if targets is None:
        ranked = sorted(examples, key=lambda index: -lengths[index])
        return [ranked[at : at + size] for at in range(0, len(ranked), size)]

    def source(index: int) -> int:
        return lengths[index] - targets[index]

    def padded(some: Sequence[int]) -> int:
        return len(some) * (max(map(source, some)) + max(targets[index] for index in some))

    def groups(some: list[int]) -> list[list[int]]:
        if len(some) <= size:
            return [sorted(some, key=lambda index: -lengths[index])]
        middle = len(some) // size // 2 * size or size
        orders = (
            sorted(some, key=lambda index: (-source(index), -targets[index])),
            sorted(some, key=lambda index: (-targets[index], -source(index))),
        )
        halves = min(((order[:middle], order[middle:]) for order in orders), key=lambda two: sum(map(padded, two)))
        return [group for half in halves for group in groups(half)]

    return groups(list(examples))
