"""Records that are text to learn: conversations, prompts with completions, plain text."""

import json
from typing import Any

from finetune_trainer.preparation.record import Fault, Record, article

MESSAGE_LIMIT = 10_000
"""Messages of one conversation. The tokens of more would fill any model's context with their roles alone."""

_ROLES = ("system", "developer", "user", "assistant", "tool")


def messages(content: dict[str, Any], source: str) -> Record:
    given = conversation(content["messages"], "messages")
    if not any(m["role"] == "assistant" and m["content"].strip() for m in given):
        raise Fault(
            "messages has no assistant turn with text, so there is nothing to learn. Add one or remove the line"
        )
    return Record(source, messages=given, tools=tools(content))


def prompt_completion(content: dict[str, Any], source: str) -> Record:
    return answer(content, source, content["prompt"], content["completion"], "completion")


def answer(content: dict[str, Any], source: str, prompt: Any, given: Any, field: str) -> Record:
    """A prompt and an answer to it, both strings or both messages; ``field`` is the answer's name in ``content``."""
    if isinstance(prompt, list) and isinstance(given, list):
        before = conversation(prompt, "prompt") if prompt or "prompt" in content else ()
        after = conversation(given, field)
        if not any(m["role"] == "assistant" and m["content"].strip() for m in after):
            raise Fault(f"{field} has no assistant message with text. Add one or remove the line")
        return Record(source, messages=before + after, tools=tools(content), learn_from=len(before))
    for name, value in (("prompt", prompt), (field, given)):
        if not isinstance(value, str):
            raise Fault(
                f"{name} is {article(value)}; prompt and {field} must both be strings or both be lists of messages"
            )
    if not given.strip():
        raise Fault(f"{field} is empty, so there is nothing to learn. Fill it in or remove the line")
    return Record(source, prompt=prompt, completion=given)


def text(content: dict[str, Any], source: str) -> Record:
    given = content["text"]
    if not isinstance(given, str):
        raise Fault(f"text is {article(given)}, where a string is expected")
    if not given.strip():
        raise Fault("text is empty. Fill it in or remove the line")
    return Record(source, text=given)


def fields(content: dict[str, Any], source: str) -> Record:
    return Record(source, fields=content)


def conversation(value: object, field: str) -> tuple[dict[str, Any], ...]:
    if not isinstance(value, list) or not value:
        raise Fault(f"{field} is {article(value)}, where a non-empty list of messages is expected")
    if len(value) > MESSAGE_LIMIT:
        raise Fault(
            f"{field} has {len(value)} messages, more than the {MESSAGE_LIMIT} a conversation may have. Split it"
        )
    return tuple(_message(message, f"{field}[{index}]") for index, message in enumerate(value))


def _message(message: object, where: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise Fault(f'{where} is {article(message)}, where an object such as {{"role": …, "content": …}} is expected')
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
    raise Fault(f"{where} is {article(value)}, where a string or a list of text parts is expected")


def tools(content: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    given = content.get("tools") or []
    if not isinstance(given, list) or not all(isinstance(tool, dict) for tool in given):
        raise Fault(f"tools is {article(given)}, where a list of objects is expected")
    return tuple(given)
