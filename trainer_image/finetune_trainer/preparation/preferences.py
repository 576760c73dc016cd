"""Records that say which answer is better: pairs of a chosen and a rejected one, and single answers with a verdict.

An answer is a :class:`~finetune_trainer.preparation.record.Record` with its prompt, as a string or as messages.
"""

import re
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from finetune_trainer.preparation.record import Fault, Record, article
from finetune_trainer.preparation.texts import answer, conversation


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt."""

    source: str
    chosen: Record
    rejected: Record


@dataclass(frozen=True)
class Feedback:
    """One answer and what was thought of it."""

    source: str
    answer: Record
    desirable: bool


def preference(content: dict[str, Any], source: str) -> Pair:
    """``chosen`` and ``rejected`` with a ``prompt``, or with none: then their common beginning is the prompt."""
    for name in ("chosen", "rejected"):
        if not content[name]:
            raise Fault(f"{name} is {_what(content[name])}; a pair needs two answers. Fill it in or remove the line")
    if content["chosen"] == content["rejected"]:
        raise Fault("chosen and rejected are equal, so that neither is better. Correct one or remove the line")
    parts = _parts(content)
    chosen, rejected = (answer(content, source, parts["prompt"], parts[name], name) for name in ("chosen", "rejected"))
    return Pair(source, chosen, rejected)


def feedback(content: dict[str, Any], source: str) -> Feedback:
    """``prompt``, ``completion`` and ``label``."""
    verdict = content["label"]
    if not isinstance(verdict, bool):
        raise Fault(f"label is {_what(verdict)}, where true (a good answer) or false (a bad one) is expected")
    return Feedback(source, answer(content, source, content["prompt"], content["completion"], "completion"), verdict)


def _what(value: object) -> str:
    if value == "":
        return "an empty string"
    return f"the number {value}" if isinstance(value, int | float) else article(value)


def _parts(content: dict[str, Any]) -> dict[str, Any]:
    """Prompt and answers. Many sets name the prompt and repeat it in conversations that hold it as a message."""
    chosen, rejected, prompt = content["chosen"], content["rejected"], content.get("prompt")
    conversations = isinstance(chosen, list) and isinstance(rejected, list)
    if prompt is not None and not (conversations and isinstance(prompt, str)):
        return content
    if conversations:
        chosen, rejected = (list(conversation(content[name], name)) for name in ("chosen", "rejected"))
        same = sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(chosen, rejected, strict=False)))
        if prompt is not None and prompt not in [message["content"] for message in chosen[:same]]:
            raise Fault(
                "prompt is a string that is no message of the common beginning of chosen and rejected, which are lists "
                "of messages. Leave prompt out, or give all three as lists or all three as strings"
            )
        if same in (len(chosen), len(rejected)):
            raise Fault(
                "one of chosen and rejected is how the other begins, so nothing is left to compare. Let each end with "
                "an answer of its own, or remove the line"
            )
        return {"prompt": chosen[:same], "chosen": chosen[same:], "rejected": rejected[same:]}
    if isinstance(chosen, str) and isinstance(rejected, str):
        same = _common(chosen, rejected)
        return {"prompt": chosen[:same], "chosen": chosen[same:], "rejected": rejected[same:]}
    return {"prompt": "", **content}


def _common(one: str, other: str) -> int:
    """Characters of the common beginning of two texts, up to the last white space in it: no word is torn apart."""
    same = sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(one, other, strict=False)))
    last = re.match(r"(?s).*(?=\s)", one[:same])
    return last.end() if last else 0
