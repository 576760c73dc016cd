"""A contender in a process of its own, so that its memory and processor time are its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

THREADS = 2
"""For everyone alike: the figures are those of two cores, whatever machine they come from."""
_ROOT = Path(__file__).parents[2]
_MARK = "MEASURED "


def measured(*command: str, **env: str) -> dict[str, Any]:
    """Runs ``python *command`` and returns what it said by :func:`tell`.

    GOMP_SPINCOUNT keeps OpenMP threads that wait from burning processor time, which would be counted as work.

    Raises:
        RuntimeError: it ended without a word.
    """
    fixed = {"OMP_NUM_THREADS": str(THREADS), "GOMP_SPINCOUNT": "1000", "TOKENIZERS_PARALLELISM": "true"}
    done = subprocess.run(
        [sys.executable, *command], cwd=_ROOT, env=os.environ | fixed | env, capture_output=True, text=True, check=False
    )
    said = [line.removeprefix(_MARK) for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if not said:
        raise RuntimeError(
            f"{command} ended early with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        )
    content: dict[str, Any] = json.loads(said[-1])
    return content


def tell(**figures: Any) -> None:
    """In the contender's process: says what was measured."""
    print(f"\n{_MARK}{json.dumps(figures)}", flush=True)
