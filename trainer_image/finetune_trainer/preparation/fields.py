"""Records with fields of any kind → text by a template of the job, and which part of the text is learned.

Like a chat template it runs in the sandbox and within the limits of :mod:`finetune_trainer.preparation.template_guard`;
unlike there, a field that the record does not have is an error and not an empty text.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, UndefinedError
from jinja2.exceptions import SecurityError
from jinja2.ext import loopcontrols

from finetune_api.run import ExitCode
from finetune_trainer.errors import TrainerError, one_line
from finetune_trainer.preparation.given import CLOSE, OPEN, Given, Marks
from finetune_trainer.preparation.record import Record, field_names
from finetune_trainer.preparation.template_guard import (
    GuardedEnvironment,
    TemplateRefused,
    Watch,
    require_in_proportion,
)
from finetune_trainer.preparation.wording import Span


class FieldsTemplate:
    """A template over the fields of a record."""

    def __init__(self, given: Given, special_tokens: Mapping[str, str]) -> None:
        """Compiles it. ``special_tokens``: ``eos_token`` and the like, which it may use beside the fields, and beside
        ``record``, which is all of them together.

        Raises:
            TrainerError: CONFIGURATION_INVALID.
        """
        self._origin = given.origin
        self._special_tokens = special_tokens
        self._watch = Watch()
        environment = GuardedEnvironment(
            undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, extensions=[Marks, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        try:
            self._template = environment.from_string(given.text)
        except TemplateRefused as error:
            raise self._origin.refused(error.what) from error
        except TemplateSyntaxError as error:
            raise self._origin.refused(f"is no valid Jinja (line {error.lineno}: {one_line(error)})") from error

    def render(self, record: Record) -> tuple[str, list[Span]]:
        """The record's text, and the spans of it that are learned.

        Raises:
            TrainerError: DATA_INVALID where it fails on this record, CONFIGURATION_INVALID where it must not be run.
        """
        fields = record.fields or {}
        name = self._origin.name
        if any(mark in json.dumps(fields, ensure_ascii=False) for mark in (OPEN, CLOSE)):
            raise _of_record(record, "it holds U+FDD0 or U+FDD1, which stand for no character. Remove them.")
        try:
            marked = self._template.render({"record": fields, **self._special_tokens, **fields})
            require_in_proportion(marked, fields, ())
            text, spans = _unmark(marked)
        except TemplateRefused as error:
            raise self._origin.refused(error.what) from error
        except SecurityError as error:
            raise self._origin.refused(f"does what no template may: {one_line(error, 200)}") from error
        except UndefinedError as error:
            raise _of_record(
                record,
                f"{name} uses what the record does not have ({one_line(error, 200)}); there are the fields "
                f"{field_names(dict(fields))}. Add the field, remove the line, or ask in the template whether it is "
                "defined.",
            ) from error
        except TemplateError as error:
            raise _of_record(record, f"{name} refuses it: {one_line(error, 200)}. Correct one of the two.") from error
        except (TypeError, LookupError, ValueError, ArithmeticError, AttributeError, RecursionError) as error:
            said = f"{type(error).__name__}: {one_line(error, 200)}"
            raise _of_record(record, f"{name} fails on it: {said}. Correct one of the two.") from error
        if not any(text[start:end].strip() for start, end in spans):
            raise _of_record(
                record, f"{name} marks nothing of it as learned. Fill in what it marks, or remove the line."
            )
        return text, spans


def _of_record(record: Record, what: str) -> TrainerError:
    return TrainerError(ExitCode.DATA_INVALID, f"{record.source}: {what}")


def _unmark(marked: str) -> tuple[str, list[Span]]:
    """A text without its marks, and what stood between them; marks within others mean nothing more."""
    parts: list[str] = []
    spans: list[Span] = []
    length = depth = start = 0
    for part in re.split(f"([{OPEN}{CLOSE}])", marked):
        if part == OPEN:
            start = start if depth else length
            depth += 1
        elif part == CLOSE:
            depth -= 1
            if not depth:
                spans.append((start, length))
        else:
            parts.append(part)
            length += len(part)
    if depth:
        raise ValueError("generation is left by break or continue before its end")
    return "".join(parts), spans


def _to_json(x: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None) -> str:
    """As transformers has it in chat templates: nothing is escaped for web pages."""
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators)


def _raise(message: str) -> None:
    raise TemplateError(message)
