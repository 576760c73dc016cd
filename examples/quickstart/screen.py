"""What the quickstart shows: numbered steps with their times, and below them what a newcomer may want to read."""

import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

Object = dict[str, Any]

_WIDTH = 100
_INDENT = "   "


class Screen:
    """Plain text, line by line."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._steps = 0
        self._began = self._step_began = time.monotonic()

    def step(self, title: str) -> None:
        """Ends the step before, and begins one."""
        self.end_step()
        self._steps += 1
        self._step_began = time.monotonic()
        self._print(f"\n{self._steps}. {title}")

    def end_step(self) -> None:
        """Says how long the present step took, if there is one."""
        if self._steps:
            self.say(f"{time.monotonic() - self._step_began:.1f} s")

    def say(self, text: str) -> None:
        """A line, or several, below the present step."""
        self._print(textwrap.indent(text, _INDENT))

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began

    def _print(self, text: str) -> None:
        print(text, file=self._out, flush=True)


def comparison(metrics: Sequence[Object]) -> str:
    """``status.metrics`` as a table: the base, and the tuned model beside it."""
    lines = [f"{'':<16}{'BASE':>10}    {'TUNED':>10}"]
    lines += [f"{m['name']:<16}{_number(m['baseline']):>10}   →{_number(m['value']):>10}" for m in metrics]
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def answers(samples: Sequence[Object]) -> str:
    """The report's samples: to each question what base, tuned model and documentation say."""
    shown = []
    for sample in samples:
        shown.append(_one_line(sample["prompt"]))
        said = {"base": sample["base"], "tuned": sample["tuned"], "documentation": sample["reference"]}
        shown += [_folded(f"  {who:<15}", _one_line(text)) for who, text in said.items()]
        shown.append("")
    return "\n".join(shown[:-1])


def _one_line(text: str) -> str:
    return " ".join(text.split()) or "(nothing)"


def _folded(head: str, text: str) -> str:
    return textwrap.fill(text, _WIDTH, initial_indent=head, subsequent_indent=" " * len(head))


def shown(path: Path) -> str:
    """A path as a user would type it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
