"""What Python's standard library says of itself: prose to pre-train on, and signature → description pairs to tune on.

Source files are read and parsed, never imported. The same Python version always gives the same result: packages that
some systems leave out, or install apart, are read nowhere.
"""

import ast
import hashlib
import re
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

NOT_READ = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "distutils", "tkinter", "turtledemo"}
)
"""Folders: other people's packages, tests, and what not every system has."""

RECORD_CHARACTERS = 800
"""Longest record of prose; most are about as long, so that batches hold little padding."""
PARAGRAPHS = 2
"""Of each docstring, for prose: what comes later is mostly detail, and a minute is too short to learn it."""
LONGEST_SIGNATURE = 120
LONGEST_DESCRIPTION = 160
SHORTEST_DESCRIPTION = 3
"""Words."""
HELD_OUT = 20
"""One pair in so many is held out."""
NEAR_COPY = 0.7
"""Share of words in common (Jaccard index) from which two descriptions count as copies."""
PROSE_LETTERS = 0.85
"""Least share of letters and spaces in prose; below it is code or a table."""


@dataclass(frozen=True)
class Pair:
    """A function and the first sentence of its docstring."""

    signature: str
    """Such as ``textwrap.wrap(text, width, **kwargs)``: no annotations, no defaults, no ``self``."""
    description: str

    def record(self) -> dict[str, str]:
        """The pair as a ``prompt-completion`` record."""
        return {"prompt": f"What does {self.signature} do?\n", "completion": self.description}


@dataclass(frozen=True)
class Corpus:
    """Three sets. No held-out pair, and no near copy of its description, is in either of the others."""

    prose: tuple[str, ...]
    train: tuple[Pair, ...]
    held_out: tuple[Pair, ...]


@dataclass(frozen=True)
class Docstring:
    """A docstring where it was found."""

    module: str
    title: str
    """Signature of a function, qualified name of a class or module."""
    is_function: bool
    text: str


def read_standard_library(root: Path | None = None) -> Corpus:
    """The corpus of the running interpreter's library, or of the one below ``root``.

    Raises:
        FileNotFoundError: there is no source with docstrings (a zipped or stripped-down library).
    """
    root = root or Path(sysconfig.get_paths()["stdlib"])
    files = sorted(path for path in root.rglob("*.py") if not NOT_READ & set(path.relative_to(root).parts))
    docstrings = [docstring for path in files for docstring in _docstrings(path, _module(path.relative_to(root)))]
    if not docstrings:
        raise FileNotFoundError(
            f"{root}: no Python source with docstrings; use a Python whose standard library is installed as source"
        )
    return make_corpus(docstrings)


def _module(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _docstrings(path: Path, module: str) -> Iterator[Docstring]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # not meant for this Python
        return
    yield from _within(tree, module, module, in_class=False)


def _within(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, module: str, name: str, in_class: bool
) -> Iterator[Docstring]:
    """The docstring of a definition and of those directly in its body, in order."""
    if text := ast.get_docstring(node):
        arguments = node.args if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else None
        title = f"{name}({', '.join(_parameters(arguments, in_class))})" if arguments else name
        yield Docstring(module, title, arguments is not None, text)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):  # what is within cannot be named from outside
        return
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _within(child, module, f"{name}.{child.name}", isinstance(node, ast.ClassDef))


def _parameters(arguments: ast.arguments, in_class: bool) -> Iterator[str]:
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
    yield from names[1:] if in_class and names[:1] in (["self"], ["cls"]) else names
    if arguments.vararg or arguments.kwonlyargs:
        yield f"*{arguments.vararg.arg if arguments.vararg else ''}"
    yield from (argument.arg for argument in arguments.kwonlyargs)
    if arguments.kwarg:
        yield f"**{arguments.kwarg.arg}"


def make_corpus(docstrings: Iterable[Docstring]) -> Corpus:
    """Splits docstrings into the three sets; which pairs are held out depends on their signatures alone."""
    docstrings = list(docstrings)
    pairs = sorted(_distinct(_pairs(docstrings)), key=lambda pair: _number(pair.signature))
    chosen = [pair for pair in pairs if _number(pair.signature) % HELD_OUT == 0]
    rest = [pair for pair in pairs if _number(pair.signature) % HELD_OUT]
    held_out = _HeldOut(chosen)
    train = [pair for pair in rest if not held_out.is_told_by(pair.description)]
    return Corpus(tuple(_prose(docstrings, held_out)), tuple(train), tuple(chosen))


class _HeldOut:
    """Tells what must not be trained on."""

    def __init__(self, pairs: Iterable[Pair]) -> None:
        self.signatures: set[str] = set()
        self._told: list[tuple[str, set[str]]] = []
        for pair in pairs:
            self.signatures.add(pair.signature)
            told = plain(pair.description)
            self._told.append((f" {told} ", set(told.split())))

    def is_told_by(self, text: str) -> bool:
        """Whether a text contains a held-out description, or begins with a sentence that is nearly one."""
        whole, words = f" {plain(text)} ", set(plain(first_sentence(text)).split())
        return any(
            told in whole or len(words & told_words) >= NEAR_COPY * len(words | told_words)
            for told, told_words in self._told
        )


def _pairs(docstrings: Iterable[Docstring]) -> Iterator[Pair]:
    for docstring in docstrings:
        if docstring.is_function and len(docstring.title) <= LONGEST_SIGNATURE:
            description = first_sentence(docstring.text)
            long_enough = len(plain(description).split()) >= SHORTEST_DESCRIPTION
            if long_enough and len(description) <= LONGEST_DESCRIPTION and is_prose(description):
                yield Pair(docstring.title, description)


def first_sentence(docstring: str) -> str:
    """The first sentence of a docstring's first paragraph, on one line."""
    paragraph = _one_line(_paragraphs(docstring.strip())[0])
    return re.split(r"(?<=[.!?])\s+(?=[A-Z(\"'`])", paragraph, maxsplit=1)[0]


def _distinct(pairs: Iterable[Pair]) -> Iterator[Pair]:
    """Pairs of which no earlier one has the signature or the description, case and punctuation aside."""
    seen: set[str] = set()
    for pair in pairs:
        keys = {plain(pair.signature), plain(pair.description)}
        if not keys & seen:
            yield pair
        seen |= keys


def plain(text: str) -> str:
    """Lower-case words and numbers only, for comparisons."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _prose(docstrings: Iterable[Docstring], held_out: _HeldOut) -> Iterator[str]:
    """Records of whole paragraphs, module by module, each docstring below its title. Left out are held-out functions,
    and every other paragraph that tells what one of them does."""
    for _, group in groupby(docstrings, key=lambda docstring: docstring.module):
        pieces = []
        for docstring in group:
            if docstring.title not in held_out.signatures:
                paragraphs = map(_one_line, _paragraphs(docstring.text)[:PARAGRAPHS])
                kept = [text for text in paragraphs if is_prose(text) and not held_out.is_told_by(text)]
                kept[:1] = [f"{docstring.title}\n{text}" for text in kept[:1]]
                pieces += kept
        yield from _filled(pieces)


def _paragraphs(text: str) -> list[str]:
    return re.split(r"\n\s*\n", text)


def _one_line(paragraph: str) -> str:
    return " ".join(paragraph.split())


def is_prose(text: str) -> bool:
    """Whether a text is made of words, by its share of letters."""
    letters = sum(character.isalpha() or character == " " for character in text)
    return ">>>" not in text and letters >= PROSE_LETTERS * len(text)


def _filled(pieces: Iterable[str]) -> Iterator[str]:
    """Pieces joined to records of at most RECORD_CHARACTERS; a longer piece is a record of its own."""
    record = ""
    for piece in pieces:
        if record and len(record) + 2 + len(piece) > RECORD_CHARACTERS:
            yield record
            record = ""
        record = f"{record}\n\n{piece}" if record else piece
    if record:
        yield record
