"""The formats of records, by the names of ``spec.data``: which fields a record has, and who reads it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_trainer.preparation import labelled, preferences, texts

Format = str
"""A key of :data:`FORMATS`."""


@dataclass(frozen=True)
class Reader:
    """Of one format."""

    fields: tuple[str, ...]
    """That a record must have, and by which the format is recognised; none: it is never taken for granted."""
    read: Callable[[dict[str, Any], str], Any]
    """A JSON object, and where it is from → the record; raises Fault."""
    chat: bool = False
    """Records may be conversations, which a chat template writes."""


FORMATS: dict[Format, Reader] = {
    "messages": Reader(("messages",), texts.messages, chat=True),
    "prompt-completion": Reader(("prompt", "completion"), texts.prompt_completion, chat=True),
    "text": Reader(("text",), texts.text),
    "preference": Reader(("chosen", "rejected"), preferences.preference, chat=True),
    "feedback": Reader(("prompt", "completion", "label"), preferences.feedback, chat=True),
    "text-label": Reader(("text", "label"), labelled.label),
    "text-labels": Reader(("text", "labels"), labelled.labels),
    "token-tags": Reader(("tokens", "tags"), labelled.tags),
    "question-answer": Reader(("question", "context", "answers"), labelled.question),
    "fields": Reader((), texts.fields),
}


def recognise(content: dict[str, Any], formats: Sequence[Format]) -> list[Format]:
    """Those of ``formats`` whose fields a record has."""
    return [name for name in formats if FORMATS[name].fields and all(f in content for f in FORMATS[name].fields)]
