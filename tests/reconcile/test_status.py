"""From an outcome to the status that is written."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api import names
from finetune_api.conditions import Phase, Reason
from finetune_api.run import Report, RunResult, TrainerStatus
from finetune_api.status import FineTuneJobStatus
from finetune_operator.attempts import AttemptEnd
from finetune_operator.events import event_for
from finetune_operator.observed import JobState, Observed, PodState, ReceivedReport
from finetune_operator.outcome import Outcome, Situation, understood
from finetune_operator.settings import Settings
from finetune_operator.status import merge_patch, next_status
from finetune_operator.times import duration, seconds_of
from tests import builders as b
from tests.reconcile.fake import merged

NOW = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
RUNNING = Outcome(Phase.RUNNING, Reason.TRAINING, "It runs.")


def situation(raw=None, now=NOW, **observed):
    return Situation(raw or b.finetunejob(), Observed(**observed), now, Settings(), None)


def conditions(status):
    return {c["type"]: c for c in status["conditions"]}


def finished(reason=Reason.SUCCEEDED, **more):
    phase = Phase.SUCCEEDED if reason is Reason.SUCCEEDED else Phase.FAILED
    return Outcome(phase, reason, "It ended.", ends=AttemptEnd(reason, "It ended."), **more)


def test_every_outcome_makes_a_status_of_the_contract():
    for phase in Phase:
        for accepted in (True, False):
            status = next_status(situation(), Outcome(phase, Reason.TRAINING, "x", accepted=accepted))
            assert FineTuneJobStatus.model_validate(status).phase is phase


def test_a_condition_keeps_its_transition_time_until_it_turns():
    first = next_status(situation(), RUNNING)
    later = NOW + timedelta(minutes=5)
    second = next_status(
        situation(b.finetunejob(status=first), later), Outcome(Phase.EVALUATING, Reason.EVALUATING, "")
    )
    assert conditions(second)["Ready"]["lastTransitionTime"] == "2026-11-21T10:00:00Z"
    assert conditions(second)["Ready"]["reason"] == "Evaluating"
    third = next_status(situation(b.finetunejob(status=second), later), finished())
    assert conditions(third)["Ready"]["lastTransitionTime"] == "2026-11-21T10:05:00Z"


@pytest.mark.parametrize(
    ("outcome", "ready", "reconciling", "stalled"),
    [
        (RUNNING, "False", "True", "False"),
        (finished(), "True", "False", "False"),
        (finished(Reason.DATA_INVALID), "False", "False", "True"),
    ],
)
def test_the_summary_conditions_follow_kstatus(outcome, ready, reconciling, stalled):
    found = conditions(next_status(situation(), outcome))
    assert [found[kind]["status"] for kind in ("Ready", "Reconciling", "Stalled")] == [ready, reconciling, stalled]


def test_what_was_not_reached_is_false_only_once_the_job_failed():
    running = next_status(situation(), RUNNING)
    assert conditions(running).keys() == {"Ready", "Reconciling", "Stalled", "Validated"}
    failed = next_status(situation(b.finetunejob(status=running)), finished(Reason.DATA_INVALID))
    assert [conditions(failed)[kind]["status"] for kind in ("Trained", "Evaluated", "Published")] == ["False"] * 3


def test_a_job_that_failed_while_publishing_was_trained_and_evaluated():
    publishing = next_status(situation(), Outcome(Phase.PUBLISHING, Reason.PUBLISHING, ""))
    failed = next_status(situation(b.finetunejob(status=publishing)), finished(Reason.STORAGE_REFUSED))
    found = conditions(failed)
    assert [found[kind]["status"] for kind in ("Trained", "Evaluated", "Published")] == ["True", "True", "False"]


def test_a_refused_spec_is_not_validated():
    found = conditions(next_status(situation(), finished(Reason.INVALID_SPEC, accepted=False)))
    assert found["Validated"]["status"] == "False"


def test_conditions_and_fields_of_a_newer_version_stay():
    foreign = {"type": "FromTheFuture", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    status = {"conditions": [foreign], "novelty": {"a": 1}, "progress": {"percent": 1, "novelty": 2}}
    pod = PodState.of(b.running_pod())
    report = ReceivedReport(pod.uid, Report.model_validate(b.report(5)).trainer_status, NOW)
    found = next_status(situation(b.finetunejob(status=status), pods=(pod,), report=report), RUNNING)
    assert conditions(found)["FromTheFuture"]["lastTransitionTime"] == "2026-01-01T00:00:00Z"
    assert found["novelty"] == {"a": 1}
    assert found["progress"]["novelty"] == 2
    assert found["progress"]["percent"] == 5


def test_a_value_that_only_a_newer_version_knows_hides_no_other_field():
    found = understood({"phase": "Archived", "jobRef": {"name": "x"}, "conditions": "nonsense"})
    assert found.phase is None
    assert found.job_ref is not None


def test_the_headline_is_the_metric_that_the_trainer_names_first():
    metrics = [{"name": "f1", "value": 0.975, "baseline": 0.5}, {"name": "eval_loss", "value": 0.1}]
    result = RunResult.model_validate_json(b.result(metrics=metrics))
    outcome = finished(result=result)
    pods = (PodState.of(b.ended_pod(0)),)
    status = next_status(situation(job=JobState.of(b.job("Complete")), pods=pods), outcome)
    assert (status["headline"]["metric"], status["headline"]["baseToTuned"]) == ("f1", "0.50→0.97")


def test_the_generation_of_the_spec_is_in_the_status_and_in_every_condition():
    status = next_status(situation(b.finetunejob(generation=3)), RUNNING)
    assert status["observedGeneration"] == 3
    assert {c["observedGeneration"] for c in status["conditions"]} == {3}


def test_the_result_metrics_and_usage_are_the_trainers_word():
    result = RunResult.model_validate_json(b.result())
    pod = PodState.of(b.ended_pod(0))
    outcome = finished(result=result)
    status = next_status(situation(job=JobState.of(b.job("Complete")), pods=(pod,)), outcome)
    assert status["metrics"] == [{"name": "eval_loss", "value": 1.21, "baseline": 1.834}]
    assert status["result"]["digest"] == "sha256:abc"
    assert status["usage"] == {"trainedTokens": 12345, "gpuSeconds": 60}
    assert status["headline"] == {"progress": "100%", "metric": "eval_loss", "baseToTuned": "1.83→1.21"}
    assert status["completionTime"] == "2026-11-21T10:00:00Z"
    (attempt,) = status["attempts"]
    assert attempt == {
        "number": 0,
        "job": names_of_job(),
        "startedAt": b.CREATED,
        "finishedAt": "2026-11-21T10:05:00Z",
        "reason": "Succeeded",
        "message": "It ended.",
    }


def names_of_job():
    return b.job()["metadata"]["name"]


def test_a_cpu_job_used_no_gpu_and_every_try_of_a_gpu_job_counts():
    pods = (PodState.of(b.ended_pod(1, name="a")), PodState.of(b.ended_pod(0, name="b")))
    for resources, seconds in (({"gpusPerNode": 0}, 0), ({"gpusPerNode": 1}, 120)):
        raw = b.finetunejob(resources=resources)
        assert next_status(situation(raw, pods=pods), finished())["usage"]["gpuSeconds"] == seconds


def test_what_earlier_attempts_took_is_counted_in_also_where_their_pods_are_gone():
    pods = (PodState.of(b.ended_pod(1, name="a")),)
    status = {"attempts": [{"number": 0}], "usage": {"gpuSeconds": 100, "novelty": 1}}
    found = next_status(situation(b.finetunejob(status=status), gone=pods), finished(Reason.DATA_INVALID))
    assert found["usage"] == {"gpuSeconds": 160, "novelty": 1}


def test_the_last_ten_attempts_are_kept_and_those_that_count_are_counted():
    status = {"attempts": [{"number": n, "finishedAt": b.CREATED, "novelty": n} for n in range(3, 13)], "failures": 4}
    job = JobState.of(b.failed_job(attempt=13))
    retried = Outcome(
        Phase.STARTING, Reason.RETRYING, "", ends=AttemptEnd(Reason.TRAINER_CRASHED, "boom", counted=True)
    )
    found = next_status(situation(b.finetunejob(status=status), job=job), retried)
    assert [attempt["number"] for attempt in found["attempts"]] == list(range(4, 14))
    assert found["attempts"][0]["novelty"] == 4
    assert found["attempts"][-1]["reason"] == "TrainerCrashed"
    assert found["failures"] == 5


def test_a_result_without_a_baseline_shows_its_value_alone():
    result = RunResult.model_validate_json(b.result(metrics=[{"name": "perplexity", "value": 7.5}]))
    headline = next_status(situation(), finished(result=result))["headline"]
    assert (headline["metric"], headline["baseToTuned"]) == ("perplexity", "7.50")


def test_a_try_that_starts_anew_has_no_progress_yet():
    status = {"progress": {"percent": 80, "etaSeconds": 3}, "headline": {"progress": "80%", "eta": "3s"}}
    outcome = Outcome(Phase.STARTING, Reason.RETRYING, "", restarted=True)
    found = next_status(situation(b.finetunejob(status=status)), outcome)
    assert "progress" not in found
    assert found["headline"] == {}


def reported(**metrics):
    """The status after a report with these metrics."""
    pod = PodState.of(b.running_pod())
    told = [{"name": name, "value": value} for name, value in metrics.items()]
    status = Report.model_validate(b.report(5)).trainer_status.to_dict()
    status["metrics"] += told
    report = ReceivedReport(pod.uid, TrainerStatus.model_validate(status), NOW)
    job = JobState.of(b.job())
    return next_status(situation(job=job, pods=(pod,), report=report), RUNNING)


def test_the_newest_checkpoint_and_the_one_that_was_gone_on_from_are_told():
    status = reported(checkpoint="00000120-0123abcd", resumed_at_step="60")
    prefix = names.job_prefix("s3://team-a/adapters/", "support-bot", b.UID)
    assert status["checkpoint"] == {"uri": f"{prefix}checkpoints/00000120-0123abcd/", "step": 120}
    assert [attempt["resumedAtStep"] for attempt in status["attempts"]] == [60]
    restarted = Outcome(Phase.STARTING, Reason.RETRYING, "", restarted=True)
    assert next_status(situation(b.finetunejob(status=status)), restarted)["checkpoint"] == status["checkpoint"]
    assert "checkpoint" not in next_status(situation(b.finetunejob(status=status)), finished())
    assert next_status(situation(b.finetunejob(status=status)), finished(Reason.DIVERGED))["checkpoint"]["step"] == 120


@pytest.mark.parametrize("name", ["", "120", "../../other/", "00000120-0123abcd/..", "００００００１２-0123abcd"])
def test_what_is_no_checkpoints_name_is_not_told(name):
    assert "checkpoint" not in reported(checkpoint=name, resumed_at_step="soon")


def test_a_failed_job_keeps_how_far_it_came_but_has_no_time_left():
    status = {"progress": {"percent": 80, "etaSeconds": 3}}
    found = next_status(situation(b.finetunejob(status=status)), finished(Reason.DIVERGED))
    assert found["progress"] == {"percent": 80}
    assert found["headline"] == {"progress": "80%"}


def test_the_input_hash_does_not_depend_on_how_a_run_may_fail():
    one, two = (b.finetunejob(runPolicy={"maxRetries": n}) for n in (0, 1))
    other = b.finetunejob(training={"seed": 7})
    hashes = [next_status(situation(raw), RUNNING)["inputHash"] for raw in (one, two, other)]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (45, "45s"),
        (60, "1m"),
        (3060, "51m"),
        (3600, "1h"),
        (12000, "3h20m"),
        (183600, "2d3h"),
        (172800, "2d"),
    ],
)
def test_a_time_is_told_as_kubectl_tells_it(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("1h30m", 5400), ("2h5s", 7205), (None, None), ("soon", None)]
)
def test_a_duration_of_the_spec_is_so_many_seconds(text, seconds):
    assert seconds_of(text) == seconds


JSON = st.recursive(
    st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=2), JSON, max_size=4)


@given(OBJECTS, OBJECTS)
def test_a_merge_patch_leads_from_one_object_to_the_other_and_is_empty_between_equals(old, new):
    assert merged(old, merge_patch(old, new)) == new
    assert merge_patch(new, new) == {}


@pytest.mark.parametrize(
    ("used", "cost"),
    [
        ({"gpuType": "a100", "pricePerHour": 90.0, "currency": "EUR"}, "1.50 EUR"),
        ({"gpuType": "a100", "pricePerHour": 0.0, "currency": "EUR"}, "0.00 EUR"),
        ({"gpuType": "a100"}, None),
        ({"pricePerHour": "much"}, None),
    ],
)
def test_what_a_job_cost_is_told_by_the_price_that_its_job_remembers(used, cost):
    raw = b.job("Complete")
    used = {"name": "gpu", "digest": "sha256:d"} | used
    raw["metadata"]["annotations"] = {names.ANNOTATION_PROFILE: json.dumps(used)}
    status = next_status(situation(job=JobState.of(raw), pods=(PodState.of(b.ended_pod(0)),)), finished())
    assert status["usage"].get("cost") == cost
    assert FineTuneJobStatus.model_validate(status)


ODD = "bad\x1b[31m \x07file\u202e\n\x00\x9b2Jname"
PLAIN = "bad file name"


def test_nothing_that_a_terminal_obeys_reaches_a_status():
    """Whoever wrote it: the trainer, the kubelet, somebody else's server."""
    result = RunResult.model_validate_json(b.result(result={"adapterURI": f"s3://{ODD}", "digest": ODD}))
    status = next_status(situation(), Outcome(Phase.SUCCEEDED, Reason.SUCCEEDED, ODD, result=result))
    assert json.dumps(status, ensure_ascii=False).isprintable()
    assert status["message"] == PLAIN
    assert status["result"]["adapterURI"] == f"s3://{PLAIN}"
    assert {c["message"] for c in status["conditions"]} <= {PLAIN, "", "The spec is valid and its model is known."}


def test_nothing_that_a_terminal_obeys_reaches_an_event():
    event = event_for(situation(), Outcome(Phase.FAILED, Reason.DATA_INVALID, ODD))
    assert event is not None
    assert event.message == PLAIN


def test_the_last_report_of_a_pod_that_ended_well_is_not_lost():
    """There may have been no time to write it before the end."""
    pod = PodState.of(b.ended_pod(0))
    last = ReceivedReport(pod.uid, Report.model_validate(b.report(100, 0, loss="0.5")).trainer_status, NOW)
    found = next_status(situation(pods=(pod,), report=last), finished())["progress"]
    assert found == {"percent": 100, "loss": 0.5, "heartbeat": "2026-11-21T10:00:00Z"}
    other = ReceivedReport("another", last.status, NOW)
    assert next_status(situation(pods=(pod,), report=other), finished())["progress"] == {"percent": 100}
