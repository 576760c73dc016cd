"""The JSONPath subset that printer columns use: `.a.b[0]`, `['x']`, `[-1:]`, `[*]`, `[?(@.type=="Ready")]`."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from typing import Any

Step = Callable[[Any], list[Any]]

_TOKEN = re.compile(
    r"""\.(?P<field>(?:[^.\[\]\\]|\\.)+)
    |\[(?P<index>-?\d+)\]
    |\[(?P<slice>-?\d*:-?\d*)\]
    |\[(?P<star>\*)\]
    |\[(?P<quote>['"])(?P<key>.*?)(?P=quote)\]
    |\[\?\(\s*@(?P<left>[^=!<>\s]+)\s*(?P<op>==|!=)\s*(?P<right>"[^"]*"|'[^']*'|[^)\s]+)\s*\)\]""",
    re.VERBOSE,
)


class JsonPathError(ValueError):
    """The expression is none, or uses what this subset lacks."""


@functools.lru_cache(maxsize=512)
def compile_path(expression: str) -> Step:
    """A function from an object to all values the path finds in it."""
    text = expression.strip().removeprefix("{").removesuffix("}").removeprefix("$")
    text = text if text[:1] in (".", "[") else f".{text}"
    steps: list[Step] = []
    position = 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None:
            raise JsonPathError(f"cannot read {expression!r} at {text[position:]!r}")
        steps.append(_step(token))
        position = token.end()

    def find(root: Any) -> list[Any]:
        found = [root]
        for step in steps:
            found = [value for one in found for value in step(one)]
        return found

    return find


def _step(token: re.Match[str]) -> Step:
    kind = token.lastgroup
    if kind == "field":
        key = re.sub(r"\\(.)", r"\1", token["field"])
        return lambda value: _of_all(value) if key == "*" else _member(value, key)
    if kind == "key":
        return lambda value: _member(value, token["key"])
    if kind == "index":
        index = int(token["index"])
        return lambda value: [value[index]] if isinstance(value, list) and -len(value) <= index < len(value) else []
    if kind == "slice":
        start, stop = (int(part) if part else None for part in token["slice"].split(":"))
        return lambda value: value[start:stop] if isinstance(value, list) else []
    if kind == "star":
        return _of_all
    return _filter(token["left"], token["op"], token["right"])


def _member(value: Any, key: str) -> list[Any]:
    return [value[key]] if isinstance(value, dict) and key in value else []


def _of_all(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list) else []


def _filter(left: str, operator: str, right: str) -> Step:
    path = compile_path(left)
    wanted: Any
    try:
        wanted = right[1:-1] if right[0] in "'\"" else json.loads(right)
    except json.JSONDecodeError as error:
        raise JsonPathError(f"cannot compare with {right!r}") from error

    def step(value: Any) -> list[Any]:
        items = value if isinstance(value, list) else []
        return [item for item in items if (path(item)[:1] == [wanted]) == (operator == "==")]

    return step
