"""Structured logs: one line each, with the fields of the case behind the words, as text (logfmt) or as JSON."""

import json
import logging
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any

from finetune_api.plain import plain, plain_text

FORMATS = ("text", "json")


class JobLog(logging.LoggerAdapter[logging.Logger]):
    """A logger whose lines carry namespace and name of a FineTuneJob."""

    def __init__(self, logger: logging.Logger, namespace: str, name: str) -> None:
        super().__init__(logger)
        self._job = {"namespace": namespace, "name": name}

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Binds the fields; ``fields={...}`` adds more."""
        kwargs["extra"] = {"fields": self._job | (kwargs.pop("fields", None) or {})}
        return msg, kwargs


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """One object a line; an exception's traceback is a field."""
        said = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": plain_text(record.getMessage()),
            **plain(_fields(record)),
        }
        if record.exc_info:
            said["exception"] = _lines(self.formatException(record.exc_info))
        return json.dumps(said, ensure_ascii=False, default=str)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Time, level, logger, and the words; then ``field=value``, quoted where it would fall apart."""
        words = plain_text(record.getMessage())
        fields = "".join(f" {name}={_value(value)}" for name, value in _fields(record).items())
        trace = f"\n{_lines(self.formatException(record.exc_info))}" if record.exc_info else ""
        return f"{_time(record)} {record.levelname} {record.name}: {words}{fields}{trace}"


def _lines(trace: str) -> str:
    """A traceback, whose line ends are its own, without what a terminal obeys."""
    return "\n".join(map(plain_text, trace.split("\n")))


def configure(level: str, chosen: str) -> None:
    """Send all logs to standard error, in one of ``FORMATS``."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Json() if chosen == "json" else _Text())
    logging.basicConfig(level=level, handlers=[handler], force=True)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(record, "fields", {})
    return fields


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _value(value: object) -> str:
    text = str(value)
    return text if text and not any(c in ' "=\\' or not c.isprintable() for c in text) else json.dumps(text)
