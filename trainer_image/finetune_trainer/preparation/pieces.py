"""Long texts → pieces that a tokenizer can take in bounded memory, broken where it would break them itself."""

import re
from collections.abc import Iterator

PIECE = 1 << 16
"""Characters. A tokenizer takes 150 to 230 bytes for each while it works on a text."""

_LOOK_BACK = 1024
_BREAKS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?<=\S)(?= \w)",  # before the space of a word: BPE keeps it with the word, and nothing reaches across
        r"(?<=\n)(?=\S)",
        r"(?<=[。！？；，、])",
    )
)


def piece_ranges(text: str, size: int = PIECE) -> Iterator[tuple[int, int]]:
    """(from, to) of pieces of at most ``size`` characters, which make up the text; one piece if it is empty."""
    start = 0
    while len(text) - start > size:
        end = _break(text, start, start + size)
        yield start, end
        start = end
    yield start, len(text)


def _break(text: str, start: int, end: int) -> int:
    """The last good place to break within ``end - 1024`` to ``end``; ``end`` itself where there is none."""
    earliest = max(start + 1, end - _LOOK_BACK)
    for pattern in _BREAKS:
        places = [found.start() for found in pattern.finditer(text, earliest, end)]
        if places:
            return places[-1]
    return end
