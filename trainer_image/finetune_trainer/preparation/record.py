"""A record as it was read, what may be wrong with one, and the words to say it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Record:
    """One example. Exactly one of ``messages``, ``completion``, ``text`` and ``fields`` is set."""

    source: str
    """Where it is from, for messages to people: ``s3://bucket/train.jsonl line 3``."""
    messages: tuple[dict[str, Any], ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    learn_from: int = 0
    """Index of the first message whose assistant turns are learned; those before it are a given prompt."""
    prompt: str = ""
    completion: str = ""
    text: str = ""
    fields: Mapping[str, Any] | None = None
    """Of any kind, for a template of the job's."""


class Fault(Exception):
    """What is wrong with one record; the reader adds where it is."""


def kind(value: object) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")


def article(value: object) -> str:
    if value is None:
        return "missing or null"
    if value == []:
        return "an empty list"
    return f"{'an' if isinstance(value, dict) else 'a'} {kind(value)}"


def field_names(content: dict[str, Any]) -> str:
    shown = [json.dumps(name[:40]) for name in list(content)[:8]]
    return ", ".join(shown) + (", …" if len(content) > 8 else "") if shown else "(none)"
