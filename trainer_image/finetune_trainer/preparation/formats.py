"""The formats of records, by the names of ``spec.data``: which fields a record has, and who reads it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from finetune_trainer.preparation import labelled, texts
from finetune_trainer.preparation.record import Record

Format = str
"""A key of :data:`FORMATS`."""


@dataclass(frozen=True)
class Reader:
    """Of one format."""

    fields: tuple[str, ...]
    """That a record must have, and by which the format is recognised."""
    read: Callable[[dict[str, Any], str], Record]
    """A JSON object, and where it is from → the record; raises Fault."""


FORMATS: dict[Format, Reader] = {
    "messages": Reader(("messages",), texts.messages),
    "prompt-completion": Reader(("prompt", "completion"), texts.prompt_completion),
    "text": Reader(("text",), texts.text),
    "text-label": Reader(("text", "label"), labelled.label),
    "text-labels": Reader(("text", "labels"), labelled.labels),
    "token-tags": Reader(("tokens", "tags"), labelled.tags),
    "question-answer": Reader(("question", "context", "answers"), labelled.question),
}
