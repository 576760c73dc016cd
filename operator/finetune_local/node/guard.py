"""Run as a process of its own: kills the process groups it was told of once its parent is gone, however it went.

Standard input carries ``+<group>`` and ``-<group>`` lines; its end means that the parent is gone. Works where there is
no parent-death signal, and reaches grandchildren, which such a signal does not.
"""

import contextlib
import os
import signal
import sys


def main() -> None:
    groups: set[int] = set()
    for line in sys.stdin.buffer:
        group = int(line[1:])
        if line.startswith(b"+"):
            groups.add(group)
        else:
            groups.discard(group)
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
