"""The caches of Jobs and pods: what they tell of events and lists."""

from finetune_operator.cache import Cache
from finetune_operator.observed import PodState
from tests import builders as b


def pods(*names):
    return [PodState.of(b.pod(name=name)) for name in names]


def test_a_list_after_a_gap_tells_what_came_changed_and_left():
    told = []
    cache = Cache(told.append)
    kept, changed, gone = pods("kept", "changed", "gone")
    for pod in (kept, changed, gone):
        cache.put(pod)
    now = PodState.of(b.running_pod("changed"))
    cache.listed([kept, now, *pods("new")], None)
    assert {pod.name for pod in told} == {"changed", "gone", "new"}
    assert {pod.name for pod in cache.of(b.UID, b.NAMESPACE)} == {"kept", "changed", "new"}


def test_a_list_of_one_namespace_says_nothing_of_another():
    told = []
    cache = Cache(told.append)
    cache.put(*pods("a"))
    cache.listed([], "elsewhere")
    assert (told, len(cache)) == ([], 1)


def test_an_event_that_changes_nothing_that_is_kept_is_not_told():
    told = []
    cache = Cache(told.append)
    (pod,) = pods("a")
    for kind in ("ADDED", "MODIFIED"):
        cache.event(kind, pod)
    assert told == [pod]
    cache.event("DELETED", pod)
    assert (told, len(cache)) == ([pod, pod], 0)
