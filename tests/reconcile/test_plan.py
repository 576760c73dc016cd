"""One situation, one decision."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from finetune_api import names
from finetune_api.conditions import Phase, Reason
from finetune_api.run import Report
from finetune_operator.attempts import Attempts
from finetune_operator.finetunejobs import source_keys
from finetune_operator.observed import JobState, Observed, PodState, ReceivedReport
from finetune_operator.outcome import Confirm, CreateJob
from finetune_operator.plan import Decision, plan
from finetune_operator.render import Reporting
from finetune_operator.settings import Settings
from finetune_operator.world import sorted_pods
from tests import builders as b
from tests.reconcile import recorded

NOW = datetime(2026, 11, 21, 10, 0, 8, tzinfo=UTC)
REPORTING = Reporting("https://operator.ft.svc/v1/reports", "PEM")


def decide(raw, now=NOW, settings=None, **observed) -> Decision:
    return plan(raw, Observed(**observed), now, settings or Settings(), REPORTING)


def seen(*pods, job=None, **more):
    """Observed, from raw objects."""
    found = {"job": JobState.of(job or b.job()), "pods": sorted_pods([PodState.of(pod) for pod in pods])}
    found["complaint"] = ""  # its Events were read, and there is none
    return found | more


OLD = NOW + timedelta(seconds=30)
"""A moment at which a Job should have made its pod."""


def applied(raw, decision):
    """The FineTuneJob after the decision's status was written."""
    status = dict(raw.get("status") or {})
    for key, value in (decision.status or {}).items():
        if value is None:
            status.pop(key, None)
        elif isinstance(value, dict) and isinstance(status.get(key), dict):
            status[key] = {k: v for k, v in (status[key] | value).items() if v is not None}
        else:
            status[key] = value
    return raw | {"status": status}


EVICTED = b.ended_pod(143, conditions=(b.condition("DisruptionTarget", "EvictionByEvictionAPI", "evicting"),))


def started(raw=None):
    raw = raw or b.finetunejob()
    return applied(raw, decide(raw, **seen()))


def under_way(raw=None):
    raw = started(raw)
    return applied(raw, decide(raw, **seen(b.running_pod())))


def test_a_new_job_gets_its_job():
    (action,) = decide(b.finetunejob()).actions
    assert isinstance(action, CreateJob)
    assert action.manifest["metadata"]["name"] == names.child_name("support-bot", b.UID, 0)


def test_nothing_is_written_before_the_job_exists():
    assert decide(b.finetunejob()).status is None


@pytest.mark.parametrize(
    ("observed", "phase", "reason", "said"),
    [
        (seen(), Phase.STARTING, Reason.JOB_CREATED, "is created"),
        (seen(b.pod()), Phase.STARTING, Reason.JOB_CREATED, "is created"),
        (seen(b.pod(created="2026-11-21T09:59:00Z")), Phase.STARTING, Reason.POD_STARTING, "on node node1"),
        (seen(b.running_pod()), Phase.RUNNING, Reason.TRAINING, "on node node1"),
        (seen(b.waiting_pod("ImagePullBackOff", "no such image")), Phase.STARTING, Reason.IMAGE_PULL_FAILED, "no such"),
        (
            seen(b.pod(conditions=(b.condition("PodScheduled", "Unschedulable", "0/1 nodes", "False"),))),
            Phase.STARTING,
            Reason.UNSCHEDULABLE,
            "0/1 nodes",
        ),
        (seen(b.ended_pod(0, b.result()), job=b.job("Complete")), Phase.SUCCEEDED, Reason.SUCCEEDED, "s3://team-a/ada"),
        (
            seen(b.ended_pod(11, b.error("DataInvalid", "line 3")), job=b.failed_job()),
            Phase.FAILED,
            Reason.DATA_INVALID,
            "line 3",
        ),
        (
            seen(b.ended_pod(0, b.error("DataInvalid", "line 3")), job=b.job("Complete")),
            Phase.FAILED,
            Reason.DATA_INVALID,
            "line 3",
        ),
        (
            seen(b.ended_pod(0, "no JSON"), job=b.job("Complete"), confirmed=True),
            Phase.FAILED,
            Reason.RESULT_MISSING,
            "no JSON",
        ),
        (seen(job=b.job("Complete"), confirmed=True), Phase.STARTING, Reason.RETRYING, "pod is gone"),
        (
            seen(job=b.job("Complete"), gone=(PodState.of(b.ended_pod(0, b.result())),)),
            Phase.SUCCEEDED,
            Reason.SUCCEEDED,
            "s3://team-a/ada",
        ),
        (seen(b.ended_pod(20), job=b.failed_job()), Phase.STARTING, Reason.RETRYING, "StorageUnavailable"),
        (seen(b.ended_pod(1), job=b.failed_job()), Phase.STARTING, Reason.RETRYING, "exit code 1"),
        (seen(b.ended_pod(16), job=b.failed_job()), Phase.STARTING, Reason.RETRYING, "with half as much"),
        (seen(EVICTED, job=b.failed_job()), Phase.STARTING, Reason.DISRUPTED, "taken away"),
        (seen(job=b.failed_job(), gone=(PodState.of(EVICTED),)), Phase.STARTING, Reason.DISRUPTED, "taken away"),
        (seen(job=b.failed_job(), confirmed=True), Phase.STARTING, Reason.DISRUPTED, "left no pod"),
        (seen(job=b.job(suspend=True)), Phase.QUEUED, Reason.QUEUED, "waits for its turn"),
        (seen(job=b.job(owner="somebody")), Phase.FAILED, Reason.NAME_CONFLICT, "left untouched"),
        ({"taken": "Service a/b"}, Phase.FAILED, Reason.NAME_CONFLICT, "Service a/b exists"),
        (
            {"refusal": "creating Job a/b was refused: denied by policy p"},
            Phase.FAILED,
            Reason.JOB_REFUSED,
            "policy p",
        ),
        (
            {"refusal": "creating Job a/b was refused: exceeded quota: q"},
            Phase.PENDING,
            Reason.QUOTA_EXCEEDED,
            "quota: q",
        ),
    ],
)
def test_what_is_seen_decides_where_the_job_is(observed, phase, reason, said):
    decision = decide(b.finetunejob(), **observed)
    assert decision.actions == ()
    assert decision.status is not None
    assert decision.status["phase"] == phase
    assert said in decision.status["message"]
    (event,) = decision.events
    assert event.reason == reason


@pytest.mark.parametrize(
    "observed",
    [
        seen(job=b.job("Complete")),
        seen(b.ended_pod(0, "not readable"), job=b.job("Complete")),
        seen(job=b.failed_job()),
    ],
)
def test_a_verdict_that_cannot_be_taken_back_is_confirmed_first(observed):
    assert decide(b.finetunejob(), **observed).actions == (Confirm(),)


@pytest.mark.parametrize(
    "pod", [b.ended_pod(11, b.error("DataInvalid", "line 3")), b.ended_pod(0, b.result()), b.ended_pod(137)]
)
def test_a_pod_that_ended_is_no_news_until_its_job_says_what_comes_of_it(pod):
    assert decide(under_way(), **seen(pod)) == Decision()


@pytest.mark.parametrize(
    "pod",
    [
        b.ended_pod(137),
        b.ended_pod(20),
        b.ended_pod(20, b.error("StorageUnavailable", "S3 is away. Check the network.")),
        EVICTED,
    ],
)
def test_while_another_attempt_follows_nobody_is_told_to_apply_it_anew(pod):
    decision = decide(under_way(), **seen(pod, job=b.failed_job()))
    assert decision.status is not None
    assert "It begins anew in attempt 1" in decision.status["message"]
    assert decision.requeue_after == 0.0, "its own write is no event for the operator"
    assert "Next step" not in decision.status["message"]
    assert "apply" not in decision.status["message"]


def test_a_job_that_vanished_is_looked_for_and_then_told():
    assert decide(started()).actions == (Confirm(),)
    decision = decide(under_way(), confirmed=True)
    assert decision.status is not None
    assert decision.status["phase"] == Phase.STARTING
    assert "was deleted before it had finished" in decision.status["message"]
    assert "failures" not in decision.status
    assert [event.reason for event in decision.events] == [Reason.JOB_DELETED]


@pytest.mark.parametrize("phase", [*(phase for phase in Phase if phase.terminal), "FromTheFuture"])
@pytest.mark.parametrize("observed", [{}, seen(b.ended_pod(1), job=b.job("Complete")), {"confirmed": True}])
def test_a_final_phase_is_never_left(phase, observed):
    raw = b.finetunejob(status={"phase": phase, "observedGeneration": 1})
    assert decide(raw, **observed) == Decision()


def test_a_finished_job_whose_mutable_fields_changed_is_observed_and_nothing_else():
    raw = b.finetunejob(status={"phase": "Succeeded", "observedGeneration": 1}, generation=2)
    assert decide(raw).status == {"observedGeneration": 2, "conditions": []}


@pytest.mark.parametrize("observed", [{}, seen(), {"confirmed": True}, {"refusal": "exceeded quota: q"}])
def test_a_job_that_is_being_deleted_is_left_alone(observed):
    assert decide(b.finetunejob(deleting=True), **observed) == Decision()


def test_an_invalid_spec_fails_with_the_field_the_value_and_the_mend():
    raw = b.finetunejob(training={"learningRate": -1})
    decision = decide(raw)
    assert decision.status is not None
    assert decision.status["phase"] == Phase.FAILED
    for part in ("spec.training.learningRate", "-1", "Next step"):
        assert part in decision.status["message"]


def test_a_spec_that_only_another_version_can_read_does_not_stop_a_job_that_runs():
    raw = b.finetunejob(unheardOf={"a": 1})
    decision = decide(raw, **seen(b.running_pod()))
    assert decision.status is not None
    assert decision.status["phase"] == Phase.RUNNING


SOURCE = {"model": {"uri": "job://base"}}


def source(status, name="base", **sections):
    return b.finetunejob(name, uid="other", status=status, **sections)


def known(*found):
    """As they are observed: by name, as far as they exist."""
    return {raw["metadata"]["name"]: raw for raw in found if raw is not None}


@pytest.mark.parametrize(
    ("found", "reason", "said"),
    [
        (None, Reason.MODEL_JOB_NOT_FOUND, "no FineTuneJob base in namespace team-a"),
        (source(None), Reason.MODEL_JOB_NOT_FINISHED, "is Pending"),
        (source({"phase": "Running"}), Reason.MODEL_JOB_NOT_FINISHED, "is Running"),
        (source({"phase": "Failed", "message": "no bucket"}), Reason.MODEL_JOB_FAILED, "no bucket"),
        (source({"phase": "Cancelled"}), Reason.MODEL_JOB_FAILED, "is Cancelled"),
        (
            source({"phase": "Succeeded", "result": {"adapterURI": "s3://b/a/"}}),
            Reason.MODEL_JOB_NOT_A_MODEL,
            "s3://b/a/",
        ),
        (source({"phase": "Succeeded"}), Reason.MODEL_JOB_NOT_A_MODEL, "no model"),
    ],
)
def test_a_model_job_that_cannot_be_used_is_confirmed_and_told(found, reason, said):
    raw = b.finetunejob(**SOURCE)
    assert decide(raw, sources=known(found)).actions == (Confirm(),)
    decision = decide(raw, sources=known(found), confirmed=True)
    assert decision.status is not None
    assert [event.reason for event in decision.events] == [reason]
    for part in ("spec.model.uri: job://base", said, "Next step"):
        assert part in decision.status["message"]


def test_a_job_that_names_itself_is_told_so():
    raw = b.finetunejob("base", **SOURCE)
    decision = decide(raw, sources=known(raw), confirmed=True)
    assert decision.status is not None
    assert "FineTuneJob base cannot start from its own result" in decision.status["message"]


@pytest.mark.parametrize(
    "uri", ["job://../../default/finetunejobs/base", "job://a/b", "job://a?x=y", "job://%2e%2e", "job://..", 3, None]
)
def test_no_text_but_a_name_is_looked_up(uri):
    """It would be looked up with the operator's rights, in whatever namespace the text leads to."""
    assert source_keys(b.finetunejob(model={"uri": uri})) == []
    assert source_keys(b.finetunejob(model={"combine": {"adapters": [{"uri": uri}, uri]}})) == []


def test_a_model_job_that_succeeded_gives_its_model_and_digest():
    found = source({"phase": "Succeeded", "result": {"modelURI": "s3://b/m/", "digest": "sha256:d"}})
    (action,) = decide(b.finetunejob(**SOURCE), sources=known(found)).actions
    run = action.manifest["spec"]["template"]["metadata"]["annotations"][names.ANNOTATION_RUN]
    assert json.loads(run)["model"] == {
        "uri": "s3://b/m/",
        "origin": "job://base",
        "digest": "sha256:d",
        "stack": [],
        "adapters": [],
    }


def reported(percent, at=NOW, **metrics):
    """What the pod reported."""
    status = Report.model_validate(b.report(percent, **metrics)).trainer_status
    return ReceivedReport("uid-of-support-bot-0-abcde", status, at)


@pytest.mark.parametrize(
    ("metric", "phase"),
    [("Evaluating", "Evaluating"), ("Publishing", "Publishing"), ("Running", "Running"), ("Succeeded", "Running")],
)
def test_a_report_says_the_phase_but_never_the_end(metric, phase):
    decision = decide(b.finetunejob(), **seen(b.running_pod(), report=reported(50, phase=metric)))
    assert decision.status is not None
    assert decision.status["phase"] == phase


def test_progress_waits_until_the_interval_is_over():
    raw, pod = under_way(), b.running_pod()
    at = NOW - timedelta(seconds=4)
    early = decide(raw, **seen(pod, report=reported(50), written_at=at))
    assert early == Decision(requeue_after=6.0)
    late = decide(raw, now=NOW + timedelta(seconds=6), **seen(pod, report=reported(50), written_at=at))
    assert late.status is not None
    assert late.status["progress"]["percent"] == 50
    assert late.events == ()


def test_a_clock_that_was_turned_back_holds_up_no_progress():
    observed = seen(b.running_pod(), report=reported(50), written_at=NOW + timedelta(hours=1))
    assert decide(under_way(), **observed).status["progress"]["percent"] == 50


def test_the_same_progress_is_not_written_twice():
    observed = seen(b.running_pod(), report=reported(50))
    raw = applied(under_way(), decide(under_way(), **observed))
    later = seen(b.running_pod(), report=reported(50, at=NOW + timedelta(seconds=60)))
    assert decide(raw, now=NOW + timedelta(seconds=61), **later) == Decision()


def test_the_end_does_not_wait_for_the_interval():
    observed = seen(b.ended_pod(0, b.result()), job=b.job("Complete"), written_at=NOW)
    assert decide(under_way(), **observed).status is not None


def test_after_a_restart_without_a_report_the_phase_stays():
    raw = applied(under_way(), decide(under_way(), **seen(b.running_pod(), report=reported(99, phase="Publishing"))))
    assert decide(raw, **seen(b.running_pod())).status is None


def test_a_report_of_a_pod_that_is_gone_counts_no_more():
    raw = under_way()
    newer = b.running_pod("z", created="2026-11-21T10:00:03Z")
    decision = decide(raw, **seen(b.ended_pod(1), newer, report=reported(50)))
    assert decision.status is not None
    assert "progress" not in decision.status


def owned(job):
    """A recorded Job, as if a FineTuneJob controlled it."""
    owners = b.job(uid="recorded")["metadata"]["ownerReferences"]
    return job | {"metadata": job["metadata"] | {"ownerReferences": owners}}


@pytest.mark.parametrize(
    "name",
    [
        "succeeded",
        "user-error",
        "oom-killed",
        "retried-then-failed",
        "evicted",
        "image-missing",
        "secret-missing",
        "unschedulable",
        "suspended",
        "deleted-by-hand",
        "bad-command",
        "two-nodes",
        "one-of-two-fails",
    ],
)
def test_a_recorded_life_is_told_in_few_writes_and_reaches_a_fixpoint(name):
    """Every event of a real Job and its pods, one after the other: never more writes than things that happened."""
    raw, job, pods = b.finetunejob(uid="recorded", resources={"nodes": 2 if "two" in name else 1}), None, {}
    told, now = [], datetime.fromisoformat("2026-11-21T04:05:30Z")
    for obj in recorded.history(name):
        if obj["kind"] == "Job":
            job = JobState.of(owned(obj))
        else:
            pods[obj["metadata"]["name"]] = PodState.of(obj)
        if job is None:
            continue
        if Attempts.of(raw.get("status") or {}).number:
            break
        observed = Observed(job=job, pods=sorted_pods(list(pods.values())), confirmed=True, complaint="")
        decision = plan(raw, observed, now, Settings(progress_interval=3600), None)
        raw = applied(raw, decision)
        if not Attempts.of(raw.get("status") or {}).number:
            assert plan(raw, observed, now, Settings(progress_interval=3600), None).status is None
        told += [event.reason for event in decision.events]
    assert (
        told
        == {
            "succeeded": ["JobCreated", "ResultMissing"],
            "user-error": ["JobCreated", "DataInvalid"],
            "oom-killed": ["JobCreated", "Training", "Retrying"],
            "retried-then-failed": ["JobCreated", "Training", "JobCreated", "Retrying"],
            "evicted": ["JobCreated", "Training", "JobCreated", "Training"],
            "image-missing": ["JobCreated", "ImagePullFailed"],
            "secret-missing": ["JobCreated", "ContainerConfigError"],
            "unschedulable": ["JobCreated", "Unschedulable"],
            "suspended": ["Queued", "JobCreated", "Training", "Queued"],
            "deleted-by-hand": ["JobCreated", "Training", "JobCreated", "Training"],
            "bad-command": ["JobCreated", "Retrying"],
            "two-nodes": ["JobCreated", "Training", "ResultMissing"],
            "one-of-two-fails": ["JobCreated", "Training", "DataInvalid"],
        }[name]
    )
