"""One job's share of what is known."""

from datetime import UTC, datetime

import pytest

from finetune_api.run import Report
from finetune_operator.observed import JobState, PodState, ReceivedReport
from finetune_operator.world import World
from tests import builders as b

KEY = (b.NAMESPACE, "support-bot")
REPORT = Report.model_validate(b.report()).trainer_status


def world():
    changes = []
    return World(changes.append), changes


def test_only_a_known_training_pod_may_report_and_what_it_said_goes_with_it():
    w, changes = world()
    w.finetunejobs.event("ADDED", b.finetunejob())
    report = ReceivedReport("uid-of-p", REPORT, datetime.now(UTC))
    assert not w.reported(report)
    w.pods.put(PodState.of(b.running_pod("p")))
    changes.clear()
    assert w.reported(report)
    assert changes == [KEY]
    assert w.observe(b.finetunejob(), 0, None).report == report
    w.pods.put(PodState.of(b.running_pod("q", created="2026-11-21T11:00:00Z")))
    assert w.observe(b.finetunejob(), 0, None).report is None


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (None, b.report(1, phase="Running"), "changed"),
        (b.report(1, phase="Running"), b.report(2, phase="Running"), "progressed"),
        (b.report(1), b.report(2, checkpoint="00000001-01234567"), "progressed"),
        (b.report(99, phase="Evaluating"), b.report(99, phase="Publishing"), "changed"),
        (b.report(99), b.report(99, phase="Publishing"), "changed"),
    ],
)
def test_a_report_that_only_tells_of_progress_is_told_apart_from_one_of_another_phase(before, after, told):
    heard: dict[str, list] = {"changed": [], "progressed": []}
    w = World(heard["changed"].append, progressed=heard["progressed"].append)
    w.finetunejobs.event("ADDED", b.finetunejob())
    w.pods.put(PodState.of(b.running_pod("p")))
    if before:
        assert w.reported(received(before))
    heard["changed"].clear()
    assert w.reported(received(after))
    assert {name: keys for name, keys in heard.items() if keys} == {told: [KEY]}


@pytest.mark.parametrize(
    ("pod", "after", "still_for"),
    [
        ("p", b.report(40, current_step="7"), 20.0),
        ("p", b.report(40, current_step="8"), 5.0),
        ("p", b.report(41, current_step="7"), 5.0),
        ("q", b.report(41, current_step="8"), 20.0),
    ],
)
def test_numbers_that_change_are_progress_of_the_pod_that_leads(pod, after, still_for):
    now = [0.0]
    w = World(lambda key: None, clock=lambda: now[0])
    w.finetunejobs.event("ADDED", b.finetunejob())
    for index, name in enumerate("pq"):
        w.pods.put(PodState.of(b.running_pod(name, index=index)))
        assert w.reported(received(b.report(40, current_step="7"), name))
    w.observe(b.finetunejob(), 0, None)
    now[0] = 15.0
    assert w.reported(received(after, pod))
    now[0] = 20.0
    assert w.observe(b.finetunejob(), 0, None).still_for == still_for


def received(body, pod="p") -> ReceivedReport:
    return ReceivedReport(f"uid-of-{pod}", Report.model_validate(body).trainer_status, datetime.now(UTC))


def test_of_several_pods_the_first_reports_whichever_was_made_last():
    w, _ = world()
    w.finetunejobs.event("ADDED", b.finetunejob())
    w.pods.put(PodState.of(b.running_pod("a", index=0)))
    w.pods.put(PodState.of(b.running_pod("b", index=1, created="2026-11-21T11:00:00Z")))
    for name in ("a", "b"):
        assert w.reported(ReceivedReport(f"uid-of-{name}", REPORT, datetime.now(UTC)))
    report = w.observe(b.finetunejob(), 0, None).report
    assert report is not None
    assert report.pod_uid == "uid-of-a"


def test_a_job_sees_the_pods_of_its_present_attempt_and_of_others_those_that_live():
    w, _ = world()
    w.finetunejobs.event("ADDED", b.finetunejob())
    for raw in (b.ended_pod(1, name="a"), b.running_pod("b"), b.running_pod("c", attempt=1)):
        w.pods.put(PodState.of(raw))
    for attempt in (0, 1):
        w.jobs.put(JobState.of(b.job(attempt=attempt)))
    observed = w.observe(b.finetunejob(), 1, None)
    assert [pod.name for pod in observed.pods] == ["c"]
    assert [pod.name for pod in observed.lingering] == ["b"]
    assert observed.job.name == b.job(attempt=1)["metadata"]["name"]
    assert [job.name for job in observed.others] == [b.job(attempt=0)["metadata"]["name"]]


def drop(w, name):
    w.pods.event("DELETED", w.pods.get(f"uid-of-{name}"))


def test_what_a_pod_said_last_is_remembered_until_the_next_attempt_and_no_longer():
    w, _ = world()
    w.finetunejobs.event("ADDED", b.finetunejob())
    w.pods.put(PodState.of(b.ended_pod(11, "line 3", name="a")))
    drop(w, "a")
    assert [pod.ended_message for pod in w.observe(b.finetunejob(), 0, None).gone] == ["line 3"]
    assert w.observe(b.finetunejob(), 1, None).gone == ()
    assert w.observe(b.finetunejob(), 0, None).gone == ()


def test_of_a_job_that_has_finished_or_is_gone_no_pod_is_remembered():
    w, _ = world()
    w.finetunejobs.event("ADDED", b.finetunejob())
    for name in ("a", "b"):
        w.pods.put(PodState.of(b.ended_pod(0, name=name)))
    drop(w, "a")
    w.finetunejobs.event("MODIFIED", b.finetunejob(version="2", status={"phase": "Succeeded"}))
    drop(w, "b")
    assert w._gone == {}
    w.finetunejobs.drop(b.finetunejob())
    w.pods.put(PodState.of(b.ended_pod(0, name="c")))
    drop(w, "c")
    assert w._gone == {}


def test_children_of_nobody_we_know_are_no_news():
    w, changes = world()
    w.jobs.event("ADDED", JobState.of(b.job()))
    assert changes == []
    w.finetunejobs.event("ADDED", b.finetunejob())
    w.jobs.event("DELETED", JobState.of(b.job()))
    assert changes == [KEY, KEY]
