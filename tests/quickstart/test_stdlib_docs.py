"""The corpus: what is read, that it is the same every time, and that nothing held out leaks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from examples.quickstart import stdlib_docs
from examples.quickstart.stdlib_docs import Corpus, Docstring, Pair, first_sentence, make_corpus, read_standard_library

ROOT = Path(__file__).parents[2]

SHAPES = '''
"""Shapes and their measures."""

def area(width: float, height: float = 1.0, *, unit="m", **more) -> float:
    """Return the area of a rectangle.  Negative sides count as positive.

    >>> area(2, 3)

    The unit is not looked at in any way.
    """

class Shape:
    """Anything with an outline."""

    def scale(self, factor):
        """Make the shape larger."""

    @classmethod
    def unit(cls):
        """Return the shape of size one."""
        def helper():
            """Never seen from outside."""
'''


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return read_standard_library()


def library(root: Path, **modules: str) -> Path:
    for name, source in modules.items():
        (root / f"{name}.py").write_text(source)
    return root


def functions(*described: tuple[str, str]) -> list[Docstring]:
    return [Docstring("m", f"m.{name}()", True, text) for name, text in described]


def test_functions_become_pairs_and_all_docstrings_prose_below_their_titles(tmp_path: Path) -> None:
    corpus = read_standard_library(library(tmp_path, shapes=SHAPES))
    found = set(corpus.train + corpus.held_out)
    assert found == {
        Pair("shapes.area(width, height, *, unit, **more)", "Return the area of a rectangle."),
        Pair("shapes.Shape.scale(factor)", "Make the shape larger."),
        Pair("shapes.Shape.unit()", "Return the shape of size one."),
    }
    [prose] = corpus.prose
    assert prose.startswith("shapes\nShapes and their measures.\n\n")
    assert "shapes.Shape\nAnything with an outline." in prose
    assert "shapes.area(width, height, *, unit, **more)\nReturn the area of a rectangle. Negative" in prose
    assert ">>>" not in prose
    assert "The unit" not in prose
    assert "outside" not in prose


def test_a_pair_is_a_prompt_completion_record() -> None:
    record = Pair("m.f(x)", "Return x.").record()
    assert record == {"prompt": "What does m.f(x) do?\n", "completion": "Return x."}


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        ("Return it. Or not.", "Return it."),
        ("Return it\nin one line.\n\nMore.", "Return it in one line."),
        ("Return it, e.g. as text. See below", "Return it, e.g. as text."),
        ("Use version 3.11 only", "Use version 3.11 only"),
    ],
)
def test_the_description_is_the_first_sentence_on_one_line(docstring: str, sentence: str) -> None:
    assert first_sentence(docstring) == sentence


@pytest.mark.parametrize(
    "docstring",
    ["Too short.", "word " * 40, "(a // b, a % b) == x[0] + x[1]"],
    ids=["two words", "200 characters", "code"],
)
def test_what_is_no_description_makes_no_pair(docstring: str) -> None:
    corpus = make_corpus(functions(("f", docstring), ("g", "Return the other thing.")))
    assert [pair.signature for pair in corpus.train + corpus.held_out] == ["m.g()"]


def test_equal_descriptions_make_one_pair() -> None:
    corpus = make_corpus(
        functions(("f", "Return the size."), ("g", "return the size"), ("h", "Return the whole name."))
    )
    assert sorted(pair.signature for pair in corpus.train + corpus.held_out) == ["m.f()", "m.h()"]


def test_what_tells_a_held_out_description_is_in_neither_of_the_other_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdlib_docs, "_number", lambda signature: "held" not in signature)
    copies = functions(
        ("held", "Return the size of the file in bytes."),
        ("near", "Return the size of this file in bytes."),
        ("longer", "Return the size of the file in bytes, and where it lies on the disk, or None where there is none."),
        ("far", "Close the file and forget what was in it."),
    )
    quoting = Docstring("n", "n", False, "As m says: return the size of the file in bytes!\n\nAnother line.")
    corpus = make_corpus([*copies, quoting])
    assert [pair.signature for pair in corpus.held_out] == ["m.held()"]
    assert [pair.signature for pair in corpus.train] == ["m.far()"]
    assert corpus.prose == ("m.far()\nClose the file and forget what was in it.", "n\nAnother line.")


def test_the_standard_library_gives_enough_to_train_on_and_to_measure(corpus: Corpus) -> None:
    assert len(corpus.train) > 2500
    assert len(corpus.held_out) > 100
    assert sum(map(len, corpus.prose)) > 700_000


def test_the_same_library_gives_the_same_corpus_whatever_the_order_of_sets() -> None:
    program = (
        "import asyncio, hashlib, pathlib; from examples.quickstart.stdlib_docs import read_standard_library as read;"
        "print(hashlib.sha256(repr(read(pathlib.Path(asyncio.__file__).parent)).encode()).hexdigest())"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in "12"
    }
    assert len(told) == 1


def test_nothing_held_out_is_seen_in_training(corpus: Corpus) -> None:
    """Said by plain search, on the text that the trainer gets, not by the code that splits."""
    seen = "\n|\n".join([*corpus.prose, *(f"{pair.signature}\n{pair.description}" for pair in corpus.train)]).lower()
    words = f" {' '.join(''.join(c if c == '|' or (c.isalnum() and c.isascii()) else ' ' for c in seen).split())} "
    for pair in corpus.held_out:
        assert f"{pair.signature.lower()}\n" not in seen, pair
        assert f" {stdlib_docs.plain(pair.description)} " not in words, pair


def test_a_library_without_source_is_refused_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        read_standard_library(tmp_path)


def test_a_file_of_another_python_is_passed_over(tmp_path: Path) -> None:
    corpus = read_standard_library(library(tmp_path, shapes=SHAPES, old="print 'hello'\n"))
    assert len(corpus.train + corpus.held_out) == 3
