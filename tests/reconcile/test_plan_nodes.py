"""Decisions about a FineTuneJob on two nodes."""

import copy
from datetime import timedelta

import pytest

from finetune_api.conditions import Phase, Reason
from finetune_operator.observed import PodState
from finetune_operator.outcome import ReadEvents
from finetune_operator.plan import Decision
from tests import builders as b
from tests.reconcile.test_plan import NOW, OLD, applied, decide, reported, seen

TWO = b.finetunejob(resources={"nodes": 2})
FIRST, SECOND = {"name": "support-bot-0-abcde", "index": 0}, {"name": "support-bot-1-fghij", "index": 1}
BOTH = (b.running_pod(**FIRST), b.running_pod(**SECOND))
REFUSED = 'Error creating: pods "x" is forbidden: exceeded quota: q'


@pytest.mark.parametrize(
    ("pods", "phase", "reason", "said"),
    [
        (BOTH, Phase.RUNNING, Reason.TRAINING, "support-bot-0-abcde is training on node node1; 2 of 2 pods are"),
        (BOTH[::-1], Phase.RUNNING, Reason.TRAINING, "support-bot-0-abcde is training"),
        ((BOTH[0], b.ended_pod(0, **SECOND)), Phase.RUNNING, Reason.TRAINING, "2 of 2"),
        ((BOTH[0], b.pod(**SECOND)), Phase.STARTING, Reason.POD_STARTING, "support-bot-1-fghij is starting on"),
        ((b.pod(**FIRST), BOTH[1]), Phase.STARTING, Reason.POD_STARTING, "; 1 of 2 pods are running"),
        (
            (BOTH[0], b.waiting_pod("ImagePullBackOff", "no such image", **SECOND)),
            Phase.STARTING,
            Reason.IMAGE_PULL_FAILED,
            "pod support-bot-1-fghij does not start",
        ),
        (
            (BOTH[0], b.pod(conditions=(b.condition("PodScheduled", "Unschedulable", "0/1", "False"),), **SECOND)),
            Phase.STARTING,
            Reason.UNSCHEDULABLE,
            "pod support-bot-1-fghij finds no node",
        ),
    ],
)
def test_it_runs_once_all_of_its_pods_do(pods, phase, reason, said):
    decision = decide(TWO, now=OLD, **seen(*pods))
    assert decision.status is not None
    assert decision.status["phase"] == phase
    assert said in decision.status["message"]
    assert [event.reason for event in decision.events] == [reason]


def test_a_pod_that_a_quota_has_no_room_for_is_told_though_another_one_runs():
    assert decide(TWO, now=OLD, **seen(BOTH[0], complaint=None)).actions == (ReadEvents(),)
    decision = decide(TWO, now=OLD, **seen(BOTH[0], complaint=REFUSED))
    assert decision.status is not None
    assert [event.reason for event in decision.events] == [Reason.QUOTA_EXCEEDED]


def under_way():
    return applied(TWO, decide(TWO, now=OLD, **seen(*BOTH)))


@pytest.mark.parametrize(
    "pods",
    [
        (b.ended_pod(0, b.result(), **FIRST), BOTH[1]),
        (BOTH[0], b.ended_pod(11, **SECOND)),
        (b.ended_pod(23, **FIRST), BOTH[1]),
    ],
)
def test_a_pod_that_ended_is_no_news_until_the_job_says_what_comes_of_it(pods):
    assert decide(under_way(), **seen(*pods)) == Decision()


@pytest.mark.parametrize("order", [1, -1])
def test_the_result_is_what_the_first_pod_left(order):
    pods = (b.ended_pod(0, b.result(), **FIRST), b.ended_pod(0, '{"outcome": "Succeeded"}', **SECOND))[::order]
    decision = decide(under_way(), **seen(*pods, job=b.job("Complete")))
    assert decision.status is not None
    assert decision.status["phase"] == Phase.SUCCEEDED
    assert decision.status["result"]["digest"] == "sha256:abc"
    assert decision.status["usage"]["gpuSeconds"] == 120


def test_a_result_that_the_first_pod_left_is_not_lost_because_another_failed():
    pods = (b.ended_pod(0, b.result(), **FIRST), b.ended_pod(23, **SECOND))
    decision = decide(under_way(), **seen(*pods, job=b.failed_job()))
    assert decision.status is not None
    assert decision.status["phase"] == Phase.SUCCEEDED
    assert decision.status["result"]["digest"] == "sha256:abc"


@pytest.mark.parametrize("wish", [{"suspend": True}, {}], ids=["suspended", "deleted by hand"])
def test_a_pod_that_has_done_its_part_is_no_success_without_the_first_one(wish):
    raw = copy.deepcopy(under_way())
    raw["spec"] |= wish
    if wish:
        raw["status"]["attempts"][0] |= {"reason": "Suspended", "message": "spec.suspend is true"}
    gone = [
        PodState.of(pod) for pod in (b.ended_pod(21, **FIRST), b.ended_pod(0, '{"outcome": "Succeeded"}', **SECOND))
    ]
    decision = decide(raw, gone=tuple(gone), confirmed=True)
    assert decision.status is not None
    assert decision.status["phase"] == (Phase.SUSPENDED if wish else Phase.STARTING)


def test_why_an_attempt_failed_is_said_once_all_of_its_pods_have_ended():
    """Another one may have the better reason; and no attempt begins before."""
    raw, failed = under_way(), b.ended_pod(23, **FIRST)
    leaving = b.running_pod(**SECOND, gone_by="2026-11-21T10:03:04Z", grace=120)
    decision = decide(raw, **seen(failed, leaving, job=b.failed_job()))
    assert (decision.actions, decision.status) == ((), None)
    assert decision.requeue_after is not None
    late = decide(raw, now=OLD + timedelta(minutes=5), **seen(failed, leaving, job=b.failed_job()))
    assert late.status is not None
    assert "node1 does not confirm it" in late.status["message"]
    decision = decide(raw, **seen(failed, b.ended_pod(137, reason="OOMKilled", **SECOND), job=b.failed_job()))
    assert decision.status is not None
    assert decision.status["attempts"][-1]["reason"] == Reason.OUT_OF_MEMORY


@pytest.mark.parametrize("others", [(), (b.ended_pod(23, **FIRST),)], ids=["alone", "lost by another"])
def test_a_pod_whose_node_does_not_confirm_its_end_is_named_while_its_job_lives(others):
    raw = under_way() if others else applied(b.finetunejob(), decide(b.finetunejob(), **seen(b.running_pod())))
    lost = b.running_pod(**(SECOND if others else FIRST), gone_by="2026-11-21T10:03:04Z", grace=120)
    decision = decide(raw, now=OLD + timedelta(minutes=5), **seen(lost, *others))
    assert decision.status is not None
    for part in ("should have ended at 2026-11-21T10:03:04Z", "node1", "kubectl delete pod"):
        assert part in decision.status["message"]


def test_one_pod_that_fails_is_another_attempt_from_the_newest_checkpoint():
    raw = under_way()
    raw["status"]["checkpoint"] = {"uri": "s3://team-a/checkpoints/00000010-0123abcd/", "step": 10}
    pods = (b.ended_pod(23, finished="2026-11-21T10:01:01Z", **FIRST), b.ended_pod(137, **SECOND))
    decision = decide(raw, **seen(*pods, job=b.failed_job()))
    assert decision.status is not None
    assert decision.status["failures"] == 1
    assert decision.status["attempts"][-1]["reason"] == Reason.TRAINER_KILLED
    assert "goes on from the newest checkpoint in attempt 1" in decision.status["message"]


def test_progress_is_what_the_first_pod_reported():
    decision = decide(under_way(), now=NOW + timedelta(seconds=60), **seen(*BOTH[::-1], report=reported(50)))
    assert decision.status is not None
    assert decision.status["progress"]["percent"] == 50


@pytest.mark.parametrize(("pods", "reason"), [(BOTH, Reason.STALLED), ((BOTH[0], b.pod(**SECOND)), None)])
def test_a_pod_that_waits_for_another_to_start_is_not_stalled(pods, reason):
    raw = b.finetunejob(resources={"nodes": 2}, runPolicy={"stallTimeout": "5m"})
    raw = applied(raw, decide(raw, now=OLD, **seen(*BOTH)))
    attempts = (decide(raw, now=OLD, **seen(*pods, still_for=400)).status or {}).get("attempts", [{}])
    assert attempts[-1].get("reason") == reason


def test_a_pod_whose_image_cannot_be_pulled_is_given_up_though_another_one_runs():
    pods = (BOTH[0], b.waiting_pod("ImagePullBackOff", "no such image", **SECOND))
    decision = decide(under_way(), now=OLD, **seen(*pods, still_for=10**6))
    assert decision.status is not None
    assert decision.status["attempts"][-1]["reason"] == Reason.IMAGE_PULL_FAILED
