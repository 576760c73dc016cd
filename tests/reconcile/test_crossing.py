"""Caches that are behind and replicas that cross, at the moments where it would matter."""

import copy
from datetime import timedelta

from tests import builders as b
from tests.reconcile.fake import FakeCluster
from tests.reconcile.test_machine import START, Replica

LATER = START + timedelta(minutes=10)


def cluster(**sections) -> FakeCluster:
    found = FakeCluster()
    found.store("finetunejobs", b.finetunejob(**sections))
    return found


def replica(of: FakeCluster, at=LATER) -> Replica:
    return Replica(of, lambda: at)


def works(one: Replica) -> None:
    """Told everything, until it has no more to do."""
    for _ in range(5):
        one.hear_all()
        one.turn()


def running(**sections) -> FakeCluster:
    """With a Job whose pod runs, as a replica has written it down."""
    found = cluster(**sections)
    one = replica(found)
    works(one)
    found.store("pods", b.running_pod())
    works(one)
    one.stop()
    return found


def wish(of: FakeCluster, **fields) -> None:
    raw = copy.deepcopy(of.finetunejob)
    raw["spec"] |= fields
    of.store("finetunejobs", raw)


def complete(of: FakeCluster) -> None:
    of.store("pods", b.ended_pod(0, b.result()))
    (job,) = copy.deepcopy(list(of.jobs.values()))
    job["status"]["conditions"] = [b.condition("Complete")]
    of.store("jobs", job)


def test_a_job_that_completed_unseen_is_not_deleted_but_has_succeeded():
    found = running()
    behind = replica(found)
    wish(found, suspend=True)
    complete(found)
    behind.hear("finetunejobs")
    behind.turn()
    assert found.finetunejob["status"]["attempts"][0]["reason"] == "Suspended"
    behind.turn()
    assert len(found.jobs) == 1
    assert found.phases[-1] == "Succeeded"


def test_a_pod_that_no_watch_has_told_of_keeps_the_next_attempt_waiting():
    found = running()
    wish(found, suspend=True)
    one = replica(found)
    for _ in range(3):
        one.hear("finetunejobs")
        one.turn()
    assert found.jobs == {}
    one.hear_all()
    one.world.pods.drop(f"uid-of-{b.running_pod()['metadata']['name']}")  # a cache that missed it
    works(one)
    assert found.phases[-1] != "Suspended"
    wish(found, suspend=False)
    works(one)
    assert found.jobs == {}
    found.store("pods", None, next(iter(found.pods.values())))
    works(one)
    assert [job["metadata"]["name"][-2:] for job in found.jobs.values()] == ["-1"]


def test_a_job_that_one_replica_made_while_another_cancelled_is_deleted():
    found = cluster(cancel=True)
    one = replica(found)
    works(one)
    assert found.phases == ["Cancelled"]
    found.store("jobs", b.job())
    works(one)
    assert found.jobs == {}
    assert found.phases == ["Cancelled"]


def test_a_crash_between_the_word_and_the_deed_leaves_the_reason():
    found = running()
    wish(found, suspend=True)
    one = replica(found)
    one.turn()
    assert list(found.jobs)
    wish(found, suspend=False)  # a change of mind comes too late for this attempt
    other = replica(found)
    works(other)
    found.store("pods", None, next(iter(found.pods.values())))
    works(other)
    assert found.ends == {0: "Suspended"}
    assert len(found.created) == 2
