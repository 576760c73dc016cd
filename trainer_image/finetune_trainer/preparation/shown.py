"""The first examples of each set as a model gets them, for people to see: the text, which of it is learned, and what
the model shall say of it, where that is no text."""

from collections.abc import Callable, Iterator, Mapping, Sequence
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
class Labels:
    """What a model shall say of an example, where that is no text, in the words of the data."""

    of_all: tuple[str, ...] | None = None
    """Those that it has as a whole; None: it is not as a whole that it has any."""
    of_tokens: Sequence[tuple[range, str]] = ()
    """Tokens in a row, such as those of an answer, and what they are."""


@dataclass(frozen=True)
class Run:
    """Tokens in a row that are all learned, or all not, and of which one thing is said, or nothing."""

    part: str
    """Of the example: ``prompt``, ``chosen``, ``rejected`` …; empty where it has only one."""
    text: str
    """Special tokens as they are written."""
    learned: bool
    label: str = ""
    """What it is, where the model shall say that."""


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
    labels: tuple[str, ...] | None = None
    """``Labels.of_all``."""

    def __str__(self) -> str:
        """One line, what is learned in brackets."""
        marked = ""
        for part, runs in groupby(self.runs, key=lambda run: run.part):
            marked += f"{' ' if marked else ''}{part}: " if part else ""
            marked += "".join(map(_marked, runs))
        said = marked.replace("\n", "⏎")
        said = said if len(said) <= _LOGGED and self.whole else f"{said[:_LOGGED]}…"
        counts = [f"{self.tokens} tokens", *([f"{self.learned} learned"] if self.learned else [])]
        if self.labels is not None:
            counts.append(f"labelled {', '.join(self.labels)}" if self.labels else "without a label")
        return f"{self.set}: {', '.join(counts)}: {said}"

    def to_dict(self) -> dict[str, Any]:
        """For the report."""
        runs = [
            ({"part": run.part} if run.part else {})
            | {"text": run.text, "learned": run.learned}
            | ({"label": run.label} if run.label else {})
            for run in self.runs
        ]
        labels = {} if self.labels is None else {"labels": list(self.labels)}
        return {"tokens": self.tokens, "learnedTokens": self.learned, "whole": self.whole, **labels, "text": runs}


def _marked(run: Run) -> str:
    if run.label:
        return f"⟦{run.text} → {run.label}⟧"
    return f"⟦{run.text}⟧" if run.learned else run.text


Parts = Callable[[Example], Mapping[str, int]]
"""The parts of an example by their names, each with the token that it begins with."""


def show(
    sets: Sets, tokenizer: PreTrainedTokenizerBase, parts: Parts, labels_of: Callable[[Example], Labels]
) -> list[Shown]:
    """The first examples of each set."""
    return [
        _show(name, example, tokenizer, parts(example), labels_of(example))
        for name, numbers in sets.first(COUNT).items()
        for example in map(sets.__getitem__, numbers)
    ]


def _show(
    name: str, example: Example, tokenizer: PreTrainedTokenizerBase, begins: Mapping[str, int], labels: Labels
) -> Shown:
    lengths = [end - begin for begin, end in pairwise([*begins.values(), len(example.ids)])]
    runs = tuple(
        Run(part, str(tokenizer.decode(ids)), learned, label)
        for (part, begin), length in zip(begins.items(), lengths, strict=True)
        for ids, learned, label in _runs(example, labels, range(begin, begin + min(length, _TOKENS)))
    )
    learned = example.learned.count(1)
    return Shown(name, len(example.ids), learned, runs, max(lengths) <= _TOKENS, labels.of_all)


def _runs(example: Example, labels: Labels, places: range) -> Iterator[tuple[list[int], bool, str]]:
    """The tokens at ``places``, with whether they are learned and what they are."""
    said = {place: number for number, (tokens, _) in enumerate(labels.of_tokens) for place in tokens}
    for (learned, number), run in groupby(places, key=lambda place: (bool(example.learned[place]), said.get(place))):
        yield [example.ids[place] for place in run], learned, "" if number is None else labels.of_tokens[number][1]
