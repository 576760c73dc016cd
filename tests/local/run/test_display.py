"""What `run` shows: progress on a terminal and elsewhere, and the table that kubectl would print."""

import io
from typing import Any

import pytest

from finetune_local.run.progress import Display, duration, line
from finetune_local.run.table import render


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def job(phase: str | None, **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "bot", "uid": "u"}, "status": {"phase": phase, **status} if phase else {}}


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (job(None), "bot  Pending"),
        (job("Starting", message="The pod starts."), "bot  Starting  The pod starts."),
        (
            job("Running", progress={"percent": 50, "step": 3, "totalSteps": 6, "loss": 1.23456, "etaSeconds": 61}),
            "bot  Running  ████████████░░░░░░░░░░░░  50%  step 3/6  loss 1.235  ETA 1m01s",
        ),
        (
            job("Running", message="m", progress={"percent": 0, "tokensPerSecond": 1234.5}),
            "bot  Running  ░░░░░░░░░░░░░░░░░░░░░░░░   0%  1234 tokens/s",
        ),
    ],
)
def test_one_line_tells_the_story(shown: dict[str, Any], text: str) -> None:
    assert line(shown) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (59, "59s"), (200, "3m20s"), (7500, "2h05m")])
def test_a_duration_is_as_long_as_it_must_be(seconds: int, text: str) -> None:
    assert duration(seconds) == text


def test_a_terminal_shows_one_line_over_and_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    out = Terminal()
    display = Display(out)
    for percent in (1, 2):
        display.show(job("Running", progress={"percent": percent}))
    display.say("done")

    assert "\n" not in out.getvalue().partition("done")[0]
    assert out.getvalue().endswith("\r\x1b[Kdone\n")
    assert all(len(part) < 30 for part in out.getvalue().replace("\x1b[K", "").split("\r"))


def test_elsewhere_a_line_appears_when_the_phase_changes() -> None:
    out = io.StringIO()
    display = Display(out)
    for phase, percent in (("Starting", 0), ("Running", 1), ("Running", 1), ("Running", 2), ("Succeeded", 100)):
        display.show(job(phase, progress={"percent": percent}))

    assert [text.split()[1] for text in out.getvalue().splitlines()] == ["Starting", "Running", "Succeeded"]


def test_a_table_looks_as_kubectl_prints_it() -> None:
    """The Table and the lines that kubectl made of it were recorded together."""
    table = {
        "columnDefinitions": [
            {"name": "Name", "priority": 0},
            {"name": "Phase", "priority": 0},
            {"name": "Progress", "priority": 0},
            {"name": "Loss", "priority": 1},
            {"name": "Started", "priority": 0},
            {"name": "Age", "priority": 0},
        ],
        "rows": [
            {"cells": ["one", "Succeeded", 42, 1.5, "4h2m", "15s"]},
            {"cells": ["w", None, None, None, None, "0s"]},
        ],
    }

    assert render(table).splitlines() == [
        "NAME   PHASE       PROGRESS   STARTED   AGE",
        "one    Succeeded   42         4h2m      15s",
        "w                                       0s",
    ]
