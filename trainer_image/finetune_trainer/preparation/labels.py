"""The labels of data: found while they are read through, in the order of a head's outputs. Needs no torch."""

from collections.abc import Callable, Collection, Iterable
from typing import Any

from finetune_trainer.errors import one_line
from finetune_trainer.preparation.labelled import Labelled
from finetune_trainer.preparation.lines import invalid
from finetune_trainer.preparation.record import Record

LABEL_LIMIT = 4096
"""Different labels of a set. More are most often another field, such as the text itself, in the place of the label."""


def in_order(found: Collection[str]) -> tuple[str, ...]:
    """Labels in the order of a head's outputs: numbers by their value, others by their letters."""
    by: Callable[[str], Any] = int if all(name.isascii() and name.isdigit() for name in found) else str
    return tuple(sorted(found, key=lambda name: (by(name), name)))


def shown(names: Iterable[str], most: int = 12) -> str:
    """Some of them, in their order, for a sentence."""
    ordered = in_order(set(names))
    return ", ".join([one_line(name, 40) for name in ordered[:most]] + ["…"] * (len(ordered) > most))


def read_through(records: Iterable[Record], known: frozenset[str] | None) -> tuple[int, frozenset[str]]:
    """How many records there are, and their labels.

    Args:
        known: labels beside which there may be no other; None: there may.

    Raises:
        TrainerError: DATA_INVALID, naming the URI and the line.
    """
    count, found = 0, set[str]()
    for record in records:
        count += 1
        if isinstance(record, Labelled):
            for name in record.named:
                if known is not None and name not in known:
                    raise invalid(
                        f"{record.source}: the label {name!r} is none of the {len(known)} of the training files "
                        f"({shown(known)}). Correct it, or add records that have it to spec.data.train"
                    )
                found.add(name)
            if len(found) > LABEL_LIMIT:
                raise invalid(
                    f"{record.source}: more than {LABEL_LIMIT} different labels, so the label is most likely another "
                    "field of the data. Put a class there, or leave out the rarest ones"
                )
    return count, frozenset(found)
