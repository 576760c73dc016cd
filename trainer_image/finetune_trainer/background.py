"""Work that runs beside the main thread: downloads while torch is being imported."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def start(work: Callable[[], T]) -> "Future[T]":
    """Runs ``work`` in a daemon thread. An executor's threads would keep a process alive that was told to stop."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # handed to whoever asks for the result
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name=getattr(work, "__name__", "background")).start()
    return future
