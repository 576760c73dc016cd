"""One line of the result."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


class NotHere(Exception):
    """This machine lacks what a section needs. The message says what."""


@dataclass(frozen=True)
class Goal:
    """A bound that a value must keep."""

    bound: float
    at_least: bool

    def holds(self, value: float) -> bool:
        """Whether ``value`` keeps it; NaN never does."""
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}"


def at_least(bound: float) -> Goal:
    """A goal of ``bound`` or more."""
    return Goal(bound, at_least=True)


def at_most(bound: float) -> Goal:
    """A goal of ``bound`` or less."""
    return Goal(bound, at_least=False)


@dataclass(frozen=True)
class Row:
    """A figure that was measured."""

    name: str
    value: float
    unit: str
    """``×`` for a ratio, else ``tokens/CPU-s``, ``MiB``, ``nats`` …"""
    goal: Goal | None = None
    """None: a figure that others are made of."""
    note: str = ""
    """What a reader must know to read it right."""

    @property
    def holds(self) -> bool:
        """Whether its goal is kept; a row without one has nothing to miss."""
        return self.goal is None or self.goal.holds(self.value)

    def to_json(self) -> dict[str, Any]:
        """As the files in ``build/bench/`` have it."""
        goal = str(self.goal) if self.goal else None
        return {"name": self.name, "goal": goal, "value": self.value, "unit": self.unit, "holds": self.holds}


def table(rows: Sequence[Row]) -> str:
    """The rows for a terminal, notes below their rows."""
    width = max((len(row.name) for row in rows), default=0)
    lines = [f"{'':{width}}  {'value':>10} {'unit':14} {'goal':>8}"]
    for row in rows:
        verdict = "" if row.goal is None else "holds" if row.holds else "MISSED"
        line = f"{row.name:{width}}  {_number(row.value):>10} {row.unit:14} {row.goal or ''!s:>8}  {verdict}"
        lines.append(line.rstrip())
        lines += [f"    {row.note}"] if row.note else []
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
