"""Everything that may go wrong in a way we understand."""

from finetune_api.run import ExitCode


class TrainerError(Exception):
    """An expected fault: the code says whose it is, the message names the cause and the mend in a sentence or two."""

    def __init__(self, code: ExitCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Stopped(BaseException):
    """SIGTERM arrived. Not an ``Exception``, so that no library's ``except Exception`` can swallow it."""


def one_line(error: BaseException, limit: int = 600) -> str:
    """What an exception of a library says, fit for the inside of a sentence: one line, bounded."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the CPU or on a GPU. Needs no torch."""
    named = {kind.__name__ for kind in type(error).__mro__}
    return bool(named & {"MemoryError", "OutOfMemoryError"}) or "can't allocate memory" in str(error)
