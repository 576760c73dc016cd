"""A real file system of a given size, for one process: a tmpfs in a mount namespace of its own."""

import os
import subprocess
from pathlib import Path

_INSIDE = 'mount -t tmpfs -o size="$0" scratch "$1" && shift && exec "$@"'


def command(directory: Path, size: int, *program: str) -> list[str]:
    """``program``, for which ``directory`` is an empty file system of ``size`` bytes."""
    return ["unshare", "--map-root-user", "--mount", "sh", "-c", _INSIDE, str(size), str(directory), *program]


def can_be_made() -> bool:
    """Whether this kernel lets us make one; container engines mostly forbid it."""
    try:
        tried = subprocess.run(command(Path("/tmp"), 1 << 20, "true"), env=os.environ, capture_output=True)
    except FileNotFoundError:
        return False
    return tried.returncode == 0
