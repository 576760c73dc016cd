"""The lines of a data file, in bounded memory whatever the file holds."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from finetune_api.run import ExitCode
from finetune_trainer.errors import TrainerError

LINE_LIMIT = 16 << 20
"""Bytes. A longer line is a broken file, and would have to be held in memory whole."""

_BUFFER = 1 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_NO_TEXT = {
    b"\x1f\x8b": "compressed by gzip. Decompress it (gunzip)",
    b"\x28\xb5\x2f\xfd": "compressed by zstd. Decompress it (unzstd)",
    b"BZh": "compressed by bzip2. Decompress it (bunzip2)",
    b"\xfd7zXZ": "compressed by xz. Decompress it (unxz)",
    b"PK\x03\x04": "a ZIP archive. Unpack it",
    b"PAR1": "a Parquet file. Export it as JSON Lines",
    b"\xff\xfe": "UTF-16. Save it as UTF-8",
    b"\xfe\xff": "UTF-16. Save it as UTF-8",
}
"""How files begin that are often taken for text, and what to do with them."""


def read_lines(path: Path, uri: str) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line without its end) of each line; ends may be ``\\n`` or ``\\r\\n``.

    Raises:
        TrainerError: DATA_INVALID, for what is no text, and for a line that is too long, after LINE_LIMIT bytes of it.
    """
    with path.open("rb", buffering=_BUFFER) as file:
        _require_text(file, uri)
        number = 0
        while line := file.readline(LINE_LIMIT + 1):
            number += 1
            if len(line) > LINE_LIMIT:
                raise invalid(f"{uri} line {number} is longer than {LINE_LIMIT >> 20} MiB. Split the record")
            yield number, line.rstrip(b"\r\n")


def _require_text(file: BinaryIO, uri: str) -> None:
    """Looks at the beginning, and goes past a byte order mark."""
    start = file.read(8)
    for mark, found in _NO_TEXT.items():
        if start.startswith(mark):
            raise invalid(f"{uri} is {found}, and upload it again")
    file.seek(len(_BYTE_ORDER_MARK) if start.startswith(_BYTE_ORDER_MARK) else 0)


def decode(line: bytes, number: int, uri: str) -> str:
    """A line's text.

    Raises:
        TrainerError: DATA_INVALID, if it is not UTF-8.
    """
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise invalid(
            f"{uri} line {number} is not UTF-8 (byte {error.start + 1} of the line). Save the file as UTF-8"
        ) from error


def invalid(message: str) -> TrainerError:
    """The error of data that cannot be used; ``message`` names file and line, and ends without a full stop."""
    return TrainerError(ExitCode.DATA_INVALID, f"{message[:1500]}.")
