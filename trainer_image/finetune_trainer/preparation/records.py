"""Data files → records. Knows the formats, and names file and line of whatever is wrong. Needs no torch.

* ``messages``: ``{"messages": [{"role": …, "content": …}, …]}``, OpenAI's chat format; ``tools`` is passed to the chat
  template. A content may be a string or a list of text parts.
* ``prompt-completion``: ``{"prompt": …, "completion": …}``, both strings or both lists of messages.
* ``text``: ``{"text": …}``, or a ``.txt`` file whose documents are separated by blank lines.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import StringIO
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

from finetune_trainer.preparation.lines import LINE_LIMIT, decode, invalid, read_lines

Format = Literal["messages", "prompt-completion", "text"]

MESSAGE_LIMIT = 10_000
"""Messages of one conversation. The tokens of more would fill any model's context with their roles alone."""

_FIELDS: dict[Format, tuple[str, ...]] = {
    "messages": ("messages",),
    "prompt-completion": ("prompt", "completion"),
    "text": ("text",),
}
_ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True)
class Record:
    """One example. Exactly one of ``messages``, ``completion`` and ``text`` is set."""

    source: str
    """Where it is from, for messages to people: ``s3://bucket/train.jsonl line 3``."""
    messages: tuple[dict[str, Any], ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    learn_from: int = 0
    """Index of the first message whose assistant turns are learned; those before it are a given prompt."""
    prompt: str = ""
    completion: str = ""
    text: str = ""


class Fault(Exception):
    """What is wrong with one record; the reader adds where it is."""


def find_format(path: Path, uri: str, declared: Format | None) -> Format:
    """The format of a file: the one that the user gave, or that of the first record.

    Args:
        path: the file, as downloaded.
        uri: where it came from; its ending tells plain text (``.txt``) from JSON Lines.

    Raises:
        TrainerError: DATA_INVALID, naming the URI and the line; also where there is no record at all.
    """
    if uri.endswith(".txt") and declared not in (None, "text"):
        raise invalid(f"{uri} is plain text (.txt), but its format is given as {declared}; give text, or a JSONL file")
    first = next(_raw_records(path, uri), None)
    if first is None:
        raise invalid(f"{uri} holds no record: it is empty. Upload a file with at least one record")
    if declared or uri.endswith(".txt"):
        return declared or "text"
    number, line = first
    try:
        return _recognise(_object(line))
    except Fault as fault:
        raise invalid(f"{uri} line {number}: {fault}") from fault


def read_records(path: Path, uri: str, format_: Format, wanted: Iterable[int] = repeat(1)) -> Iterator[Record]:
    """The records of one file, one after another; nothing is kept.

    Args:
        wanted: for each record of the file whether it is wanted (not 0); the others are passed over unread.

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
            _require_format(fields, format_)
            yield _READERS[format_](fields, source)
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
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Fault(f"broken JSON: {error}. Every line must be one whole JSON object") from error
    if "\\" in line and "\\u" in line and ("\\ud" in line or "\\uD" in line):  # the first of these is fast
        try:
            json.dumps(content, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise Fault("half a surrogate pair (\\ud8…) that stands for no character. Write the character") from error
    if not isinstance(content, dict):
        raise Fault(f"a JSON {_kind(content)}, where an object such as {{…}} is expected. Write one object a line")
    return content


def _recognise(content: dict[str, Any]) -> Format:
    for format_, fields in _FIELDS.items():
        if all(field in content for field in fields):
            return format_
    raise Fault(
        f"the fields {_names(content)} belong to no known format. Expected: messages; or prompt and completion; or text"
    )


def _require_format(content: dict[str, Any], expected: Format) -> None:
    missing = [field for field in _FIELDS[expected] if field not in content]
    if not missing:
        return
    others = [f for f, fields in _FIELDS.items() if f != expected and all(field in content for field in fields)]
    if others:
        raise Fault(
            f"a record of format {others[0]} in a file of format {expected}. Put the two formats into two files, and "
            "name both in spec.data"
        )
    raise Fault(
        f"the field {missing[0]} is missing, which format {expected} needs; there are {_names(content)}. Add the field "
        "or remove the line"
    )


def _messages_record(content: dict[str, Any], source: str) -> Record:
    messages = _conversation(content["messages"], "messages")
    if not any(m["role"] == "assistant" and m["content"].strip() for m in messages):
        raise Fault(
            "messages has no assistant turn with text, so there is nothing to learn. Add one or remove the line"
        )
    return Record(source, messages=messages, tools=_tools(content))


def _completion_record(content: dict[str, Any], source: str) -> Record:
    prompt, completion = content["prompt"], content["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        before = _conversation(prompt, "prompt")
        after = _conversation(completion, "completion")
        if not any(m["role"] == "assistant" and m["content"].strip() for m in after):
            raise Fault("completion has no assistant message with text. Add one or remove the line")
        return Record(source, messages=before + after, tools=_tools(content), learn_from=len(before))
    for name, value in (("prompt", prompt), ("completion", completion)):
        if not isinstance(value, str):
            raise Fault(
                f"{name} is {_article(value)}; prompt and completion must both be strings or both be lists of messages"
            )
    if not completion.strip():
        raise Fault("completion is empty, so there is nothing to learn. Fill it in or remove the line")
    return Record(source, prompt=prompt, completion=completion)


def _text_record(content: dict[str, Any], source: str) -> Record:
    text = content["text"]
    if not isinstance(text, str):
        raise Fault(f"text is {_article(text)}, where a string is expected")
    if not text.strip():
        raise Fault("text is empty. Fill it in or remove the line")
    return Record(source, text=text)


_READERS = {"messages": _messages_record, "prompt-completion": _completion_record, "text": _text_record}


def _conversation(value: object, field: str) -> tuple[dict[str, Any], ...]:
    if not isinstance(value, list) or not value:
        raise Fault(f"{field} is {_article(value)}, where a non-empty list of messages is expected")
    if len(value) > MESSAGE_LIMIT:
        raise Fault(
            f"{field} has {len(value)} messages, more than the {MESSAGE_LIMIT} a conversation may have. Split it"
        )
    return tuple(_message(message, f"{field}[{index}]") for index, message in enumerate(value))


def _message(message: object, where: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise Fault(f'{where} is {_article(message)}, where an object such as {{"role": …, "content": …}} is expected')
    if message.get("role") not in _ROLES:
        raise Fault(f"{where}.role is {json.dumps(message.get('role'))}; expected one of {', '.join(_ROLES)}")
    if isinstance(message.get("content"), str):
        return message
    if message.get("content") is None and message.get("tool_calls"):
        return {**message, "content": ""}
    return {**message, "content": _content(message.get("content"), f"{where}.content")}


def _content(value: object, where: str) -> str:
    """Text of a content that is no string but OpenAI's list of parts, of which only text can be learned here."""
    if isinstance(value, list) and all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str) for part in value
    ):
        return "".join(part["text"] for part in value)
    raise Fault(f"{where} is {_article(value)}, where a string or a list of text parts is expected")


def _tools(content: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    tools = content.get("tools") or []
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise Fault(f"tools is {_article(tools)}, where a list of objects is expected")
    return tuple(tools)


def _kind(value: object) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")


def _article(value: object) -> str:
    if value is None:
        return "missing or null"
    if value == []:
        return "an empty list"
    return f"{'an' if isinstance(value, dict) else 'a'} {_kind(value)}"


def _names(content: dict[str, Any]) -> str:
    shown = [json.dumps(name[:40]) for name in list(content)[:8]]
    return ", ".join(shown) + (", …" if len(content) > 8 else "") if shown else "(none)"
