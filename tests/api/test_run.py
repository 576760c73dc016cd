"""What operator and pod say to each other: run file, termination message, exit codes, reports."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from finetune_api.conditions import MEANINGS, Fault, Reason, Retry, retry_of
from finetune_api.job import read_spec
from finetune_api.run import (
    TERMINATION_LOG_LIMIT,
    ExitCode,
    JobIdentity,
    ModelLocation,
    Report,
    RunConfig,
    RunError,
    RunResult,
)
from finetune_api.status import BuiltOn, BuiltOnAdapter, Metric, Result

SPEC = {
    "model": {"uri": "hf://org/model", "revision": "main"},
    "data": {"train": [{"uri": "s3://b/train.jsonl"}], "validationFraction": 0.05},
    "output": {"uri": "s3://b/out"},
}


def test_a_run_file_reads_back_as_it_was_written() -> None:
    run = RunConfig.of(
        read_spec(SPEC),
        JobIdentity(namespace="team-a", name="bot", uid="u"),
        attempt=0,
        model=ModelLocation(uri="hf://org/model", revision="main"),
        prefix="s3://b/out/bot/12345678-0/",
    )
    assert RunConfig.model_validate_json(run.to_json()) == run


def test_a_run_file_carries_every_default_so_that_the_trainer_decides_nothing() -> None:
    run = RunConfig.of(
        read_spec(SPEC), JobIdentity(namespace="n", name="j", uid="u"), 0, ModelLocation(uri="hf://a/b"), "s3://b/o/"
    )
    training = json.loads(run.to_json())["training"]
    assert training["batchSize"] == 16
    assert training["schedule"] == "cosine"


def test_only_models_that_a_pod_can_load_get_into_a_run_file() -> None:
    with pytest.raises(ValidationError, match="pattern"):
        ModelLocation(uri="job://docs-base")


@pytest.mark.parametrize("uri", ["s3://b/../other/", "s3://b/x/..", "s3://../x/", "hf://../x"])
def test_a_run_file_names_no_place_by_a_way_around(uri: str) -> None:
    with pytest.raises(ValidationError, match=r"must not have \. or \.\. between its slashes"):
        ModelLocation(uri=uri)


@pytest.mark.parametrize(
    ("prefix", "good"),
    [
        ("s3://b/out/bot/0a-0/", True),
        ("s3://b/a//b.c/...d/", True),
        ("s3://b/../c/", False),
        ("s3://b/c/../", False),
        ("s3://b/./", False),
        ("s3://b/c", False),
    ],
)
def test_a_run_publishes_below_its_prefix_and_nowhere_else(prefix: str, good: bool) -> None:
    identity, model = JobIdentity(namespace="n", name="j", uid="u"), ModelLocation(uri="hf://a/b")
    try:
        accepted = bool(RunConfig.of(read_spec(SPEC), identity, 0, model, prefix))
    except ValidationError:
        accepted = False
    assert accepted is good


@given(
    message=st.text(max_size=20_000),
    metrics=st.lists(st.builds(Metric, name=st.text(min_size=1, max_size=64), value=st.floats(-1e9, 1e9)), max_size=64),
)
def test_a_termination_message_always_fits_and_keeps_the_reason(message: str, metrics: list[Metric]) -> None:
    result = RunResult(
        outcome="Failed", metrics=tuple(metrics), error=RunError(reason=Reason.DATA_INVALID, message=message)
    )
    text = result.termination_message()
    assert len(text.encode()) <= TERMINATION_LOG_LIMIT
    read = RunResult.model_validate_json(text)
    assert read.error is not None
    assert read.error.reason is Reason.DATA_INVALID


@pytest.mark.parametrize(
    ("code", "rule"),
    [
        (ExitCode.CONFIGURATION_INVALID, Retry.NEVER),
        (ExitCode.DATA_INVALID, Retry.NEVER),
        (ExitCode.MODEL_INVALID, Retry.NEVER),
        (ExitCode.CONTRACT_MISMATCH, Retry.NEVER),
        (ExitCode.DIVERGED, Retry.NEVER),
        (ExitCode.STORAGE_REFUSED, Retry.NEVER),
        (ExitCode.OUT_OF_MEMORY, Retry.SMALLER),
        (ExitCode.STORAGE_UNAVAILABLE, Retry.COUNTED),
        (ExitCode.DISK_FULL, Retry.COUNTED),
        (ExitCode.PEERS_LOST, Retry.COUNTED),
        (ExitCode.PREEMPTED, Retry.FREE),
    ],
)
def test_an_exit_code_says_whether_another_attempt_can_help(code: ExitCode, rule: Retry) -> None:
    assert retry_of(code.reason) is rule


@pytest.mark.parametrize("reason", [r for r, meaning in MEANINGS.items() if meaning.fault is Fault.USER])
def test_a_users_fault_is_never_retried_but_for_what_heals_itself(reason: Reason) -> None:
    heals = {Reason.OUT_OF_MEMORY: Retry.SMALLER, Reason.JOB_DELETED: Retry.FREE}
    assert retry_of(reason) is heals.get(reason, Retry.NEVER)


@pytest.mark.parametrize("code", list(ExitCode))
def test_every_exit_code_has_a_reason_that_a_user_can_read(code: ExitCode) -> None:
    assert MEANINGS[code.reason].sentence


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_a_sentence_and_a_next_step(reason: Reason) -> None:
    meaning = MEANINGS[reason]
    assert meaning.sentence.endswith(".")
    assert meaning.next_step


def test_a_report_of_transformers_own_callback_is_understood() -> None:
    report = Report.model_validate_json(
        """{"trainerStatus": {"lastUpdatedTime": "2026-11-21T08:00:00Z", "progressPercentage": 42,
            "estimatedRemainingSeconds": 600,
            "metrics": [{"name": "loss", "value": "1.25"}, {"name": "current_step", "value": "10"}]}}"""
    ).trainer_status
    assert (report.progress_percentage, report.number("loss"), report.number("current_step")) == (42, 1.25, 10)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "", "many", "1e999"])
def test_a_reported_value_that_is_no_finite_number_counts_as_absent(value: str) -> None:
    report = Report.model_validate(
        {"trainerStatus": {"lastUpdatedTime": "", "metrics": [{"name": "loss", "value": value}]}}
    )
    assert report.trainer_status.number("loss") is None


def test_a_result_without_room_keeps_where_it_lies_rather_than_what_it_is_built_on() -> None:
    below = tuple(BuiltOnAdapter(uri=f"s3://b/{'x' * 600}/", digest="sha256:d", job="a") for _ in range(8))
    built_on = BuiltOn(uri="hf://org/name", revision="c0ffee", adapters=below)
    result = RunResult(outcome="Succeeded", result=Result(adapter_uri="s3://b/a/", built_on=built_on))
    read = RunResult.model_validate_json(result.termination_message())
    assert read.result == Result(adapter_uri="s3://b/a/")
