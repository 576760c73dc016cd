"""The first examples of each set as a model gets them, for people to see: its text, and which of it is learned."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

from transformers import PreTrainedTokenizerBase

from finetune_trainer.preparation.encoding import Example
from finetune_trainer.preparation.sets import Sets

COUNT = 3
"""Of each set."""
_TOKENS = 512
"""Of an example that are shown."""
_LOGGED = 300
"""Characters of one in the log."""


@dataclass(frozen=True)
class Shown:
    """An example of a set."""

    set: str
    tokens: int
    learned: int
    """Tokens that are learned."""
    text: tuple[tuple[str, bool], ...]
    """Its text in parts, each with whether it is learned; special tokens as they are written."""
    whole: bool
    """The text is all of it, and not its beginning."""

    def __str__(self) -> str:
        """One line, what is learned in brackets."""
        marked = "".join(f"⟦{text}⟧" if learned else text for text, learned in self.text)
        said = marked.replace("\n", "⏎")
        said = said if len(said) <= _LOGGED and self.whole else f"{said[:_LOGGED]}…"
        return f"{self.set}: {self.tokens} tokens, {self.learned} learned: {said}"

    def to_dict(self) -> dict[str, Any]:
        """For the report."""
        parts = [{"text": text, "learned": learned} for text, learned in self.text]
        return {"tokens": self.tokens, "learnedTokens": self.learned, "whole": self.whole, "text": parts}


def show(sets: Sets, tokenizer: PreTrainedTokenizerBase) -> list[Shown]:
    """The first examples of each set."""
    return [_show(name, sets[number], tokenizer) for name, numbers in sets.first(COUNT).items() for number in numbers]


def _show(name: str, example: Example, tokenizer: PreTrainedTokenizerBase) -> Shown:
    runs = tuple((str(tokenizer.decode(ids)), learned) for ids, learned in _runs(example))
    learned = example.learned.count(1)
    return Shown(name, len(example.ids), learned, runs, len(example.ids) <= _TOKENS)


def _runs(example: Example) -> Iterator[tuple[list[int], bool]]:
    """Tokens in a row that are all learned, or all not."""
    for learned, pairs in groupby(islice(zip(example.learned, example.ids, strict=True), _TOKENS), key=lambda p: p[0]):
        yield [token for _, token in pairs], bool(learned)
