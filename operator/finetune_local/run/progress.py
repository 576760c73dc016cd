"""The progress of a FineTuneJob on a terminal, or as plain lines where there is none."""

import shutil
import time
from typing import Any, TextIO

Object = dict[str, Any]

_BAR = 24
_PLAIN_SECONDS = 5.0


def line(job: Object) -> str:
    """One line: name, phase, bar, step, loss, speed, time left."""
    status = job.get("status") or {}
    progress = status.get("progress") or {}
    percent = progress.get("percent", 0)
    parts = [job["metadata"]["name"], str(status.get("phase", "Pending"))]
    if progress:
        full = round(_BAR * percent / 100)
        parts.append(f"{'█' * full}{'░' * (_BAR - full)} {percent:3d}%")
    elif status.get("message"):
        parts.append(str(status["message"]))
    if progress.get("step") is not None:
        total = progress.get("totalSteps")
        parts.append(f"step {progress['step']}" + (f"/{total}" if total else ""))
    if progress.get("loss") is not None:
        parts.append(f"loss {progress['loss']:.3f}")
    if progress.get("tokensPerSecond"):
        parts.append(f"{progress['tokensPerSecond']:.0f} tokens/s")
    if progress.get("etaSeconds") is not None:
        parts.append(f"ETA {duration(progress['etaSeconds'])}")
    return "  ".join(parts)


def duration(seconds: int) -> str:
    """``45s``, ``3m20s``, ``2h05m``."""
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 1:
        return f"{rest}s"
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


class Display:
    """Shows one job after another.

    On a terminal one line is written over and over. Elsewhere a new line appears when the phase changes, and else
    every few seconds.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._phase = ""
        self._shown = ""
        self._at = 0.0

    def show(self, job: Object) -> None:
        """The job as it is now."""
        phase, text = f"{job['metadata']['uid']} {(job.get('status') or {}).get('phase')}", line(job)
        if self._out.isatty():
            width = shutil.get_terminal_size().columns
            self._write(f"\r\x1b[K{text[: width - 1]}")
        elif text != self._shown and (phase != self._phase or time.monotonic() - self._at >= _PLAIN_SECONDS):
            self._write(f"{text}\n")
            self._at = time.monotonic()
        self._phase, self._shown = phase, text

    def say(self, text: str) -> None:
        """A line that stays."""
        self.clear()
        self._write(f"{text}\n")

    def clear(self) -> None:
        """Leaves the terminal's line empty."""
        if self._out.isatty():
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()
