"""Processor time, wall time and memory of the part of a process that trains.

Imports no torch: it is there already where there is a GPU to ask.
"""

import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


@dataclass
class Meter:
    """Started just before the first step, stopped after the last."""

    started_cpu: float = 0.0
    _started_system: float = 0.0
    _started_wall: float = 0.0
    _before: dict[str, float] = field(default_factory=dict)
    _figures: dict[str, Any] = field(default_factory=dict)

    def start(self) -> None:
        """From here on it counts."""
        self._before = memory()
        if cuda := _cuda():
            cuda.synchronize()
            cuda.reset_peak_memory_stats()
        _CLEAR.write_text("5")  # so that VmHWM is the peak from now on (proc(5))
        self.started_cpu, self._started_system = time.process_time(), os.times().system
        self._started_wall = time.monotonic()

    def stop(self) -> None:
        """Up to here."""
        if cuda := _cuda():
            cuda.synchronize()
            self._figures["gpu_peak"] = cuda.max_memory_reserved() / 2**20
        peak = memory()["VmHWM"]
        self._figures |= {
            "cpu": time.process_time() - self.started_cpu,
            "system": os.times().system - self._started_system,
            "wall": time.monotonic() - self._started_wall,
            "resident_before": self._before["VmRSS"],
            "peak_training": peak,
            "peak": max(self._before["VmHWM"], peak),
        }

    def figures(self) -> dict[str, Any]:
        """Seconds: ``cpu``, of which the kernel took ``system``, and ``wall``. MiB: ``resident_before``,
        ``peak_training``, and ``peak`` since the process began; ``gpu_peak`` of GPU memory in training, on a GPU."""
        return dict(self._figures)


def memory() -> dict[str, float]:
    """Resident memory now (``VmRSS``) and at most so far (``VmHWM``), MiB."""
    lines = (line.split() for line in _STATUS.read_text().splitlines())
    return {line[0][:-1]: int(line[1]) / 1024 for line in lines if line[0] in ("VmRSS:", "VmHWM:")}


def _cuda() -> Any:
    """torch.cuda, if there is a GPU."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch and torch.cuda.is_available() else None
