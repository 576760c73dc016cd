"""Records that are something to judge: a text with its label or labels, words with their tags, a question with its
answer in a text. Needs no torch."""

from dataclasses import dataclass
from typing import Any

from finetune_trainer.preparation.record import Fault, Record, article

_LONGEST_LABEL = 256
_LONGEST_CONTEXT = 1 << 20
"""Characters. A tokenizer takes some 200 bytes for each while it works on a text."""


class Labelled(Record):
    """A record whose labels are outputs of a head."""

    @property
    def named(self) -> tuple[str, ...]:
        """The labels that it brings up."""
        raise NotImplementedError


@dataclass(frozen=True)
class LabelledText(Labelled):
    """``text``, and what it is."""

    pair: str = ""
    """A second text, where it is about two; empty: it is about one."""
    labels: tuple[str, ...] = ()
    """One, or any number where each label is a question of its own."""

    @property
    def named(self) -> tuple[str, ...]:
        return self.labels


@dataclass(frozen=True)
class TaggedWords(Labelled):
    """The words of a text, each with its tag."""

    words: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    """[words]"""

    @property
    def named(self) -> tuple[str, ...]:
        return self.tags


@dataclass(frozen=True)
class Question(Labelled):
    """A question about a text that holds the answer."""

    question: str = ""
    context: str = ""
    answers: tuple[tuple[str, int], ...] = ()
    """Texts of ``context`` that answer it, all as good, each with its first character; none: nothing there does."""

    @property
    def named(self) -> tuple[str, ...]:
        return () if self.answers else (UNANSWERED,)


UNANSWERED = "no answer"
"""Label of a question without an answer; others have none."""


def label(content: dict[str, Any], source: str) -> LabelledText:
    return LabelledText(source, text=_text(content, "text"), pair=_pair(content), labels=(_label(content["label"]),))


def labels(content: dict[str, Any], source: str) -> LabelledText:
    given = content["labels"]
    if not isinstance(given, list):
        raise Fault(
            f"labels is {article(given)}, where a list of labels is expected, which may be empty. Write one label of "
            'many as {"label": …}'
        )
    named = tuple(_label(one, f"labels[{index}]") for index, one in enumerate(given))
    if len(set(named)) < len(named):
        raise Fault("labels holds a label twice. Name each once")
    return LabelledText(source, text=_text(content, "text"), pair=_pair(content), labels=named)


def tags(content: dict[str, Any], source: str) -> TaggedWords:
    words, given = content["tokens"], content["tags"]
    for name, value in (("tokens", words), ("tags", given)):
        if not isinstance(value, list) or not value:
            raise Fault(f"{name} is {article(value)}, where a non-empty list is expected, one entry for each word")
    if len(words) != len(given):
        raise Fault(f"tokens has {len(words)} entries, but tags {len(given)}. Give each word one tag")
    for index, word in enumerate(words):
        if not isinstance(word, str) or not word.strip():
            raise Fault(f"tokens[{index}] is {article(word) if word != '' else 'empty'}, where a word is expected")
    return TaggedWords(source, words=tuple(words), tags=tuple(_label(t, f"tags[{n}]") for n, t in enumerate(given)))


def question(content: dict[str, Any], source: str) -> Question:
    asked, context = _text(content, "question"), _text(content, "context")
    if len(context) > _LONGEST_CONTEXT:
        raise Fault(f"context has {len(context)} characters, more than the {_LONGEST_CONTEXT} it may have. Split it")
    answers = content["answers"]
    shape = 'where an object such as {"text": ["…"], "answer_start": [0]} is expected'
    if not isinstance(answers, dict):
        raise Fault(f"answers is {article(answers)}, {shape}")
    texts, starts = answers.get("text"), answers.get("answer_start")
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise Fault(f"answers holds no two lists text and answer_start of one length, {shape}")
    for index, (text, start) in enumerate(zip(texts, starts, strict=True)):
        _require_in(context, text, start, index)
    return Question(source, question=asked, context=context, answers=tuple(zip(texts, starts, strict=True)))


def _require_in(context: str, text: object, start: object, index: int) -> None:
    if not isinstance(text, str) or not text.strip():
        raise Fault(f"answers.text[{index}] is {article(text) if text != '' else 'empty'}, where a text is expected")
    if not isinstance(start, int) or isinstance(start, bool):
        raise Fault(f"answers.answer_start[{index}] is {article(start)}, where the number of a character is expected")
    if start < 0 or context[start : start + len(text)] != text:
        found = context.find(text)
        where = f"It stands at {found}" if found >= 0 else "The context does not hold it: write it as it stands there"
        raise Fault(f"answers.text[{index}] does not stand at character {start} of context (counted from 0). {where}")


def _text(content: dict[str, Any], field: str) -> str:
    value = content.get(field)
    if not isinstance(value, str):
        raise Fault(f"{field} is {article(value)}, where a string is expected")
    if not value.strip():
        raise Fault(f"{field} is empty. Fill it in or remove the line")
    return value


def _pair(content: dict[str, Any]) -> str:
    return _text(content, "text_pair") if content.get("text_pair") is not None else ""


def _label(value: object, where: str = "label") -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Fault(f"{where} is {article(value)}, where a name or a whole number is expected")
    named = str(value)
    if not named.strip() or len(named) > _LONGEST_LABEL or not named.isprintable():
        raise Fault(
            f"{where} is {'empty' if not named.strip() else 'no name'}: a label has 1 to {_LONGEST_LABEL} printable "
            "characters. Correct it or remove the line"
        )
    return named
