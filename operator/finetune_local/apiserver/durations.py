"""Times and durations as kubectl prints them (`4h2m`, `15s`)."""

from __future__ import annotations

from datetime import UTC, datetime

_MINUTE, _HOUR, _DAY, _YEAR = 60, 3600, 86400, 365 * 86400


def parse_time(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def age(text: str | None) -> str:
    """How long ago a time was; `<unknown>` without one."""
    moment = parse_time(text) if text else None
    return human_duration((datetime.now(UTC) - moment).total_seconds()) if moment else "<unknown>"


def between(start: str | None, end: str | None) -> str:
    first, last = parse_time(start or ""), parse_time(end or "")
    return human_duration((last - first).total_seconds()) if first and last else ""


def human_duration(span: float) -> str:
    """Seconds as two units at most, coarser the longer: the rules of apimachinery's HumanDuration."""
    if span < -1:
        return "<invalid>"
    seconds = max(int(span), 0)
    if seconds < 2 * _MINUTE:
        return f"{seconds}s"
    if seconds < 10 * _MINUTE:
        return _two(seconds, _MINUTE, "m", 1, "s")
    if seconds < 3 * _HOUR:
        return f"{seconds // _MINUTE}m"
    if seconds < 8 * _HOUR:
        return _two(seconds, _HOUR, "h", _MINUTE, "m")
    if seconds < 2 * _DAY:
        return f"{seconds // _HOUR}h"
    if seconds < 8 * _DAY:
        return _two(seconds, _DAY, "d", _HOUR, "h")
    if seconds < 2 * _YEAR:
        return f"{seconds // _DAY}d"
    if seconds < 8 * _YEAR:
        return _two(seconds, _YEAR, "y", _DAY, "d")
    return f"{seconds // _YEAR}y"


def _two(seconds: int, large: int, name: str, small: int, rest: str) -> str:
    count = seconds % large // small
    return f"{seconds // large}{name}" + (f"{count}{rest}" if count else "")
