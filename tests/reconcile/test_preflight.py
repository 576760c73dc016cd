"""The check before the training: an attempt without a GPU, once."""

from datetime import UTC, datetime

import pytest

from finetune_api import names
from finetune_api.conditions import Phase, Reason
from finetune_operator.observed import JobState, Observed, PodState
from finetune_operator.outcome import Confirm, CreateJob, DeleteJob
from finetune_operator.plan import Decision, plan
from finetune_operator.settings import Settings
from tests import builders as b
from tests.reconcile.fake import merged

NOW = datetime(2026, 11, 21, 10, 5, tzinfo=UTC)
LATER = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
CHECK = JobState.of(b.job(check=True))
ENDED_WELL = JobState.of(b.job("Complete", check=True))
FAILED = JobState.of(b.failed_job(check=True))
VALIDATING = {
    "phase": "Validating",
    "startTime": "2026-11-21T10:00:00Z",
    "attempts": [{"number": 0, "job": CHECK.name, "check": True, "startedAt": b.CREATED}],
}


def job(status=None, **sections):
    return b.finetunejob(status=status, **({"preflight": "Always"} | sections))


def decide(raw, now=NOW, **observed) -> Decision:
    return plan(raw, Observed(**observed), now, Settings(), None)


def created(raw, **observed):
    """The Job that is created, long after everything that was."""
    (action,) = decide(raw, LATER, confirmed=True, **observed).actions
    assert isinstance(action, CreateJob)
    return action.manifest


def validated(status):
    """Status and reason of the condition."""
    (found,) = [condition for condition in status["conditions"] if condition["type"] == "Validated"]
    return found["status"], found["reason"]


def checks(manifest) -> bool:
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    asked = "--check" in container.get("command", [])
    for labels in (manifest["metadata"]["labels"], manifest["spec"]["template"]["metadata"]["labels"]):
        assert (labels.get(names.LABEL_CHECK) == "true") is asked
    return asked


def applied(raw, decision):
    return raw | {"status": merged(raw.get("status") or {}, decision.status)}


@pytest.mark.parametrize(
    ("sections", "wanted"),
    [
        ({"preflight": "Auto"}, True),
        ({"preflight": "Auto", "resources": {"gpusPerNode": 0}}, False),
        ({"preflight": "Always", "resources": {"gpusPerNode": 0}}, True),
        ({"preflight": "Never"}, False),
        ({"preflight": "Auto", "trainer": {"image": "registry.example.com/t:1"}}, False),
    ],
)
def test_a_job_is_checked_first_where_gpus_are_asked_for_or_it_wants_that(sections, wanted):
    allowed = {"allowed": {"images": ["registry.example.com/"]}}
    profile = {"metadata": {"name": "default"}, "spec": allowed}
    assert checks(created(job(**sections), profile=profile)) is wanted


@pytest.mark.parametrize(
    ("status", "wanted"),
    [
        ({}, True),
        ({"check": {"records": 1}}, False),
        ({"attempts": [{"number": 0, "finishedAt": b.CREATED, "check": True, "reason": "Disrupted"}]}, True),
        ({"attempts": [{"number": 0, "finishedAt": b.CREATED, "reason": "Disrupted"}]}, False),
    ],
)
def test_it_is_checked_once_and_not_after_something_was_trained(status, wanted):
    assert checks(created(job(status={"phase": "Starting"} | status))) is wanted


def test_the_pod_that_checks_has_no_gpu_and_waits_in_no_queue():
    kind = {"name": "l4", "nodeSelector": {"gpu": "l4"}}
    spec = {"gpus": [kind], "nodeSelector": {"pool": "ml"}, "tolerations": [{"operator": "Exists"}]}
    raw = job(
        resources={"gpusPerNode": 8, "cpu": 64, "memory": "200Gi"},
        scheduling={"queue": "gpus", "priorityClass": "high"},
        storage={"credentials": "s3"},
    )
    manifest = created(raw, profile={"metadata": {"name": "default"}, "spec": spec})
    pod = manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"] == {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "200Gi"}}
    assert (pod["nodeSelector"], pod["tolerations"]) == ({"pool": "ml"}, [{"operator": "Exists"}])
    assert "suspend" not in manifest["spec"]
    assert names.LABEL_QUEUE not in manifest["metadata"]["labels"]
    training = created(raw | {"status": {"phase": "Starting", "check": {"records": 1}}})["spec"]["template"]["spec"]
    for same in ("securityContext", "automountServiceAccountToken", "priorityClassName"):
        assert pod[same] == training[same]
    for same in ("env", "image", "securityContext", "terminationMessagePath"):
        assert container[same] == training["containers"][0][same]


def test_less_is_asked_for_where_the_job_asks_for_less():
    raw = job(resources={"gpusPerNode": 0, "cpu": "100m", "memory": "1Gi"})
    (container,) = created(raw)["spec"]["template"]["spec"]["containers"]
    assert container["resources"] == {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"memory": "1Gi"}}


def test_it_is_validating_until_it_is_checked():
    raw = job()
    raw = applied(raw, decide(raw, job=CHECK, complaint=""))
    assert raw["status"]["phase"] == Phase.VALIDATING
    assert raw["status"]["attempts"] == [{"number": 0, "check": True, "job": CHECK.name, "startedAt": b.CREATED}]
    running = applied(raw, decide(raw, job=CHECK, pods=(PodState.of(b.running_pod()),)))["status"]
    assert (running["phase"], running["conditions"][0]["reason"]) == ("Validating", "Checking")


@pytest.mark.parametrize(("duplicates", "cut"), [(0, 0), (3, 0), (0, 40), (3, 40), (3, None)])
def test_once_it_is_checked_the_training_begins(duplicates, cut):
    raw = job(status=VALIDATING)
    pods = (PodState.of(b.ended_pod(0, b.checked(duplicates=duplicates, cut=cut))),)
    decision = decide(raw, job=ENDED_WELL, pods=pods)
    assert decision.status["phase"] == Phase.STARTING
    assert decision.requeue_after == 0.0
    assert decision.status["check"]["tokens"] == 5678
    assert ("3 of the 10 records to measure with are also trained on" in decision.status["message"]) is bool(duplicates)
    assert ("40 of the 100 records lose what they have beyond" in decision.status["message"]) is bool(cut)
    (attempt,) = decision.status["attempts"]
    assert (attempt["reason"], attempt["finishedAt"]) == ("Checked", "2026-11-21T10:05:00Z")
    assert decision.status.get("failures") is None
    assert decision.status["usage"]["gpuSeconds"] == 0
    raw = applied(raw, decision)
    assert validated(raw["status"]) == ("True", "Checked")
    assert decide(raw, others=(ENDED_WELL,)).actions == (Confirm(),)
    manifest = created(raw, others=(ENDED_WELL,))
    assert not checks(manifest)
    assert manifest["metadata"]["name"] == names.child_name("support-bot", b.UID, 1)


def test_that_it_was_checked_stays_said_while_it_trains():
    raw = job(status=VALIDATING)
    raw = applied(raw, decide(raw, job=ENDED_WELL, pods=(PodState.of(b.ended_pod(0, b.checked())),)))
    training = JobState.of(b.job(attempt=1))
    pod = PodState.of(b.running_pod(attempt=1))
    raw = applied(raw, decide(raw, job=training, pods=(pod,), others=(ENDED_WELL,)))
    assert raw["status"]["phase"] == Phase.RUNNING
    assert validated(raw["status"]) == ("True", "Checked")
    assert raw["status"]["check"]["records"] == 90


def test_what_the_check_refuses_ends_the_job_before_any_gpu():
    pods = (PodState.of(b.ended_pod(11, b.error("DataInvalid", "train.jsonl line 3 is no JSON."))),)
    decision = decide(job(status=VALIDATING), job=FAILED, pods=pods)
    assert decision.status["phase"] == Phase.FAILED
    assert "train.jsonl line 3" in decision.status["message"]
    assert "check" not in decision.status
    assert validated(decision.status) == ("False", "DataInvalid")


@pytest.mark.parametrize(
    ("pod", "reason", "failures"),
    [
        (b.ended_pod(20), Reason.RETRYING, 1),
        (b.ended_pod(143, conditions=(b.condition("DisruptionTarget", "Evicted", "away"),)), Reason.DISRUPTED, None),
    ],
)
def test_what_another_try_mends_is_checked_again_by_the_rules_of_attempts(pod, reason, failures):
    raw = job(status=VALIDATING)
    raw = applied(raw, decide(raw, job=FAILED, pods=(PodState.of(pod),)))
    assert (raw["status"]["phase"], raw["status"]["conditions"][0]["reason"]) == ("Validating", reason)
    assert raw["status"].get("failures") == failures
    assert checks(created(raw, others=(FAILED,)))


def test_memory_that_runs_out_in_a_check_is_not_tried_with_less():
    pods = (PodState.of(b.ended_pod(137, reason="OOMKilled")),)
    assert decide(job(status=VALIDATING), job=FAILED, pods=pods).status["phase"] == Phase.FAILED


def test_a_check_that_left_no_finding_is_no_passed_one():
    pods = (PodState.of(b.ended_pod(0, b.result())),)
    decision = decide(job(status=VALIDATING), job=ENDED_WELL, pods=pods, confirmed=True)
    assert decision.status["phase"] == Phase.FAILED


@pytest.mark.parametrize("wish", [{"suspend": True}, {"cancel": True}, {"runPolicy": {"deadline": "1m"}}])
def test_it_is_stopped_like_any_attempt(wish):
    raw, pods = job(status=VALIDATING, **wish), (PodState.of(b.running_pod()),)
    decision = decide(raw, job=CHECK, pods=pods)
    assert decision.status["attempts"][0]["reason"]
    raw = applied(raw, decision)
    assert decide(raw, job=CHECK, pods=pods).actions == (DeleteJob(CHECK),)
    ended = applied(raw, decide(raw, confirmed=True))
    expected = {"suspend": "Suspended", "cancel": "Cancelled", "runPolicy": "Failed"}[next(iter(wish))]
    assert ended["status"]["phase"] == expected
    if expected == "Suspended":
        ended["spec"] |= {"suspend": False}
        assert checks(created(ended))


def test_a_job_that_an_older_version_began_is_not_taken_for_a_check():
    old = JobState.of(b.job("Complete"))
    status = {"phase": "Running", "attempts": [{"number": 0, "job": old.name}]}
    raw = job(status=status, preflight="Auto")
    decision = decide(raw, job=old, pods=(PodState.of(b.ended_pod(0, b.result())),))
    assert decision.status["phase"] == Phase.SUCCEEDED
