"""Text that means what it shows: which characters a URI must not have, and what is left of a text from a stranger.

Messages come from pods, from data and from other people's servers, and end in terminals, logs and web pages.
"""

import re
from typing import Any

ODD = (
    "\\u0000-\\u001f\\u007f-\\u009f"  # control characters
    "\\u00ad\\u061c\\u180e\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff\\ufff9-\\uffff"  # unseen, or reordering
)
"""Characters that show as nothing or change how others show, as a character class of CEL, RE2 and Python."""
LOOKALIKES = "\\u2024-\\u2027\\u2044\\u2215\\u2216\\u29f5\\u29f8\\ufe52\\ufe68\\uff05\\uff0e\\uff0f\\uff3c"
"""Characters that some programs turn into a dot, a slash, a backslash or a percent sign."""
ODD_IN_URI = f"[\\\\\\\\{ODD}{LOOKALIKES}]|%[0-9A-Fa-f][0-9A-Fa-f]"
"""The same, a backslash or an escape by percent: what a URI must not have, as the text of a CEL string."""

_ODD = re.compile(rf"[{ODD}\ud800-\udfff]")
_ODD_IN_URI = re.compile(rf"[\\{ODD}{LOOKALIKES}\ud800-\udfff]|%[0-9A-Fa-f]{{2}}")
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]"
)
"""Sequences that a terminal obeys: of control (CSI), of strings (OSC, DCS and the like), and the short ones."""
_BLANK = re.compile(r"[\t\n\v\f\r\x85\u2028\u2029]+")


def odd_in_uri(uri: str) -> str | None:
    """What a URI has that it must not have, if it does."""
    found = _ODD_IN_URI.search(uri)
    return found[0] if found else None


def plain_text(text: str) -> str:
    """A text without terminal escapes, control characters and characters that reorder others; line ends are spaces."""
    if text.isascii() and text.isprintable():
        return text
    return _ODD.sub("", _BLANK.sub(" ", _ESCAPES.sub("", text)))


def plain(value: Any) -> Any:
    """A JSON value with all its texts made :func:`plain_text`."""
    if isinstance(value, str):
        return plain_text(value)
    if isinstance(value, list):
        return [plain(one) for one in value]
    return {key: plain(one) for key, one in value.items()} if isinstance(value, dict) else value
