"""Kubernetes quantities: as numbers to reckon with, and in the spelling that an API server answers with."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import ROUND_UP, Decimal

_DECIMAL = {
    unit: Decimal(1000) ** power for power, unit in enumerate(("n", "u", "m", "", "k", "M", "G", "T", "P", "E"), -3)
}
_BINARY = {unit: Decimal(1024) ** power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)}
_SPELLING = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(?:([KMGTPE]i|[numkMGTPE]?)|[eE]([+-]?[0-9]{1,3}))")
_FINEST, _MOST = Decimal("1e-9"), Decimal(2**63 - 1)
WANTED = r"quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"


@dataclass(frozen=True)
class Quantity:
    """An amount of CPUs, bytes, devices or objects, in steps of a billionth, as far as 2**63 - 1.

    ``binary`` is whether it is told in Ki, Mi and so on.
    ``str()`` is the shortest whole number with a unit, as an API server has it: ``1500m``, ``2``, ``16Gi``.
    """

    amount: Decimal = Decimal(0)
    binary: bool = False

    @classmethod
    def of(cls, text: str | int) -> Quantity:
        """Reads one.

        Raises:
            ValueError: it is none; ``str()`` says so in the API server's words.
        """
        found = _SPELLING.fullmatch(str(text))
        if found is None:
            raise ValueError(WANTED)
        number, unit, exponent = found.groups()
        scale = Decimal(10) ** int(exponent) if exponent else (_DECIMAL | _BINARY)[unit]
        amount = max(-_MOST, min(_MOST, Decimal(number) * scale))
        return cls(amount.quantize(_FINEST, ROUND_UP), unit in _BINARY)

    def __add__(self, other: Quantity) -> Quantity:
        """The sum, told as the first of the two that is something."""
        return Quantity(self.amount + other.amount, self.binary if self.amount else other.binary)

    def __str__(self) -> str:
        if not self.amount:
            return "0"
        units = {"": Decimal(1)} | _BINARY if self.binary and abs(self.amount) >= 1024 else _DECIMAL
        largest_first = sorted(units.items(), key=lambda one: -one[1])
        unit, scale = next((unit, scale) for unit, scale in largest_first if self.amount % scale == 0)
        return f"{int(self.amount / scale)}{unit}"
