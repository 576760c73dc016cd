"""Suspend, cancel, deadline, standstill, pods that cannot start: written down, carried out, ended."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from finetune_api import names
from finetune_api.conditions import Phase, Reason
from finetune_api.run import RunConfig
from finetune_api.status import ProfileUsed
from finetune_operator.observed import JobState, Observed, PodState
from finetune_operator.outcome import Confirm, CreateJob, DeleteJob, ReadEvents
from finetune_operator.plan import Decision, plan
from finetune_operator.render import Reporting
from finetune_operator.settings import Settings
from tests import builders as b
from tests.reconcile.fake import merged

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
REPORTING = Reporting("https://operator.ft.svc/v1/reports", "PEM")
JOB, POD = JobState.of(b.job()), PodState.of(b.running_pod())
IMAGE = PodState.of(b.waiting_pod("ImagePullBackOff", "no such image"))
NO_NODE = PodState.of(b.pod(conditions=(b.condition("PodScheduled", "Unschedulable", "0/1 nodes", "False"),)))
RUNNING = {"phase": "Running", "startTime": "2026-11-21T11:00:00Z", "attempts": [{"number": 0, "job": JOB.name}]}


def job(status=None, **sections):
    return b.finetunejob(status=RUNNING if status is None else status, **sections)


def decide(raw, now=NOW, reporting=REPORTING, settings=None, **observed) -> Decision:
    return plan(raw, Observed(**observed), now, settings or Settings(), reporting)


def applied(raw, decision):
    return raw | {"status": merged(raw["status"], decision.status)}


def stopped(reason, **attempt):
    """A status that says why its attempt is to stop."""
    return RUNNING | {"attempts": [{"number": 0, "job": JOB.name, "reason": reason, "message": "so be it"} | attempt]}


@pytest.mark.parametrize(
    ("sections", "observed", "reason"),
    [
        ({"suspend": True}, {"pods": (POD,)}, Reason.SUSPENDED),
        ({"cancel": True}, {"pods": (POD,)}, Reason.CANCELLED),
        ({"cancel": True, "suspend": True}, {"pods": (POD,)}, Reason.CANCELLED),
        ({"runPolicy": {"deadline": "1h"}}, {"pods": (POD,)}, Reason.DEADLINE_EXCEEDED),
        ({"runPolicy": {"stallTimeout": "30m"}}, {"pods": (POD,), "still_for": 1800.0}, Reason.STALLED),
        ({}, {"pods": (IMAGE,), "still_for": 1800.0}, Reason.IMAGE_PULL_FAILED),
        ({}, {"complaint": 'pods "x" is forbidden: violates PodSecurity', "still_for": 1800.0}, Reason.POD_REFUSED),
    ],
)
def test_an_attempt_that_is_to_stop_is_first_said_to_be_and_then_deleted(sections, observed, reason):
    raw = job(**sections)
    decision = decide(raw, job=JOB, **observed)
    assert decision.actions == ()
    (attempt,) = decision.status["attempts"]
    assert attempt["reason"] == reason
    assert "finishedAt" not in attempt
    assert "to save a checkpoint" in decision.status["message"]
    assert decision.requeue_after == 0.0
    assert decide(applied(raw, decision), job=JOB, **observed).actions == (DeleteJob(JOB),)


@pytest.mark.parametrize(
    ("sections", "observed", "again"),
    [
        ({"runPolicy": {"deadline": "2h"}}, {"pods": (POD,)}, 3600.0),
        ({"runPolicy": {"stallTimeout": "30m"}}, {"pods": (POD,), "still_for": 1790.0}, 10.0),
        ({"runPolicy": {"stallTimeout": "30m"}}, {"pods": (POD,), "still_for": 100.0}, 30.0),
        ({"runPolicy": {"stallTimeout": "30m"}}, {"pods": (NO_NODE,), "still_for": 9999.0}, None),
        ({}, {"pods": (IMAGE,), "still_for": 1795.0}, 5.0),
        ({}, {"pods": (NO_NODE,), "still_for": 99999.0}, None),
        ({}, {"complaint": "exceeded quota: q", "still_for": 99999.0}, 30.0),
    ],
)
def test_before_its_time_nothing_is_stopped_and_the_time_is_looked_out_for(sections, observed, again):
    decision = decide(job(**sections), job=JOB, **observed)
    assert decision.actions == ()
    assert "reason" not in (decision.status or {"attempts": [{}]}).get("attempts", [{}])[0]
    assert decision.requeue_after == again


def test_where_pods_report_nowhere_nobody_can_say_that_they_stall():
    raw = job(runPolicy={"stallTimeout": "1m"})
    assert decide(raw, reporting=None, job=JOB, pods=(POD,), still_for=9999.0).requeue_after is None


def test_while_pods_of_a_deleted_job_live_the_attempt_has_not_ended():
    dying = PodState.of(b.running_pod(gone_by="2026-11-21T12:02:00Z"))
    decision = decide(job(stopped("Suspended"), suspend=True), pods=(dying,))
    assert (decision.actions, decision.status) == ((), None)
    assert decision.requeue_after > 0


def test_a_pod_that_should_be_gone_is_named_with_its_node_and_the_way_out():
    lost = PodState.of(b.running_pod("p", gone_by="2026-11-21T11:50:00Z"))
    for raw in (job(stopped("Suspended"), suspend=True), job(RUNNING | {"attempts": [{"number": 0} | ENDED]})):
        decision = decide(raw, pods=(lost,) if raw["spec"].get("suspend") else (), lingering=(lost,))
        for part in ("Pod p", "node1", "kubectl delete pod p --force"):
            assert part in decision.status["message"]


ENDED = {"reason": "TrainerCrashed", "startedAt": "2026-11-21T11:00:00Z", "finishedAt": "2026-11-21T11:30:00Z"}


@pytest.mark.parametrize(
    ("reason", "sections", "phase", "told"),
    [
        ("Suspended", {"suspend": True}, Phase.SUSPENDED, Reason.SUSPENDED),
        ("Suspended", {}, Phase.STARTING, Reason.SUSPENDED),
        ("Cancelled", {"cancel": True}, Phase.CANCELLED, Reason.CANCELLED),
        ("DeadlineExceeded", {}, Phase.FAILED, Reason.DEADLINE_EXCEEDED),
        ("Stalled", {}, Phase.STARTING, Reason.RETRYING),
        ("Stalled", {"runPolicy": {"maxRetries": 0}}, Phase.FAILED, Reason.STALLED),
        ("ImagePullFailed", {}, Phase.FAILED, Reason.IMAGE_PULL_FAILED),
        ("FromTheFuture", {}, Phase.STARTING, Reason.JOB_DELETED),
    ],
)
def test_once_nothing_is_left_of_it_the_attempt_has_ended_for_the_reason_it_was_stopped_for(
    reason, sections, phase, told
):
    raw = job(stopped(reason), **sections)
    assert decide(raw).actions == (Confirm(),)
    decision = decide(raw, confirmed=True)
    assert decision.status["phase"] == phase
    assert [event.reason for event in decision.events] == [told]
    (attempt,) = decision.status["attempts"]
    assert attempt["finishedAt"]


@pytest.mark.parametrize("wish", [{"suspend": True}, {"cancel": True}, {"runPolicy": {"deadline": "1s"}}])
@pytest.mark.parametrize("status", [RUNNING, stopped("Suspended"), stopped("Cancelled")])
def test_a_job_that_is_complete_wins_over_a_stop_that_comes_too_late(wish, status):
    pod = PodState.of(b.ended_pod(0, b.result()))
    decision = decide(job(status, **wish), job=JobState.of(b.job("Complete")), pods=(pod,))
    assert decision.status["phase"] == Phase.SUCCEEDED


@pytest.mark.parametrize(
    ("pod", "phase"),
    [
        (b.ended_pod(0, b.result()), Phase.SUCCEEDED),
        (b.ended_pod(11, b.error("DataInvalid", "line 3")), Phase.FAILED),
        (b.ended_pod(21), Phase.SUSPENDED),
        (b.ended_pod(137), Phase.SUSPENDED),
    ],
)
def test_what_a_pod_came_to_while_its_job_was_deleted_is_not_lost(pod, phase):
    raw = job(stopped("Suspended"), suspend=True)
    assert decide(raw, gone=(PodState.of(pod),), confirmed=True).status["phase"] == phase


@pytest.mark.parametrize(
    ("sections", "phase"),
    [
        ({"suspend": True}, Phase.SUSPENDED),
        ({"cancel": True}, Phase.CANCELLED),
        ({"cancel": True, "suspend": True}, Phase.CANCELLED),
    ],
)
def test_a_job_that_never_began_has_no_job_to_stop(sections, phase):
    decision = decide(b.finetunejob(**sections))
    assert decision.status["phase"] == phase
    assert "attempts" not in decision.status


def test_a_suspended_job_goes_on_in_an_attempt_of_its_own_at_once():
    status = RUNNING | {"phase": "Suspended", "attempts": [{"number": 0} | ENDED | {"reason": "Suspended"}]}
    waiting = decide(job(status, suspend=True), confirmed=True)
    assert waiting.status["message"] == "Suspended; set spec.suspend to false to go on."
    assert decide(job(status)).actions == (Confirm(),)
    (action,) = decide(job(status), confirmed=True).actions
    assert action.manifest["metadata"]["name"] == names.child_name("support-bot", b.UID, 1)


def test_after_a_failure_the_next_attempt_waits_and_then_is_sure_that_nothing_lives():
    status = RUNNING | {"failures": 1, "attempts": [{"number": 0} | ENDED | {"finishedAt": "2026-11-21T11:59:59Z"}]}
    decision = decide(job(status), others=(JobState.of(b.failed_job()),))
    assert decision.actions == ()
    assert 5 < decision.requeue_after < 15
    later = NOW + timedelta(minutes=1)
    assert decide(job(status), later).actions == (Confirm(),)
    assert isinstance(decide(job(status), later, confirmed=True).actions[0], CreateJob)
    living = PodState.of(b.running_pod())
    assert decide(job(status), later, confirmed=True, lingering=(living,)).actions == ()
    assert decide(job(status), later, confirmed=True, others=(JOB,)).actions == (DeleteJob(JOB),)


def test_memory_that_ran_out_lets_half_as_much_through_in_the_next_attempt():
    status = RUNNING | {"attempts": [{"number": 0} | ENDED | {"reason": "OutOfMemory"}]}
    (action,) = decide(job(status), confirmed=True).actions
    written = action.manifest["spec"]["template"]["metadata"]["annotations"][names.ANNOTATION_RUN]
    config = RunConfig.model_validate_json(written)
    assert (config.attempt, config.micro_batch_divisor) == (1, 2)


@pytest.mark.parametrize(("policy", "phase"), [({}, Phase.STARTING), ({"onOutOfMemory": "Fail"}, Phase.FAILED)])
def test_whether_memory_that_ran_out_ends_the_job_is_the_users_to_say(policy, phase):
    pod = PodState.of(b.ended_pod(16, b.error("OutOfMemory", "CUDA out of memory")))
    decision = decide(job(runPolicy=policy), job=JobState.of(b.failed_job()), pods=(pod,))
    assert decision.status["phase"] == phase


@pytest.mark.parametrize("phase", ["Cancelled", "Failed"])
def test_a_job_that_was_left_over_when_two_replicas_crossed_is_deleted(phase):
    raw = job(RUNNING | {"phase": phase, "observedGeneration": 1})
    assert decide(raw, job=JOB).actions == (DeleteJob(JOB),)
    assert decide(raw, job=JobState.of(b.job(owner="somebody"))) == Decision()


def test_after_its_time_a_finished_jobs_jobs_go_and_the_finetunejob_stays():
    done, failed = JobState.of(b.job("Complete", attempt=1)), JobState.of(b.failed_job())
    status = {"phase": "Succeeded", "observedGeneration": 1, "completionTime": "2026-11-21T11:00:00Z"}
    raw = job(status, runPolicy={"ttlAfterFinished": "2h"})
    assert decide(raw, job=done, others=(failed,)) == Decision(requeue_after=3600.0)
    later = NOW + timedelta(hours=1)
    assert decide(raw, later, job=done, others=(failed,)).actions == (DeleteJob(failed, even_if_ended=True),)
    assert decide(raw, later, job=done).actions == (DeleteJob(done, even_if_ended=True),)
    assert decide(raw, later) == Decision()


SHORT = replace(JOB, short=True)
SOON = datetime(2026, 11, 21, 10, 0, 2, tzinfo=UTC)
REFUSED = 'pods "x-1" is forbidden: exceeded quota: q, used: pods=0, limited: pods=0'


def test_a_job_that_makes_no_pod_is_asked_why_once_that_is_seen_or_the_pod_is_overdue():
    assert decide(job(), SOON, job=JOB).requeue_after == 3.0
    assert decide(job(), SOON, job=SHORT).actions == (ReadEvents(),)
    assert decide(job(), job=JOB).actions == (ReadEvents(),)
    decision = decide(job(), job=JOB, complaint=REFUSED)
    assert [event.reason for event in decision.events] == [Reason.QUOTA_EXCEEDED]
    assert "the pod is forbidden: exceeded quota: q, used: pods=0, limited: pods=0" in decision.status["message"]


@pytest.mark.parametrize(("still_for", "again"), [(0.0, 1.0), (10.0, 5.0), (100.0, 30.0)])
def test_an_event_that_is_not_there_yet_is_looked_for_again_and_ever_more_rarely(still_for, again):
    assert decide(job(), SOON, job=SHORT, complaint="", still_for=still_for).requeue_after == again


def test_what_a_quota_says_is_told_at_once_and_new_figures_at_the_pace_of_progress():
    told = job(RUNNING | {"phase": "Starting"})
    told = applied(told, decide(told, SOON, job=SHORT, complaint=""))
    refused = decide(told, SOON, job=SHORT, complaint=REFUSED, written_at=SOON)
    assert refused.status["conditions"][0]["reason"] == Reason.QUOTA_EXCEEDED
    figures = REFUSED.replace("used: pods=0", "used: pods=1")
    again = decide(applied(told, refused), SOON, job=SHORT, complaint=figures, written_at=SOON)
    assert (again.status, again.requeue_after) == (None, Settings().progress_interval)


def test_a_queue_that_takes_its_place_back_makes_the_job_wait_and_not_fail():
    decision = decide(job(), job=JobState.of(b.job(suspend=True)), pods=())
    assert decision.status["phase"] == Phase.QUEUED
    found = {c["type"]: c["status"] for c in decision.status["conditions"]}
    assert (found["QuotaReserved"], found["Stalled"]) == ("False", "False")
    raw = applied(job(), decision)
    again = decide(raw, job=JOB, pods=(POD,))
    assert {c["type"]: c["status"] for c in again.status["conditions"]}["QuotaReserved"] == "True"


@pytest.mark.parametrize("known", ["by the Job", "by the status"])
def test_a_profile_limits_retries_as_it_was_when_the_attempt_began(known):
    used = ProfileUsed(name="p", digest="sha256:d", max_retries=0).to_json()
    pod = PodState.of(b.ended_pod(1, "boom"))
    found = replace(JobState.of(b.failed_job()), profile=used if known == "by the Job" else None)
    attempt = {"number": 0, "job": JOB.name} | ({"profile": json.loads(used)} if known == "by the status" else {})
    decision = decide(job(RUNNING | {"attempts": [attempt]}), job=found, pods=(pod,))
    assert decision.status["phase"] == Phase.FAILED


@pytest.mark.parametrize(
    ("pod", "phase", "reason"),
    [
        (b.ended_pod(0, b.result()), Phase.SUCCEEDED, "Succeeded"),
        (b.ended_pod(11, b.error("DataInvalid", "line 3")), Phase.FAILED, "DataInvalid"),
        (b.ended_pod(137), Phase.STARTING, "JobDeleted"),
    ],
)
def test_what_a_pod_came_to_before_somebody_deleted_its_job_is_not_lost(pod, phase, reason):
    decision = decide(job(), gone=(PodState.of(pod),), confirmed=True)
    assert (decision.status["phase"], decision.status["attempts"][0]["reason"]) == (phase, reason)


def test_a_pod_that_fails_as_it_is_stopped_is_no_failure():
    pod = PodState.of(b.ended_pod(137))
    raw = job(stopped("Suspended"), suspend=True)
    decision = decide(raw, job=JobState.of(b.failed_job()), pods=(pod,), confirmed=True)
    assert decision.status["phase"] == Phase.SUSPENDED
    assert "failures" not in decision.status
