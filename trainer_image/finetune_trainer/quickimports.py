"""Imports of torch and the Hugging Face libraries at less processor time: a fifth of what they take is for nothing."""

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

_NOT_NEEDED = ("bitsandbytes", "boto3", "scipy", "sklearn")
"""These are imported wherever they are installed: bitsandbytes by PEFT, boto3 by Accelerate, scipy (0.3 s) and
scikit-learn by transformers, for detecting objects and for assisted generation. Whoever has a use for one of them
imports it later."""


@contextmanager
def quick_imports() -> Iterator[None]:
    """Within, what is imported finds

    - caches without a bound. transformers looks through its own source for what it offers, twice, and remembers the
      550 folders of the first time in a cache of 128 (seen in 5.23; measured: 0.3 s of processor time);
    - frames without their source text. torch asks for it with each of hundreds of operators, to note file and line;
    - no :data:`_NOT_NEEDED`.
    """
    cache, frame_info = functools.lru_cache, inspect.getframeinfo
    hidden = [name for name in _NOT_NEEDED if name not in sys.modules]
    functools.lru_cache, inspect.getframeinfo = _unbounded(cache), _place
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        functools.lru_cache, inspect.getframeinfo = cache, frame_info
        for name in hidden:
            del sys.modules[name]


def _unbounded(cache: Callable[..., Any]) -> Any:
    """``functools.lru_cache`` whose bound has to be asked for."""

    def lru_cache(maxsize: Any = None, typed: bool = False) -> Any:
        return cache(None)(maxsize) if callable(maxsize) else cache(maxsize, typed)

    return lru_cache


def _place(frame: FrameType | TracebackType, context: int = 1) -> inspect.Traceback:
    """``inspect.getframeinfo`` of a frame, without its ``context``."""
    if isinstance(frame, TracebackType):
        frame = frame.tb_frame
    code = frame.f_code
    return inspect.Traceback(code.co_filename, frame.f_lineno, code.co_name, None, None)
