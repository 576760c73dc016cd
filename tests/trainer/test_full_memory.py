"""Memory that runs out for real: in a process of its own, under a limit of the kernel's (RLIMIT_AS)."""

import json
import subprocess
import sys

import pytest

from finetune_api.run import ExitCode

PROGRAM = """
import os, resource, sys, threading
from pathlib import Path
from safetensors import safe_open
from finetune_trainer.ending import run_to_end

log, large, story = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
if story == "tensor":
    import torch  # which takes seconds
used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 20),) * 2)

def threads():
    while True:
        threading.Thread(target=threading.Event().wait, daemon=True).start()

STORIES = {
    "bytes": lambda: bytes(1 << 30),
    "tensor": lambda: torch.empty(1 << 30),
    "weights": lambda: safe_open(large, framework="np"),
    "threads": threads,
}
code = run_to_end(STORIES[story], log)
sys.stdout.flush(), sys.stderr.flush()
os._exit(code)
"""


@pytest.mark.parametrize(
    ("story", "said"),
    [
        ("bytes", "MemoryError"),
        ("tensor", "DefaultCPUAllocator: can't allocate memory"),
        ("weights", "Cannot allocate memory"),
        ("threads", "can't start new thread"),
    ],
)
def test_memory_that_runs_out_is_told_whoever_asked_for_it(tmp_path, story, said):
    large, log = tmp_path / "model.safetensors", tmp_path / "log"
    with large.open("wb") as file:
        file.truncate(1 << 30)
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(log), str(large), story], capture_output=True, text=True, check=False
    )
    error = json.loads(log.read_bytes())["error"]
    assert (process.returncode, error["reason"]) == (ExitCode.OUT_OF_MEMORY, "OutOfMemory"), process.stderr
    assert said in error["message"]
    assert "raise spec.resources.memory" in error["message"]
    assert "Traceback" not in process.stderr
