"""Data files → records. Names file and line of whatever is wrong. Needs no torch.

A file is JSON Lines, each record an object of one of the formats in :mod:`finetune_trainer.preparation.formats`; or
plain text (``.txt``), whose documents are separated by blank lines.
"""

from collections.abc import Iterable, Iterator, Sequence
from io import StringIO
from itertools import repeat
from pathlib import Path
from typing import Any

from pydantic_core import from_json  # takes half of json's time

from finetune_trainer.preparation.formats import FORMATS, Format, recognise
from finetune_trainer.preparation.lines import LINE_LIMIT, decode, invalid, read_lines
from finetune_trainer.preparation.record import Fault, Record, field_names, kind


def find_format(path: Path, uri: str, declared: Format | None, formats: Sequence[Format]) -> Format:
    """The format of a file: the one that the user gave, or that of the first record.

    Args:
        path: the file, as downloaded.
        uri: where it came from; its ending tells plain text (``.txt``) from JSON Lines.
        formats: those that can be learned from here, in the order in which they are tried.

    Raises:
        TrainerError: DATA_INVALID, naming the URI and the line; also where there is no record at all.
    """
    if declared is not None and declared not in formats:
        raise invalid(f"{uri} is given as {declared}, but this task and objective take {' or '.join(formats)}")
    if uri.endswith(".txt") and "text" not in formats:
        raise invalid(f"{uri} is plain text (.txt), but this task and objective take {' or '.join(formats)} as JSONL")
    if uri.endswith(".txt") and declared not in (None, "text"):
        raise invalid(f"{uri} is plain text (.txt), but its format is given as {declared}; give text, or a JSONL file")
    first = next(_raw_records(path, uri), None)
    if first is None:
        raise invalid(f"{uri} holds no record: it is empty. Upload a file with at least one record")
    if declared or uri.endswith(".txt"):
        return declared or "text"
    number, line = first
    try:
        return _recognise(_object(line), formats)
    except Fault as fault:
        raise invalid(f"{uri} line {number}: {fault}") from fault


def read_records(
    path: Path, uri: str, format_: Format, wanted: Iterable[int] = repeat(1), formats: Sequence[Format] = tuple(FORMATS)
) -> Iterator[Any]:
    """The records of one file, one after another; nothing is kept.

    Args:
        wanted: for each record of the file whether it is wanted (not 0); the others are passed over unread.
        formats: those that a record of another format may be told by.

    Raises:
        TrainerError: DATA_INVALID, naming the URI and the line.
    """
    for (number, content), take in zip(_raw_records(path, uri), wanted, strict=False):
        if not take:
            continue
        source = f"{uri} line {number}"
        if uri.endswith(".txt"):
            yield Record(source, text=content)
            continue
        try:
            fields = _object(content)
            _require_format(fields, format_, formats)
            yield FORMATS[format_].read(fields, source)
        except Fault as fault:
            raise invalid(f"{source}: {fault}") from fault


def _raw_records(path: Path, uri: str) -> Iterator[tuple[int, str]]:
    """(number of its first line, text) of each record, not parsed."""
    lines = ((number, decode(line, number, uri)) for number, line in read_lines(path, uri))
    return _documents(lines, uri) if uri.endswith(".txt") else (line for line in lines if line[1].strip())


def _documents(lines: Iterable[tuple[int, str]], uri: str) -> Iterator[tuple[int, str]]:
    document = StringIO()
    start = 1
    for number, line in lines:
        if "\0" in line:
            raise invalid(f"{uri} line {number} holds a NUL byte, so the file is no text. Save it as UTF-8")
        if not line.strip():
            if document.tell():
                yield start, document.getvalue()
                document = StringIO()
            continue
        start = start if document.tell() else number
        document.write(f"\n{line}" if document.tell() else line)
        if document.tell() > LINE_LIMIT:
            raise invalid(
                f"{uri} line {start} begins a document of more than {LINE_LIMIT >> 20} MiB. Put a blank line between "
                "documents, or cut it"
            )
    if document.tell():
        yield start, document.getvalue()


def _object(line: str) -> dict[str, Any]:
    try:
        content = from_json(line)
    except ValueError as error:
        what = str(error).replace(" line 1 ", " ")  # of the file it is another line
        if "surrogate" in what or "hex escape" in what:
            what += ": half a surrogate pair (\\ud8…) stands for no character"
        raise Fault(f"broken JSON: {what}. Every line must be one whole JSON object") from error
    if not isinstance(content, dict):
        raise Fault(f"a JSON {kind(content)}, where an object such as {{…}} is expected. Write one object a line")
    return content


def _recognise(content: dict[str, Any], formats: Sequence[Format]) -> Format:
    if found := recognise(content, formats):
        return found[0]
    expected = "; or ".join(" and ".join(FORMATS[f].fields) for f in formats if FORMATS[f].fields)
    mend = ". Rename the fields, or give spec.data.template over those that there are" if "fields" in formats else ""
    raise Fault(
        f"the fields {field_names(content)} belong to no format that this task takes. Expected: {expected}{mend}"
    )


def _require_format(content: dict[str, Any], expected: Format, formats: Sequence[Format]) -> None:
    missing = [field for field in FORMATS[expected].fields if field not in content]
    if not missing:
        return
    others = recognise(content, formats)
    if others:
        raise Fault(
            f"a record of format {others[0]} in a file of format {expected}. Put the two formats into two files, and "
            "name both in spec.data"
        )
    raise Fault(
        f"the field {missing[0]} is missing, which format {expected} needs; there are {field_names(content)}. Add the "
        "field or remove the line"
    )
