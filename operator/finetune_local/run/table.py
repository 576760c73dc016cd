"""A Table of the API server as kubectl prints it."""

from typing import Any

ACCEPT = "application/json;as=Table;v=v1;g=meta.k8s.io"
_PADDING, _NARROWEST = 3, 6


def render(table: dict[str, Any]) -> str:
    """Header and rows of the columns that ``kubectl get`` shows without ``-o wide``."""
    shown = [i for i, column in enumerate(table["columnDefinitions"]) if column.get("priority", 0) == 0]
    header = [table["columnDefinitions"][i]["name"].upper() for i in shown]
    rows = [[_cell(row["cells"][i]) for i in shown] for row in table.get("rows") or ()]
    lines = [header, *rows]
    widths = [max(_NARROWEST, _PADDING + max(len(line[i]) for line in lines)) for i in range(len(header))]
    return "\n".join("".join(_padded(line, widths)).rstrip() for line in lines)


def _padded(line: list[str], widths: list[int]) -> list[str]:
    return [*(cell.ljust(width) for cell, width in zip(line[:-1], widths, strict=False)), line[-1]]


def _cell(value: Any) -> str:
    return "" if value is None else str(value).split("\n", 1)[0]
