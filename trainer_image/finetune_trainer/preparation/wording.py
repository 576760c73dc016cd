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

from finetune_trainer.preparation.record import Record

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
PATIENCE = 100_000
"""Messages rendered, three times each, to find turns of one conversation: some seconds' work."""
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


def with_stand_ins(record: Record, word: str, spare: str | None = None) -> Shown:
    """Stand-ins made of ``word``, which is nowhere in the conversation's text, but not for the role ``spare``."""
    shown = (
        {**message, "content": f"{_EDGE}{word}-{index};{_EDGE}"}
        if message["content"] and message["role"] != spare
        else message
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
        """Kind of a boundary → (the template's words around it, how many characters of them are behind it)."""
        self._written = [int(f[2]) for f in found]
        """Indices of the messages with stand-ins, as they come in the text."""
        times = Counter(self._written)
        self._number = {message: number for number, message in enumerate(self._written) if times[message] == 1}
        self._begins, self._ends = [*(f.start() for f in found), len(text)], [*(f.end() for f in found)]

    def span(self, index: int) -> Span | None:
        """A turn; None, if too many had to be rendered already."""
        number = self._number.get(index)
        if number is not None:
            return self._between(index, number)
        before = self._number.get(index - 1)
        return self._render(index) if before is None else self._behind(index, before)

    def _between(self, index: int, number: int) -> Span | None:
        """A turn whose content has the stand-in ``number``: the words before and behind that tell where it begins."""
        messages, text, begin, end = self._shown.messages, self._text, self._begins[number], self._ends[number]
        since, until = self._ends[number - 1] if number else 0, self._begins[number + 1]
        opening = ("opening", messages[index - 1]["role"] if index else None)
        closing = ("closing", *self._kinds(index, number + 1))
        start = self._find(opening, since, begin)
        stop = self._find(closing, end, until) if index + 1 < len(messages) else len(text)
        if start is not None and stop is not None:
            return start, stop
        span = self._render(index, (text[:begin], text[end:]))
        if span:
            self._learn(opening, span[0], max(since, span[0] - _CONTEXT), begin)
            self._learn(closing, span[1], max(end, span[1] - _CONTEXT), until)
        return span

    def _behind(self, index: int, number: int) -> Span | None:
        """A turn without a stand-in behind a message that has the stand-in ``number``.

        What stands in between is written by the template up to where the turn begins, and from where it ends.
        """
        messages, text = self._shown.messages, self._text
        since, until = self._ends[number], self._begins[number + 1]
        kinds = self._kinds(index - 1, number + 1)
        begun, _ = self._known.get(("begun", *kinds), (None, 0))
        stop = self._find(("ended", *kinds), since, until) if index + 1 < len(messages) else len(text)
        if begun is not None and stop is not None and text.startswith(begun, since, until):
            return since + len(begun), stop
        span = self._render(index)
        if span and since <= span[0] <= span[1] < until:
            self._known["begun", *kinds] = (text[since : span[0]], 0)
            self._learn(("ended", *kinds), span[1], span[1], until)
        return span

    def _kinds(self, index: int, follower: int) -> list[tuple[str, ...]]:
        """What the messages from ``index`` to the one with the stand-in ``follower`` consist of."""
        last = self._written[follower] if follower < len(self._written) else len(self._shown.messages)
        return [(message["role"], *sorted(message)) for message in self._shown.messages[index : last + 1]]

    def _render(self, index: int, around: tuple[str, str] | None = None) -> Span | None:
        self._rendered += len(self._shown.messages)
        return self._turn(self._shown, index, self._text, around) if self._rendered <= PATIENCE else None

    def _find(self, kind: object, since: int, until: int) -> int | None:
        """The boundary within the words from ``since`` to ``until``, if they end with words known of this kind."""
        words, behind = self._known.get(kind, (None, 0))
        return until - behind if words is not None and self._text.endswith(words, since, until) else None

    def _learn(self, kind: object, boundary: int, since: int, until: int) -> None:
        if since <= boundary:
            self._known[kind] = (self._text[since:until], until - boundary)
