"""Chat templates come with a model, so they are programs of strangers: what they may take to render a conversation.

transformers renders them in Jinja's sandbox, which keeps them away from Python's internals, from files and from the
network, but not from time and memory. Two things do that here:

* :class:`GuardedEnvironment` refuses single operations that make something huge at once (``'a' * 10**10``, a width in
  a format, ``|replace`` of every character by a page), by Jinja's own hooks.
* :class:`Watch` looks, from a thread of its own, whether a render takes too long or too much memory, and ends it.
  A render pays a microsecond for it.

What neither can end is one operation inside the interpreter that takes for ever and makes nothing, such as comparing
lists that hold each other dozens of times over: there the job's own limits count.
"""

import ctypes
import functools
import json
import os
import re
import threading
import time
import types
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import Environment, FunctionLoader, Template, nodes, pass_environment
from jinja2.filters import make_attrgetter
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer
from transformers.utils import chat_template_utils

from finetune_trainer.errors import TrainerError
from finetune_trainer.preparation.given import MODELS

LONGEST_TEMPLATE = 1 << 18
"""Characters. The longest known template has 30 thousand."""
LONGEST_TEXT = 1 << 24
"""Characters that one operation, and a whole render, may make."""
SECONDS = 10.0
"""A render takes microseconds, that of a conversation as long as a book less than a second."""
MEMORY = 1 << 29
"""Bytes by which the process may grow during one render."""

_POLL = 0.05
"""Seconds between two looks."""
_FEW = 16
"""So many parts are put together unchecked: they grow no faster than the watch can follow."""
_BITS = 4096
_WIDE = {
    "%": re.compile(r"%(\([^)]*\))?[-+ #0]*(\*|\d{4,}|\d*\.(\*|\d{4,}))"),
    "{": re.compile(r"\{[^{}]*:[^{}]*(\d{4,}|\{)"),
}
"""A width or precision that is large, or that comes from elsewhere, in formats of both kinds."""
_PADDING = {"center", "ljust", "rjust", "zfill", "expandtabs", "encode", "translate", "to_bytes"}
"""Methods that make much of little, of which no chat template needs one."""
_GREAT = _PADDING | {"join", "replace", "format", "format_map"}


_running: dict[int, object] = {}
"""The threads that are compiling or rendering a template, by their ids, each with a mark of the call. They tell it
themselves: to look at the frames of a thread that goes on meanwhile is not safe (seen: CPython 3.11 crashes)."""


@contextmanager
def _told() -> Iterator[None]:
    thread = threading.get_ident()
    if thread in _running:  # within another call, which counts as a whole
        yield
        return
    _running[thread] = object()
    try:
        yield
    finally:
        _running.pop(thread, None)


class _GuardedTemplate(Template):
    """A template whose renders can be seen, and whose text is bounded also where it comes piece by piece."""

    def render(self, *args: Any, **kwargs: Any) -> str:
        with _told():
            return super().render(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Iterator[str]:
        written = 0
        with _told():
            for piece in super().generate(*args, **kwargs):
                written += len(piece)
                _require_room(written)
                yield piece


class GuardedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox without operations that make something huge at once.

    Raises:
        TrainerError: MODEL_INVALID, while a template is compiled or rendered.
    """

    template_class = _GuardedTemplate

    def from_string(self, source: Any, *args: Any, **kwargs: Any) -> Template:
        """Compiles a template. By now transformers has added its own filters."""
        if len(source) > LONGEST_TEMPLATE:
            _refuse(f"has {len(source)} characters, and none needs more than {LONGEST_TEMPLATE}")
        self.filters = _guarded_filters(self.filters)
        self.loader = FunctionLoader(lambda name: _refuse("is made of several files, which a model cannot bring"))
        try:
            with _told():
                return super().from_string(source, *args, **kwargs)
        except (RecursionError, SyntaxError, MemoryError) as error:  # Python's, about the program made of the template
            _refuse("is nested too deeply", error)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Guarding().visit(super()._parse(source, name, filename))
        return tree

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """Joins what a template, a macro or a block has written."""
        pieces = list(parts)
        if len(pieces) > _FEW:
            _require_room(sum(map(len, pieces)))
        return "".join(pieces)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """What a template gets in place of a method that can make much of little."""
        if not isinstance(value, types.MethodType | types.BuiltinMethodType) or value.__name__ not in _GREAT:
            return None
        owner = value.__self__
        if value.__name__ in _PADDING:
            return lambda *_, **__: _refuse(f"calls {value.__name__}, which no chat template needs")
        if not isinstance(owner, str):
            return None
        if value.__name__ in ("join", "replace"):
            return functools.partial(_join if value.__name__ == "join" else _replace, owner)
        form = super().wrap_str_format(value)
        return form and functools.partial(_format, form, owner)


class _Guarding(NodeTransformer):
    """Puts functions of this module in place of operators that can make much of little.

    As filters, which compiled templates call directly; Jinja's own interception of operators takes three calls.
    """

    def visit_BinExpr(self, node: nodes.BinExpr) -> nodes.Expr:  # noqa: N802 (the name is NodeTransformer's)
        """``a * b`` and the like."""
        self.generic_visit(node)
        if node.operator not in _OPERATORS:
            return node
        return nodes.Filter(node.left, node.operator, [node.right], [], None, None, lineno=node.lineno)

    visit_Mul = visit_Pow = visit_Mod = visit_BinExpr  # noqa: N815

    def visit_Concat(self, node: nodes.Concat) -> nodes.Concat:  # noqa: N802
        """A long chain of ``~``, in steps that the watch can look between."""
        self.generic_visit(node)
        while len(node.nodes) > _FEW:
            parts = [node.nodes[i : i + _FEW] for i in range(0, len(node.nodes), _FEW)]
            node.nodes = [nodes.Concat(part, lineno=node.lineno) for part in parts]
        return node


def _guarded_filters(plain: dict[str, Any]) -> dict[str, Any]:
    """The filters, with limits on those that can make much of little. Three that only web pages need are left out."""

    def limited(name: str, require: Callable[..., None]) -> Callable[..., Any]:
        @functools.wraps(plain[name])
        def checked(*args: Any, **kwargs: Any) -> Any:
            require(*args, **kwargs)
            return plain[name](*args, **kwargs)

        return checked

    # The names are those of the filters' own parameters, because templates may call them by name.
    def indent(s: Any, width: int | str = 4, *_: Any, **__: Any) -> None:
        _require_room((str(s).count("\n") + 1) * (width if isinstance(width, int) else len(width)))

    def tojson(x: Any, ensure_ascii: Any = None, indent: Any = None, separators: Any = None, **_: Any) -> None:
        if max(indent if isinstance(indent, int) else len(indent or ""), len("".join(separators or ""))) > 8:
            _refuse("indents JSON by more than eight characters")

    def total(environment: Any, iterable: Any, attribute: Any = None, start: Any = 0) -> None:
        if not isinstance(start, int | float):
            _refuse("adds up what are no numbers")

    limits: dict[str, Callable[..., None]] = {
        "indent": indent,
        "tojson": tojson,
        "sum": total,
        "format": lambda value, *args, **kwargs: _require_short_form(str(value), "%", (*args, *kwargs.values())),
        "round": lambda value, precision=0, method="common": _require_small(4 * abs(precision)),
        "batch": lambda value, linecount, fill_with=None: _require_room(linecount),
    }
    kept = {name: made for name, made in plain.items() if name not in ("center", "urlize", "wordwrap")}
    return (
        kept
        | {name: limited(name, require) for name, require in limits.items()}
        | {"join": pass_environment(_join_filter), "replace": _replace_filter}
        | _OPERATORS
    )


def _join_filter(environment: Environment, value: Iterable[Any], d: Any = "", attribute: Any = None) -> str:
    """``|join``; the names are those of Jinja's filter."""
    if attribute is not None:
        value = map(make_attrgetter(environment, attribute), value)
    return _join(str(d), map(str, value))


def _replace_filter(s: Any, old: Any, new: Any, count: int | None = None) -> str:
    """``|replace``; the names are those of Jinja's filter."""
    return _replace(str(s), str(old), str(new), -1 if count is None else count)


def _times(left: Any, right: Any) -> Any:
    for value, times in ((left, right), (right, left)):
        if isinstance(value, str | list | tuple) and isinstance(times, int):
            _require_room(len(value) * times)
    if isinstance(left, int) and isinstance(right, int):
        _require_small(left.bit_length() + right.bit_length())
    return left * right


def _power(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int):
        _require_small(left.bit_length() * right)
    return left**right


def _modulo(left: Any, right: Any) -> Any:
    if isinstance(left, str):
        values = right.values() if isinstance(right, dict) else right if isinstance(right, tuple) else (right,)
        _require_short_form(left, "%", values)
    return left % right


_OPERATORS = {"*": _times, "**": _power, "%": _modulo}


def _format(form: Callable[..., str], text: str, *args: Any, **kwargs: Any) -> str:
    values = [*args, *kwargs.values()]
    values += [value for mapping in args if isinstance(mapping, dict) for value in mapping.values()]
    _require_short_form(text, "{", values)
    return form(*args, **kwargs)


def _require_short_form(form: str, mark: str, values: Iterable[Any]) -> None:
    if _WIDE[mark].search(form.replace(2 * mark, "")):
        _refuse("formats values to a width that no text needs")
    _require_room(len(form) + form.count(mark) * max((len(str(value)) for value in values), default=0))


def _replace(text: str, old: str, new: str, count: int = -1) -> str:
    if len(new) > len(old):
        _require_room(len(text) + text.count(old) * (len(new) - len(old)))
    return text.replace(old, new, count)


def _join(separator: str, parts: Iterable[str]) -> str:
    pieces = list(parts)
    _require_room(sum(map(len, pieces)) + len(separator) * len(pieces))
    return separator.join(pieces)


def _require_room(characters: int) -> None:
    if characters > LONGEST_TEXT:
        _refuse(f"makes a text or list of {characters:.3g} characters or items")


def _require_small(bits: int) -> None:
    if bits > _BITS:
        _refuse(f"makes a number of {bits:.3g} bits")


def require_in_proportion(text: str, messages: object, tools: object) -> None:
    """Refuses a text far longer than the conversation that it was made of.

    Raises:
        TrainerError: MODEL_INVALID.
    """
    if len(text) > 1 << 20 and len(text) > 8 * len(json.dumps([messages, tools])):
        _refuse(f"makes {len(text)} characters of a conversation that is far shorter")


class TemplateRefused(TrainerError):
    """A template must not be run, or not be run on. ``what`` is wrong with it, as the end of a sentence; the message is
    that for a model's template."""

    def __init__(self, what: str) -> None:
        super().__init__(MODELS.code, MODELS.sentence(what))
        self.what = what


class _TooSlow(TemplateRefused):
    """Raised in the thread that renders."""

    def __init__(self) -> None:
        super().__init__(f"takes more than {SECONDS:g} s to render one conversation")


class _TooLarge(TemplateRefused):
    """Raised in the thread that renders."""

    def __init__(self) -> None:
        super().__init__(f"takes more than {MEMORY >> 20} MiB of memory to render one conversation")


class Watch:
    """Ends renders that take too long or too much memory, in every thread, for as long as somebody holds it."""

    def __init__(self) -> None:
        threading.Thread(target=_watch, args=(weakref.ref(self),), daemon=True, name="template-watch").start()


@dataclass
class _Seen:
    """A render that was found running."""

    call: object
    """What it is known by: no other call is taken for it."""
    memory: int
    """Bytes that the process had before."""
    looks: int = 0


def _watch(holder: "weakref.ref[Watch]") -> None:
    seen: dict[int, _Seen] = {}
    before = _private_bytes()
    while holder() is not None:
        time.sleep(_POLL)
        memory = _private_bytes()
        running = dict(_running)
        seen = {
            thread: known if (known := seen.get(thread)) and known.call is call else _Seen(call, before)
            for thread, call in running.items()
        }
        before = memory
        for thread, render in seen.items():
            render.looks += 1
            if memory - render.memory > MEMORY:
                _raise_in(thread, _TooLarge)
            elif render.looks > SECONDS / _POLL:
                _raise_in(thread, _TooSlow)


def _raise_in(thread: int, kind: type[TrainerError]) -> None:
    """Raises in another thread, at its next step. Said again at every look, should something have swallowed it."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(kind))


def _private_bytes() -> int:
    """Memory of this process that is no file's; 0 where the system does not tell."""
    try:
        _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
    except OSError:
        return 0
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


def _refuse(what: str, cause: Exception | None = None) -> NoReturn:
    raise TemplateRefused(what) from cause


chat_template_utils.ImmutableSandboxedEnvironment = GuardedEnvironment  # type: ignore[attr-defined]
