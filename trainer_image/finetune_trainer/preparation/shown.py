"""The first examples of each set as a model gets them, for people to see: its text, and which of it is learned."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

from transformers import PreTrainedTokenizerBase

from finetune_trainer.preparation.encoding import Example
from finetune_trainer.preparation.sets import Sets

COUNT = 3
"""Of each set."""
_TOKENS = 512
"""Of each part of an example that are shown."""
_LOGGED = 300
"""Characters of one in the log."""


@dataclass(frozen=True)
class Run:
    """Tokens in a row that are all learned, or all not."""

    part: str
    """Of the example: ``prompt``, ``chosen``, ``rejected`` …; empty where it has only one."""
    text: str
    """Special tokens as they are written."""
    learned: bool


@dataclass(frozen=True)
class Shown:
    """An example of a set."""

    set: str
    tokens: int
    learned: int
    """Tokens that are learned."""
    runs: tuple[Run, ...]
    whole: bool
    """The text is all of it, and not its beginning."""

    def __str__(self) -> str:
        """One line, what is learned in brackets."""
        marked = ""
        for part, runs in groupby(self.runs, key=lambda run: run.part):
            marked += f"{' ' if marked else ''}{part}: " if part else ""
            marked += "".join(f"⟦{run.text}⟧" if run.learned else run.text for run in runs)
        said = marked.replace("\n", "⏎")
        said = said if len(said) <= _LOGGED and self.whole else f"{said[:_LOGGED]}…"
        return f"{self.set}: {self.tokens} tokens, {self.learned} learned: {said}"

    def to_dict(self) -> dict[str, Any]:
        """For the report."""
        runs = [
            ({"part": run.part} if run.part else {}) | {"text": run.text, "learned": run.learned} for run in self.runs
        ]
        return {"tokens": self.tokens, "learnedTokens": self.learned, "whole": self.whole, "text": runs}


Parts = Callable[[Example], Mapping[str, int]]
"""The parts of an example by their names, each with the token that it begins with."""


def show(sets: Sets, tokenizer: PreTrainedTokenizerBase, parts: Parts) -> list[Shown]:
    """The first examples of each set."""
    return [
        _show(name, sets[number], tokenizer, parts) for name, numbers in sets.first(COUNT).items() for number in numbers
    ]


def _show(name: str, example: Example, tokenizer: PreTrainedTokenizerBase, parts: Parts) -> Shown:
    begins = parts(example)
    lengths = [end - begin for begin, end in pairwise([*begins.values(), len(example.ids)])]
    runs = tuple(
        Run(part, str(tokenizer.decode(ids)), learned)
        for (part, begin), length in zip(begins.items(), lengths, strict=True)
        for ids, learned in _runs(example, begin, begin + min(length, _TOKENS))
    )
    return Shown(name, len(example.ids), example.learned.count(1), runs, max(lengths) <= _TOKENS)


def _runs(example: Example, begin: int, end: int) -> Iterator[tuple[list[int], bool]]:
    pairs = zip(example.learned[begin:end], example.ids[begin:end], strict=True)
    for learned, run in groupby(pairs, key=lambda pair: pair[0]):
        yield [token for _, token in run], bool(learned)
