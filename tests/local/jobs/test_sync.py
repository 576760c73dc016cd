"""Decisions about Jobs that the recording does not hold: NonIndexed, scaling, back-off, rules."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_local.jobs.backoff import Backoff
from finetune_local.jobs.failure_policy import judge
from finetune_local.jobs.pods import FINALIZER, INDEX, read_indexes, write_indexes
from finetune_local.jobs.sync import Plan, sync
from finetune_local.jobs.unsupported import unsupported_field

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def job(status: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    defaults = {
        "parallelism": 1,
        "completions": 1,
        "completionMode": "NonIndexed",
        "backoffLimit": 6,
        "podReplacementPolicy": "TerminatingOrFailed",
        "template": {"spec": {"containers": [{"name": "main"}]}},
    }
    meta = {"name": "j", "namespace": "default", "uid": "u"}
    return {"metadata": meta, "spec": defaults | spec, "status": {"startTime": "2026-11-21T11:00:00Z"} | (status or {})}


def pod(
    name: str, phase: str = "Running", index: int | None = None, code: int | None = None, **meta: Any
) -> dict[str, Any]:
    ended = {"terminated": {"exitCode": code, "finishedAt": "2026-11-21T12:00:00Z"}}
    statuses = [] if code is None else [{"name": "main", "state": ended}]
    annotations = {} if index is None else {INDEX: str(index)}
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": name,
            "finalizers": [FINALIZER],
            "creationTimestamp": "2026-11-21T11:00:00Z",
            "annotations": annotations,
            **meta,
        },
        "status": {"phase": phase, "containerStatuses": statuses},
    }


def plan(job: dict[str, Any], *pods: dict[str, Any], backoff: Backoff | None = None) -> Plan:
    return sync(job, pods, backoff or Backoff(), NOW, 10.0)


def names(pods: list[dict[str, Any]]) -> list[str]:
    return [pod["metadata"]["name"] for pod in pods]


def test_as_many_pods_run_at_once_as_asked_for() -> None:
    decided = plan(job(parallelism=2, completions=5), pod("a", "Succeeded"), pod("b"))

    assert len(decided.create) == 1
    assert names(decided.release) == ["a"]
    assert decided.settled is not None
    assert (decided.settled["active"], decided.settled["succeeded"]) == (2, 1)


def test_no_more_pods_start_than_completions_are_left() -> None:
    decided = plan(job({"succeeded": 4}, parallelism=3, completions=5))

    assert len(decided.create) == 1


def test_pods_too_many_are_deleted_without_counting() -> None:
    decided = plan(job(parallelism=1, completions=5), pod("a"), pod("b", "Pending"))

    assert names(decided.discard) == ["b"]
    assert decided.release == []
    assert decided.status is not None
    assert "failed" not in decided.status


def test_a_job_without_completions_ends_when_one_succeeded_and_none_is_left() -> None:
    queue = job(parallelism=2)
    del queue["spec"]["completions"]

    running = plan(queue, pod("a", "Succeeded"), pod("b"))
    ended = plan(queue, pod("a", "Succeeded"), pod("b", "Succeeded"))

    assert running.create == []
    assert running.settled is not None
    assert "conditions" not in running.settled
    assert ended.settled is not None
    assert [c["type"] for c in ended.settled["conditions"]] == ["SuccessCriteriaMet", "Complete"]


def test_a_missing_index_is_made_anew() -> None:
    indexed = job(completionMode="Indexed", parallelism=3, completions=3)

    decided = plan(indexed, pod("a", index=0), pod("c", "Succeeded", index=2))

    assert [made["metadata"]["annotations"][INDEX] for made in decided.create] == ["1"]
    assert decided.status is not None
    assert decided.status["completedIndexes"] == "2"


def test_a_terminating_pod_is_replaced_at_once_or_when_it_failed() -> None:
    going = pod("a", deletionTimestamp="2026-11-21T12:00:30Z", deletionGracePeriodSeconds=30)

    early = plan(job({"failed": 1}), going | {"metadata": {**going["metadata"], "finalizers": []}})
    late = plan(job(podReplacementPolicy="Failed"), going)

    assert len(early.create) == 1
    assert late.create == []
    assert late.release == []


@pytest.mark.parametrize(("failures", "seconds"), [(1, 10), (2, 20), (4, 80), (9, 600)])
def test_every_failure_doubles_the_wait(failures: int, seconds: float) -> None:
    record = Backoff(failures, NOW)

    assert record.remaining(NOW, 10.0) == seconds
    assert record.remaining(NOW + timedelta(seconds=seconds), 10.0) == 0


def test_a_success_forgets_the_failures_before_it() -> None:
    record = Backoff(3, NOW).after([pod("a", "Succeeded", code=0)], [])

    assert record == Backoff()


def test_a_failed_pod_is_replaced_after_the_wait() -> None:
    first = plan(job(), pod("a", "Failed", code=1))
    counted = job({"failed": 1})

    waiting = plan(counted, backoff=first.backoff)
    later = sync(counted, [], first.backoff, NOW + timedelta(seconds=10), 10.0)

    assert first.create == waiting.create == []
    assert waiting.requeue_after == 10
    assert len(later.create) == 1


FAIL_ON_3 = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [3]}}
COUNT_4 = {"action": "Count", "onExitCodes": {"operator": "In", "values": [4], "containerName": "main"}}
IGNORE_OTHERS = {"action": "Ignore", "onExitCodes": {"operator": "NotIn", "values": [5]}}
FAIL_ON_CONDITION = {"action": "FailJob", "onPodConditions": [{"type": "Lost", "status": "True"}]}


@pytest.mark.parametrize(
    ("rules", "code", "counts", "fails_job"),
    [
        ([], 3, True, None),
        (
            [FAIL_ON_3],
            3,
            True,
            "Container main for pod default/a failed with exit code 3 matching FailJob rule at index 0",
        ),
        ([COUNT_4, FAIL_ON_3], 4, True, None),
        ([IGNORE_OTHERS], 1, False, None),
        ([IGNORE_OTHERS], 5, True, None),
        (
            [FAIL_ON_3, IGNORE_OTHERS],
            3,
            True,
            "Container main for pod default/a failed with exit code 3 matching FailJob",
        ),
        ([FAIL_ON_CONDITION], 1, True, "Pod default/a has condition Lost matching FailJob rule at index 0"),
        ([{**FAIL_ON_3, "onExitCodes": {**FAIL_ON_3["onExitCodes"], "containerName": "x"}}], 3, True, None),
    ],
)
def test_the_first_rule_that_matches_decides(
    rules: list[dict[str, Any]], code: int, counts: bool, fails_job: str | None
) -> None:
    failed = pod("a", "Failed", code=code)
    failed["status"]["conditions"] = [{"type": "Lost", "status": "True"}]

    verdict = judge({"rules": rules}, failed)

    assert verdict.counts is counts
    assert (verdict.fails_job or "").startswith(fails_job or "")
    assert bool(verdict.fails_job) is bool(fails_job)


def test_an_ignored_failure_counts_against_nothing() -> None:
    ignoring = job(backoffLimit=0, podFailurePolicy={"rules": [IGNORE_OTHERS]})

    decided = plan(ignoring, pod("a", "Failed", code=1))

    assert names(decided.release) == ["a"]
    assert decided.status is not None
    assert "conditions" not in decided.status
    assert "failed" not in (decided.settled or decided.status)


def test_a_finished_job_is_left_alone() -> None:
    done = job({"conditions": [{"type": "Complete", "status": "True"}]})

    assert plan(done, pod("a")) == Plan()


def test_a_refused_pod_is_not_counted_as_active() -> None:
    decided = sync(job(), [], Backoff(), NOW, 10.0, may_create=False)

    assert decided.create == []
    assert decided.status is not None
    assert "active" not in decided.status


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ({}, None),
        ({"managedBy": "kueue.x-k8s.io/multikueue"}, "spec.managedBy"),
        ({"backoffLimitPerIndex": 1}, "spec.backoffLimitPerIndex"),
        ({"successPolicy": {"rules": []}}, "spec.successPolicy"),
        ({"podFailurePolicy": {"rules": [{"action": "FailIndex"}]}}, "spec.podFailurePolicy.rules[0].action FailIndex"),
    ],
)
def test_a_field_that_would_be_misread_is_named(spec: dict[str, Any], named: str | None) -> None:
    told = unsupported_field(job(**spec))

    assert (told or "").startswith(named or "")
    assert bool(told) is bool(named)


@pytest.mark.parametrize(("indexes", "text"), [(set(), ""), ({0}, "0"), ({0, 1}, "0,1"), ({1, 3, 4, 5}, "1,3-5")])
def test_completed_indexes_are_written_as_ranges(indexes: set[int], text: str) -> None:
    assert write_indexes(frozenset(indexes)) == text


@given(st.frozensets(st.integers(0, 60)))
def test_completed_indexes_are_read_as_written(indexes: frozenset[int]) -> None:
    assert read_indexes(write_indexes(indexes)) == indexes


@given(st.data())
def test_every_sync_brings_the_job_nearer_to_a_state_that_needs_none(data: st.DataObject) -> None:
    """Whatever the pods do, carrying out a plan again and again comes to rest, with no pod counted twice."""
    world = {f"p{i}": pod(f"p{i}", index=i) for i in range(3)}
    phases = st.sampled_from(["Pending", "Running", "Succeeded", "Failed"])
    for one in world.values():
        one["status"]["phase"] = data.draw(phases)
        if one["status"]["phase"] == "Failed":
            one["status"]["containerStatuses"] = pod("x", code=data.draw(st.sampled_from([1, 3])))["status"][
                "containerStatuses"
            ]
    current = job(
        completionMode="Indexed",
        parallelism=data.draw(st.integers(0, 3)),
        completions=3,
        backoffLimit=data.draw(st.integers(0, 2)),
        podReplacementPolicy="Failed",
        podFailurePolicy={"rules": [FAIL_ON_3]},
        suspend=data.draw(st.booleans()),
    )

    for _ in range(8):
        decided = plan(current, *world.values())
        for gone in (*decided.discard, *decided.delete):
            world[gone["metadata"]["name"]]["status"]["phase"] = "Failed"
        for released in (*decided.discard, *decided.release):
            world[released["metadata"]["name"]]["metadata"]["finalizers"] = []
        for i, made in enumerate(decided.create):
            fresh = f"new{len(world)}-{i}"
            world[fresh] = pod(fresh, index=int(made["metadata"]["annotations"][INDEX]))
        current["status"] = decided.settled or decided.status or current["status"]

    assert decided.status is decided.settled is None
    assert [*decided.create, *decided.discard, *decided.delete, *decided.release] == []
    assert current["status"].get("failed", 0) <= sum(one["status"]["phase"] == "Failed" for one in world.values())
    assert current["status"]["uncountedTerminatedPods"] == {}
