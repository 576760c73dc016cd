"""The caches: what they take for newer, what they notice after a gap."""

import asyncio
import contextlib
from datetime import UTC, datetime

import pytest

from finetune_api.run import Report
from finetune_operator.cluster import PODS, ApiError, Unreachable
from finetune_operator.observed import JobState, PodState, ReceivedReport
from finetune_operator.world import Cache, Reflector, World
from tests import builders as b
from tests.reconcile.plane import asynchronous, until

KEY = (b.NAMESPACE, "support-bot")
REPORT = Report.model_validate(b.report()).trainer_status


def world():
    changes = []
    return World(changes.append), changes


def version(found):
    return found.get(KEY)["metadata"]["resourceVersion"]


def test_an_event_is_kept_and_told():
    w, changes = world()
    w.seen("ADDED", b.finetunejob(version="7"))
    assert version(w) == "7"
    assert changes == [KEY]


def test_what_was_written_is_not_undone_by_events_from_before_it():
    w, changes = world()
    w.seen("ADDED", b.finetunejob(version="z"))
    for written in ("b", "a"):
        w.learned(b.finetunejob(version=written))
    changes.clear()
    w.seen("MODIFIED", b.finetunejob(version="b"))
    assert version(w) == "a"
    w.seen("MODIFIED", b.finetunejob(version="a"))
    assert version(w) == "a"
    assert changes == []
    w.seen("MODIFIED", b.finetunejob(version="somebody else's"))
    assert version(w) == "somebody else's"
    assert changes == [KEY]


def test_an_event_that_jumps_over_our_writes_is_newer_than_they_are():
    w, _ = world()
    w.learned(b.finetunejob(version="1"))
    w.learned(b.finetunejob(version="2"))
    w.seen("MODIFIED", b.finetunejob(version="9"))
    assert version(w) == "9"


def test_a_deletion_counts_for_the_object_it_is_about():
    w, _ = world()
    w.seen("ADDED", b.finetunejob(uid="new", version="5"))
    w.seen("DELETED", b.finetunejob(uid="old", version="4"))
    assert w.get(KEY) is not None
    w.seen("DELETED", b.finetunejob(uid="new", version="6"))
    assert w.get(KEY) is None
    assert len(w) == 0


def test_only_a_known_training_pod_may_report_and_what_it_said_goes_with_it():
    w, changes = world()
    w.seen("ADDED", b.finetunejob())
    report = ReceivedReport("uid-of-p", REPORT, datetime.now(UTC))
    assert not w.reported(report)
    w.pods.put(PodState.of(b.running_pod("p")))
    changes.clear()
    assert w.reported(report)
    assert changes == [KEY]
    assert w.observe(b.finetunejob(), 0, None).report == report
    w.pods.put(PodState.of(b.running_pod("q", created="2026-11-21T11:00:00Z")))
    assert w.observe(b.finetunejob(), 0, None).report is None


def test_of_several_pods_the_first_reports_whichever_was_made_last():
    w, _ = world()
    w.seen("ADDED", b.finetunejob())
    w.pods.put(PodState.of(b.running_pod("a", index=0)))
    w.pods.put(PodState.of(b.running_pod("b", index=1, created="2026-11-21T11:00:00Z")))
    for name in ("a", "b"):
        assert w.reported(ReceivedReport(f"uid-of-{name}", REPORT, datetime.now(UTC)))
    report = w.observe(b.finetunejob(), 0, None).report
    assert report is not None
    assert report.pod_uid == "uid-of-a"


def test_a_job_sees_the_pods_of_its_present_attempt_and_of_others_those_that_live():
    w, _ = world()
    w.seen("ADDED", b.finetunejob())
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
    pod = w.pods.drop(f"uid-of-{name}")
    w._pod_changed(pod)


def test_what_a_pod_said_last_is_remembered_until_the_next_attempt_and_no_longer():
    w, _ = world()
    w.seen("ADDED", b.finetunejob())
    w.pods.put(PodState.of(b.ended_pod(11, "line 3", name="a")))
    drop(w, "a")
    assert [pod.ended_message for pod in w.observe(b.finetunejob(), 0, None).gone] == ["line 3"]
    assert w.observe(b.finetunejob(), 1, None).gone == ()
    assert w.observe(b.finetunejob(), 0, None).gone == ()


def test_of_a_job_that_has_finished_or_is_gone_no_pod_is_remembered():
    w, _ = world()
    w.seen("ADDED", b.finetunejob())
    for name in ("a", "b"):
        w.pods.put(PodState.of(b.ended_pod(0, name=name)))
    drop(w, "a")
    w.seen("MODIFIED", b.finetunejob(version="2", status={"phase": "Succeeded"}))
    drop(w, "b")
    assert w._gone == {}
    w.drop(KEY)
    w.pods.put(PodState.of(b.ended_pod(0, name="c")))
    drop(w, "c")
    assert w._gone == {}


def test_large_parts_that_no_decision_needs_are_not_kept():
    w, _ = world()
    raw = b.finetunejob()
    raw["metadata"] |= {"managedFields": [{"manager": "x"}], "annotations": {"last-applied": "…"}}
    w.seen("ADDED", raw)
    assert not w.get(KEY)["metadata"].keys() & {"managedFields", "annotations"}


def test_a_list_after_a_gap_tells_what_came_changed_and_left():
    cache = Cache()
    kept, changed, gone = (PodState.of(b.pod(name=name)) for name in ("kept", "changed", "gone"))
    for pod in (kept, changed, gone):
        cache.put(pod)
    now = PodState.of(b.running_pod("changed"))
    new = PodState.of(b.pod(name="new"))
    assert {pod.name for pod in cache.replace([kept, now, new], None)} == {"changed", "gone", "new"}
    assert {pod.name for pod in cache.of(b.UID, b.NAMESPACE)} == {"kept", "changed", "new"}


def test_a_list_of_one_namespace_says_nothing_of_another():
    cache = Cache()
    cache.put(PodState.of(b.pod()))
    assert cache.replace([], "elsewhere") == []
    assert len(cache) == 1


class Script:
    """A cluster whose lists and watches answer by a script; then they wait for ever."""

    def __init__(self, lists, watches):
        self.lists, self.watches = list(lists), list(watches)
        self.watched_from = []

    async def list_all(self, resource, namespace, params, read):
        answer = self.lists.pop(0)
        if isinstance(answer, Exception):
            raise answer
        items, version = answer
        return [read(item) for item in items], version

    async def watch(self, resource, namespace, params, resource_version):
        self.watched_from.append(resource_version)
        for event in self.watches.pop(0) if self.watches else [None]:
            if event is None:
                await asyncio.Event().wait()
            if isinstance(event, Exception):
                raise event
            yield event


def event(kind, name, at):
    raw = b.pod(name=name)
    raw["metadata"]["resourceVersion"] = at
    return {"type": kind, "object": raw}


def bookmark(at):
    return {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": at}}}


@pytest.mark.parametrize(
    ("lists", "watches", "watched_from", "left"),
    [
        ([([], "1")], [[event("ADDED", "a", "2"), event("DELETED", "a", "3"), bookmark("9")]], ["1", "9"], set()),
        ([([b.pod(name="a")], "1")], [[event("ADDED", "c", "2")], []], ["1", "2", "2"], {"a", "c"}),
        ([([b.pod(name="a")], "1"), ([], "5")], [[ApiError(410, {"reason": "Expired"})]], ["1", "5"], set()),
        ([([], "1")], [[event("ADDED", "a", "2"), Unreachable("cut")]], ["1", "2"], {"a"}),
        ([Unreachable("away"), ([b.pod(name="a")], "1")], [], ["1"], {"a"}),
        ([([], "1"), ([b.pod(name="a")], "4")], [[ApiError(500, {"reason": "InternalError"})]], ["1", "4"], {"a"}),
    ],
    ids=["bookmark", "ended by the server", "history gone", "cut off", "unreachable at first", "failed"],
)
@asynchronous
async def test_a_watch_goes_on_where_it_can_and_lists_where_it_must(monkeypatch, lists, watches, watched_from, left):
    monkeypatch.setattr("finetune_operator.world.FIRST_PAUSE", 0.01)
    cluster, cache = Script(lists, watches), Cache()
    reflector = Reflector(cluster, PODS, None, PodState.of, cache, lambda pod: None, lambda text: None)
    task = asyncio.create_task(reflector.run())
    await until(lambda: len(cluster.watched_from) == len(watched_from))
    assert reflector.synced.is_set()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert cluster.watched_from == watched_from
    assert {pod.name for pod in cache.of(b.UID, b.NAMESPACE)} == left


def test_children_of_nobody_we_know_are_no_news():
    w, changes = world()
    cache_change = w.reflectors(None, (), print)[0]._changed
    cache_change(JobState.of(b.job()))
    assert changes == []
    w.seen("ADDED", b.finetunejob())
    cache_change(JobState.of(b.job()))
    assert changes == [KEY, KEY]
