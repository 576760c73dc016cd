"""How a chat template writes conversations of one kind: its own words, and between them what is said.

A wording is found out once, from a conversation in which stand-ins take the place of all contents, and then foretells
the text of every conversation with the same roles, and where the assistant's turns lie in it. It is used only where
the text that the template really writes is, character by character, the one foretold.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from finetune_trainer.records import Record

Span = tuple[int, int]
"""Characters: from, to (exclusive)."""
Shape = tuple[object, ...]

_EDGE = "\x1f"
"""White space to Python's ``strip``, and found in no template: a template that trims contents drops it."""
_TRIMS: dict[tuple[bool, bool], Callable[[str], str]] = {
    (True, True): str,
    (False, True): str.lstrip,
    (True, False): str.rstrip,
    (False, False): str.strip,
}
_FOUND_BY_RENDERING = 64
"""Turns of one conversation; the others must stand between the same words as one of these."""
_CONTEXT = 16
"""Characters of the template's words before a boundary by which it is known again."""


@dataclass(frozen=True)
class _Content:
    """A content as the template writes it."""

    message: int
    trim: Callable[[str], str]


_Place = tuple[int, int]
"""(number of a literal, characters from its beginning)."""


@dataclass(frozen=True)
class Wording:
    """The text of a conversation: a literal, a content, a literal … a literal."""

    literals: tuple[str, ...]
    contents: tuple[_Content, ...]
    turns: tuple[tuple[_Place, _Place], ...]
    """Beginning and end of what is learned."""

    def spans(self, messages: Sequence[dict[str, Any]], text: str) -> list[Span] | None:
        """The turns within ``text``; None, if that is not how it is written."""
        parts = [self.literals[0]]
        for content, literal in zip(self.contents, self.literals[1:], strict=True):
            parts += (content.trim(messages[content.message]["content"]), literal)
        if "".join(parts) != text:
            return None
        starts = [0, *accumulate(map(len, parts))][::2]
        return [(starts[first] + start, starts[last] + end) for (first, start), (last, end) in self.turns]


def assistant_turns(record: Record) -> list[int]:
    """Indices of the messages that are learned."""
    roles = enumerate(message["role"] for message in record.messages)
    return [index for index, role in roles if role == "assistant" and index >= record.learn_from]


def shape_of(record: Record) -> Shape | None:
    """What conversations must have in common to share a wording; None where there is more than roles and contents."""
    if record.tools or any(len(message) > 2 for message in record.messages):
        return None
    return (record.learn_from, *((message["role"], not message["content"]) for message in record.messages))


def absent_from(text: str) -> str:
    """A word that is not in ``text``, to stand for something in it."""
    word = "said-4c1d80b6e7"
    while word in text:
        word += "0"
    return word


@dataclass(frozen=True)
class Shown:
    """A conversation with a stand-in for each content that is not empty."""

    record: Record
    stand_in: re.Pattern[str]
    """Groups: the edge before, index of the message, the edge behind."""


def with_stand_ins(record: Record, word: str) -> Shown:
    """Stand-ins are made of ``word``, which is nowhere in the conversation's text."""
    shown = (
        {**message, "content": f"{_EDGE}{word}-{index};{_EDGE}"} if message["content"] else message
        for index, message in enumerate(record.messages)
    )
    return Shown(replace(record, messages=tuple(shown)), re.compile(f"({_EDGE}?){word}-([0-9]+);({_EDGE}?)"))


Turn = Callable[[Record, int, str, tuple[str, str] | None], Span]
"""Finds a turn by rendering: (conversation, index, its text, what stands before and behind its content) → its span."""


def find_wording(shown: Shown, text: str, turn: Turn) -> Wording | None:
    """The wording of a conversation with stand-ins, and of all that are like it.

    Args:
        shown: the conversation with stand-ins.
        text: what the template makes of it.
        turn: finds a turn by rendering.

    Returns:
        None, if there is none to be found: too many turns differ, or one begins or ends within a content.
    """
    found = list(shown.stand_in.finditer(text))
    contents = tuple(_Content(int(f[2]), _TRIMS[bool(f[1]), bool(f[3])]) for f in found)
    starts, ends = [0, *(f.end() for f in found)], [*(f.start() for f in found), len(text)]
    literals = tuple(text[start:end] for start, end in zip(starts, ends, strict=True))
    turns = _Turns(shown.record, text, found, turn)
    places = []
    for index in assistant_turns(shown.record):
        span = turns.span(index)
        begin, end = (_place(position, starts, ends) for position in span or (-1, -1))
        if begin is None or end is None:
            return None
        places.append((begin, end))
    return Wording(literals, contents, tuple(places))


def _place(position: int, starts: list[int], ends: list[int]) -> _Place | None:
    """Where the literals from ``starts`` to ``ends`` have a position; None where it lies within a content."""
    number = bisect_right(starts, position) - 1
    return (number, position - starts[number]) if number >= 0 and position <= ends[number] else None


class _Turns:
    """The turns of one conversation with stand-ins.

    Rendering finds the first turn of each kind; those that stand between the same words are then known without, or a
    conversation of n messages would take n renderings of up to n messages.
    """

    def __init__(self, shown: Record, text: str, found: list[re.Match[str]], turn: Turn) -> None:
        self._shown, self._text, self._turn = shown, text, turn
        self._rendered = 0
        self._known: dict[object, tuple[str, int]] = {}
        """Context → (the template's words around and behind a boundary, how many of them are behind it)."""
        following = [*((int(f[2]), f.start()) for f in found[1:]), (len(shown.messages) - 1, len(text))]
        self._contents = {int(f[2]): (f.span(), *after) for f, after in zip(found, following, strict=False)}
        """Index of a message → (where its content is, the index of the next one that is written, where that begins)."""
        repeated = [index for index, times in Counter(int(f[2]) for f in found).items() if times > 1]
        for index in repeated:
            del self._contents[index]

    def span(self, index: int) -> Span | None:
        """A turn; None, if too many had to be rendered already."""
        if index not in self._contents:  # empty, or not written exactly once
            return self._render(index)
        (begin, end), follower, until = self._contents[index]
        kinds = [(message["role"], *sorted(message)) for message in self._shown.messages[index : follower + 1]]
        opening = ("opening", self._shown.messages[index - 1]["role"] if index else None)
        closing = ("closing", *kinds)
        last = index == len(self._shown.messages) - 1
        start, stop = self._find(opening, begin), len(self._text) if last else self._find(closing, until)
        if start is not None and stop is not None:
            return start, stop
        span = self._render(index, (self._text[:begin], self._text[end:]))
        if span:
            self._learn(opening, span[0], begin)
            self._learn(closing, span[1], until)
        return span

    def _render(self, index: int, around: tuple[str, str] | None = None) -> Span | None:
        self._rendered += 1
        return self._turn(self._shown, index, self._text, around) if self._rendered <= _FOUND_BY_RENDERING else None

    def _find(self, context: object, until: int) -> int | None:
        """The boundary before ``until`` if the words before it are known in this context."""
        words, behind = self._known.get(context, (None, 0))
        return until - behind if words is not None and self._text.endswith(words, 0, until) else None

    def _learn(self, context: object, boundary: int, until: int) -> None:
        self._known[context] = (self._text[max(0, boundary - _CONTEXT) : until], until - boundary)
