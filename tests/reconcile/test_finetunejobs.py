"""What is taken for newer of a FineTuneJob, and what a list says."""

import pytest

from finetune_operator.finetunejobs import FineTuneJobs, slim
from tests import builders as b

KEY = (b.NAMESPACE, "support-bot")


def finetunejobs():
    changes, settled = [], []
    return FineTuneJobs(changes.append, settled.append), changes, settled


def job(**more):
    return slim(b.finetunejob(**more))


def version(found):
    return found.get(KEY)["metadata"]["resourceVersion"]


def test_an_event_is_kept_and_told():
    f, changes, _ = finetunejobs()
    f.event("ADDED", job(version="7"))
    assert version(f) == "7"
    assert changes == [KEY]


def test_what_was_written_is_not_undone_by_events_from_before_it():
    f, changes, _ = finetunejobs()
    f.event("ADDED", job(version="z"))
    for written in ("b", "a"):
        f.learned(job(version=written))
    changes.clear()
    f.event("MODIFIED", job(version="b"))
    assert version(f) == "a"
    f.event("MODIFIED", job(version="a"))
    assert version(f) == "a"
    assert changes == []
    f.event("MODIFIED", job(version="somebody else's"))
    assert version(f) == "somebody else's"
    assert changes == [KEY]


@pytest.mark.parametrize("there_now", [None, job(uid="new", version="4")], ids=["gone", "made again"])
def test_an_answer_that_comes_after_the_news_that_it_is_gone_brings_nothing_back(there_now):
    f, _, _ = finetunejobs()
    f.event("ADDED", job(uid="old", version="1"))
    f.event("DELETED", job(uid="old", version="3"))
    if there_now:
        f.event("ADDED", there_now)
    f.learned(job(uid="old", version="2"))
    assert f.get(KEY) == there_now
    assert f.of("old", b.NAMESPACE) is None


def test_to_forget_one_that_is_gone_leaves_another_of_its_name():
    f, _, _ = finetunejobs()
    f.event("ADDED", job(uid="new", version="4"))
    assert not f.drop(job(uid="old", version="1"))
    assert f.of("new", b.NAMESPACE) == KEY
    assert f.drop(job(uid="new", version="4"))


def test_an_event_that_jumps_over_our_writes_is_newer_than_they_are():
    f, _, _ = finetunejobs()
    f.event("ADDED", job(version="0"))
    f.learned(job(version="1"))
    f.learned(job(version="2"))
    f.event("MODIFIED", job(version="9"))
    assert version(f) == "9"


def test_a_deletion_counts_for_the_object_it_is_about():
    f, _, settled = finetunejobs()
    f.event("ADDED", job(uid="new", version="5"))
    f.event("DELETED", job(uid="old", version="4"))
    assert f.get(KEY) is not None
    f.event("DELETED", job(uid="new", version="6"))
    assert (f.get(KEY), len(f), settled) == (None, 0, ["new"])


def test_a_list_tells_what_came_changed_and_left_while_nobody_watched():
    f, changes, _ = finetunejobs()
    for name in ("kept", "changed", "gone"):
        f.event("ADDED", job(name=name, uid=f"uid-{name}", version="1"))
    changes.clear()
    there = [
        job(name="kept", uid="uid-kept", version="1"),
        job(name="changed", uid="uid-changed", version="2"),
        job(name="new", uid="uid-new", version="3"),
    ]
    f.listed(there, None)
    assert {name for _, name in changes} == {"changed", "gone", "new"}
    assert {name for _, name in f} == {"kept", "changed", "new"}


def test_one_that_was_deleted_and_made_again_while_nobody_watched_is_another_one():
    f, changes, settled = finetunejobs()
    f.event("ADDED", job(uid="old", version="1"))
    f.listed([job(uid="new", version="2")], None)
    assert (f.of("old", b.NAMESPACE), f.of("new", b.NAMESPACE), settled) == (None, KEY, ["old"])
    assert changes[-1] == KEY


def test_a_list_of_one_namespace_says_nothing_of_another():
    f, _, _ = finetunejobs()
    f.event("ADDED", job())
    f.listed([], "elsewhere")
    assert f.get(KEY) is not None
    f.listed([], b.NAMESPACE)
    assert f.get(KEY) is None


def test_a_list_from_before_our_last_write_brings_no_second_turn_for_its_echo_once_it_is_newer():
    f, changes, _ = finetunejobs()
    f.event("ADDED", job(version="1"))
    f.learned(job(version="2"))
    changes.clear()
    f.listed([job(version="2")], None)
    f.event("MODIFIED", job(version="2"))
    assert (version(f), changes) == ("2", [])


def test_one_that_ends_is_told_as_settled():
    f, _, settled = finetunejobs()
    f.event("ADDED", job(version="1"))
    assert settled == []
    f.event("MODIFIED", job(version="2", status={"phase": "Succeeded"}))
    assert settled == [b.UID]


def test_large_parts_that_no_decision_needs_are_not_kept():
    f, _, _ = finetunejobs()
    raw = b.finetunejob()
    raw["metadata"] |= {"managedFields": [{"manager": "x"}], "annotations": {"last-applied": "…"}}
    f.event("ADDED", job(version="0"))
    f.learned(raw)
    assert not f.get(KEY)["metadata"].keys() & {"managedFields", "annotations"}
