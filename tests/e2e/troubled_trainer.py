"""The trainer, in trouble where a job's name asks for it: it waits to be stopped, runs out of memory, or is killed.

Run in place of ``python``; jobs of other names get that as it is.
"""

import gc
import json
import os
import runpy
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

STEP = 25
"""Optimizer steps taken before the trouble begins."""


def wait(asked_to_stop: Callable[[], bool], run: dict[str, Any]) -> None:
    """Goes no further in the first attempt."""
    pause = threading.Event()
    while run["attempt"] == 0 and not asked_to_stop():
        pause.wait(0.02)


def run_out(asked_to_stop: Callable[[], bool], run: dict[str, Any]) -> None:
    """Has room for half of what it was to take at a time."""
    from torch import OutOfMemoryError

    if run["microBatchDivisor"] < 2:
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def die(asked_to_stop: Callable[[], bool], run: dict[str, Any]) -> None:
    """Is killed in the first attempt."""
    if run["attempt"] == 0:
        os.kill(os.getpid(), signal.SIGKILL)


TROUBLES = {"suspended": wait, "evicted": wait, "cancelled": wait, "hungry": run_out, "unlucky": die}


def main() -> None:
    arguments = sys.argv[1:]
    run = json.loads(Path(arguments[-1]).read_bytes()) if arguments[:2] == ["-m", "finetune_trainer"] else {}
    trouble = TROUBLES.get(run.get("job", {}).get("name"))
    if trouble is None:
        os.execv(sys.executable, [sys.executable, *arguments])

    gc.disable()  # as the trainer does from its beginning
    from finetune_trainer.quickimports import quick_imports

    with quick_imports():
        from finetune_trainer.training.loop import Loop

    step = Loop.step

    def troubled(loop: Loop, asked_to_stop: Callable[[], bool]) -> Any:
        if loop.state.step == STEP:
            trouble(asked_to_stop, run)
        return step(loop, asked_to_stop)

    Loop.step = troubled
    sys.argv = ["finetune_trainer", *arguments[2:]]
    runpy.run_module("finetune_trainer", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
