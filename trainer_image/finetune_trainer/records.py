"""Data files → records. Knows the formats, and names file and line of whatever is wrong. Needs no torch.

* ``messages``: ``{"messages": [{"role": …, "content": …}, …]}``, OpenAI's chat format; ``tools`` is passed to the chat
  template. A content may be a string or a list of text parts.
* ``prompt-completion``: ``{"prompt": …, "completion": …}``, both strings or both lists of messages.
* ``text``: ``{"text": …}``, or a ``.txt`` file whose documents are separated by blank lines.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from finetune_api.run import ExitCode
from finetune_trainer.errors import TrainerError

Format = Literal["messages", "prompt-completion", "text"]

LINE_LIMIT = 16 << 20
"""Bytes. A longer line is a broken file, and would have to be held in memory whole."""

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


def read_records(path: Path, uri: str, declared: Format | None) -> list[Record]:
    """All records of one file.

    Args:
        path: the file, as downloaded.
        uri: where it came from; its ending tells plain text (``.txt``) from JSON Lines.
        declared: the format that the user gave; None: the format of the first record.

    Raises:
        TrainerError: DATA_INVALID, naming the URI and the line.
    """
    read = _documents if uri.endswith(".txt") else _json_lines
    records = list(read(path, uri, declared))
    if not records:
        raise _invalid(f"{uri} holds no record: it is empty. Upload a file with at least one record")
    return records


def _documents(path: Path, uri: str, declared: Format | None) -> Iterator[Record]:
    if declared not in (None, "text"):
        raise _invalid(f"{uri} is plain text (.txt), but its format is given as {declared}; give text, or a JSONL file")
    lines: list[str] = []
    start = 1
    for number, line in _lines(path, uri):
        if line.strip():
            start = start if lines else number
            lines.append(line)
        elif lines:
            yield Record(f"{uri} line {start}", text="\n".join(lines))
            lines = []
    if lines:
        yield Record(f"{uri} line {start}", text="\n".join(lines))


def _json_lines(path: Path, uri: str, declared: Format | None) -> Iterator[Record]:
    expected = declared
    for number, line in _lines(path, uri):
        if not line.strip():
            continue
        source = f"{uri} line {number}"
        try:
            content = _object(line)
            expected = expected or _recognise(content)
            _require_format(content, expected)
            yield _READERS[expected](content, source)
        except Fault as fault:
            raise _invalid(f"{source}: {fault}") from fault


def _lines(path: Path, uri: str) -> Iterator[tuple[int, str]]:
    """(number from 1, line without its end), decoded strictly."""
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(LINE_LIMIT + 1):
            number += 1
            if len(raw) > LINE_LIMIT:
                raise _invalid(f"{uri} line {number} is longer than {LINE_LIMIT >> 20} MiB. Split the record")
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise _invalid(
                    f"{uri} line {number} is not UTF-8 (byte {error.start + 1} of the line). Save the file as UTF-8"
                ) from error
            yield number, text.rstrip("\r\n")


def _object(line: str) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Fault(f"broken JSON: {error}. Every line must be one whole JSON object") from error
    if "\\ud" in line.lower():
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
    return tuple(_message(message, f"{field}[{index}]") for index, message in enumerate(value))


def _message(message: object, where: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise Fault(f'{where} is {_article(message)}, where an object such as {{"role": …, "content": …}} is expected')
    if message.get("role") not in _ROLES:
        raise Fault(f"{where}.role is {json.dumps(message.get('role'))}; expected one of {', '.join(_ROLES)}")
    if message.get("content") is None and message.get("tool_calls"):
        return {**message, "content": ""}
    return {**message, "content": _content(message.get("content"), f"{where}.content")}


def _content(value: object, where: str) -> str:
    """Text of a content: a string, or OpenAI's list of parts, of which only text can be learned here."""
    if isinstance(value, str):
        return value
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


def _invalid(message: str) -> TrainerError:
    return TrainerError(ExitCode.DATA_INVALID, f"{message[:1500]}.")
