"""Kubernetes quantities as numbers, to compare them."""

from decimal import Decimal

_UNITS = {"m": Decimal("0.001")} | {
    f"{letter}{i}": Decimal(base) ** power
    for i, base in (("", 1000), ("i", 1024))
    for power, letter in enumerate("kMGT" if not i else "KMGT", start=1)
}


def amount(quantity: int | str) -> Decimal:
    """The number that a quantity of the spec (``500m``, ``16Gi``, ``4``) stands for."""
    text = str(quantity)
    unit = text.lstrip("0123456789.")
    return Decimal(text.removesuffix(unit) if unit else text) * _UNITS.get(unit, Decimal(1))
