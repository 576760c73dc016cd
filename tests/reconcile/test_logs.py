"""Logs are one line each, with their fields, in the format that was asked for."""

import json
import logging
import sys

import pytest

from finetune_operator import logs
from tests import builders as b
from tests.reconcile.plane import SUCCEEDS, asynchronous, plane, until


@pytest.fixture
def lines(capsys):
    """Logs something in a format; the answer is the lines."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level

    def log(chosen: str, message: str, **more: object) -> list[str]:
        logs.configure("INFO", chosen)
        logs.JobLog(logging.getLogger("a.b"), "team-a", "support-bot").info(message, **more)
        return capsys.readouterr().err.splitlines()

    yield log
    root.handlers[:] = before
    root.setLevel(level)


def test_a_line_of_text_ends_with_its_fields_and_stays_one_line(lines):
    (line,) = lines("text", "two\nlines", fields={"phase": "Running", "quoted": 'a "b" c', "empty": ""})
    assert line.endswith(
        ' INFO a.b: two lines namespace=team-a name=support-bot phase=Running quoted="a \\"b\\" c" empty=""'
    )


def test_a_line_of_json_is_an_object_whatever_is_said(lines):
    (line,) = lines("json", 'a\n"b" \x1b[31m', fields={"phase": "Running"})
    said = json.loads(line)
    assert said.pop("time").endswith("Z")
    assert said == {
        "level": "INFO",
        "logger": "a.b",
        "message": 'a "b" ',
        "namespace": "team-a",
        "name": "support-bot",
        "phase": "Running",
    }
    assert "\x1b" not in line


@pytest.mark.parametrize("chosen", logs.FORMATS)
def test_nothing_that_a_terminal_obeys_reaches_a_log(lines, chosen):
    odd = "a\x1b]0;title\x07b\u202e\x9b2J\x7f\r"
    try:
        raise ValueError(odd)
    except ValueError:
        logged = lines(chosen, odd, fields={"phase": odd}, exc_info=sys.exc_info())
    assert all(line.isprintable() for line in logged)


def test_a_traceback_is_a_field_of_its_line(lines):
    try:
        raise ValueError("no")
    except ValueError:
        (line,) = lines("json", "it failed", exc_info=sys.exc_info())
    assert json.loads(line)["exception"].endswith("ValueError: no")


@asynchronous
async def test_the_process_logs_one_line_a_change_of_state(tmp_path):
    async with plane(tmp_path) as p:
        p.script["support-bot"] = [SUCCEEDS]
        async with p.process(log_format="json") as process:
            await p.apply()
            await p.phase("Succeeded")
            await until(lambda: p.events()[-1:] == ["Succeeded"], "its last Event")
            process.terminate()
            await process.wait()
        said = [json.loads(line) for line in (tmp_path / "operator.log").read_text().splitlines()]
        told = [(line["phase"], line["reason"]) for line in said if "phase" in line]
        events = p.events()
        assert [reason for _, reason in told] == events
        assert told[-1] == ("Succeeded", "Succeeded")
        assert {(line["namespace"], line["name"]) for line in said if "phase" in line} == {(b.NAMESPACE, "support-bot")}
